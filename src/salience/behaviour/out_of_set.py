"""Out-of-set: whether the salience stays where it is when the image is disturbed."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from salience.behaviour.entropy import is_empty, no_contrast
from salience.behaviour.similarity import (
    OtherImages,
    cells,
    chance_corrected,
    measured,
    spearman,
    ssim_8bit,
    standardised,
)
from salience.behaviour.traits import CRUM, OURS, Column, Measure, Statistic, empty_maps, nothing
from salience.behaviour.view import Array, AuditView, ConditionTraits, Floats, Numbers, blocks

MEASURE = Measure(
    "out-of-set",
    "Does the salience stay where it is when the image is disturbed, and what does it do on other images?",
    "robustness of maps to disturbed images",
)
_SAME_FOR_ALL = "A map that is the same for every image is never moved by noise and has 1; see chance-corrected."

SSIM = Statistic(
    "out-of-set",
    "published",
    "ssim",
    "higher",
    -1.0,
    1.0,
    summary="SSIM of the 8-bit maps of the clean image and of the image with salt-and-pepper noise",
    fools=f"{_SAME_FOR_ALL} Where the prediction changed, maps of two different classes are compared. A 7x7 map is "
    "one SSIM window: one number of means, variances and a covariance.",
    reference=CRUM,
    details="Published: salt-and-pepper noise in amounts 0 (value 1, not computed) to 1 at the native image size, maps "
    "of the predicted class. Inferred: SSIM, with scikit-image's defaults. Grids below 7x7 have no value.",
    headline=True,
    more="keep their maps better under salt-and-pepper noise (SSIM as published)",
    less="keep their maps less under salt-and-pepper noise (SSIM as published)",
)
EMPTY_8BIT = empty_maps("out-of-set", "published")
PEARSON = Statistic(
    "out-of-set",
    "corrected",
    "pearson",
    "higher",
    -1.0,
    1.0,
    summary="Correlation of the raw maps of the clean and the disturbed image, the same class explained in both",
    fools=_SAME_FOR_ALL,
    reference=OURS,
    details="Ours: raw maps at the native grid, class predicted for the clean image; 0 where a map is constant.",
)
SPEARMAN = Statistic(
    "out-of-set",
    "corrected",
    "spearman",
    "higher",
    -1.0,
    1.0,
    summary="Rank correlation of the same two maps: blind to how large the peaks are",
    fools=f"{_SAME_FOR_ALL} Cells without salience are ranked by rounding noise.",
    reference=OURS,
    details="Ours: ties have mean ranks; 0 where a map is constant.",
)
SSIM_FIXED = Statistic(
    "out-of-set",
    "corrected",
    "ssim-fixed",
    "higher",
    -1.0,
    1.0,
    summary="SSIM of the 8-bit maps of the clean and the disturbed image, the same class explained in both",
    fools=_SAME_FOR_ALL,
    reference=OURS,
    details="Ours: the published number but for the class. Grids below 7x7 have no value.",
)
CHANCE = Statistic(
    "out-of-set",
    "corrected",
    "chance",
    "neither",
    -1.0,
    1.0,
    summary="Correlation of the disturbed image's map with clean maps of other images of the same predicted class",
    fools="It is the floor of pearson, and no score.",
    reference=OURS,
    details="Ours: the mean over all other images of the class; no value where an image is alone in its class.",
)
CHANCE_CORRECTED = Statistic(
    "out-of-set",
    "corrected",
    "chance-corrected",
    "higher",
    -math.inf,
    1.0,
    summary="How far the correlation is above what other images' maps reach: 1 is unmoved, 0 is no better than chance",
    fools="Where all images have nearly the same map, it divides by nearly nothing and spreads widely.",
    reference=OURS,
    details="Ours: (pearson - chance) / (1 - chance) for each image.",
    headline=True,
    more="keep their maps better under noise and corruption (beyond chance)",
    less="keep their maps less under noise and corruption (beyond chance)",
)
UNCHANGED = Statistic(
    "out-of-set",
    "corrected",
    "pearson-unchanged",
    "higher",
    -1.0,
    1.0,
    summary="The correlation, of images whose prediction did not change",
    fools="A model that rarely keeps its prediction is judged by its easiest images: read it with prediction-kept.",
    reference=OURS,
    details="Ours: images whose prediction changed have no value.",
)
KEPT = Statistic(
    "out-of-set",
    "corrected",
    "prediction-kept",
    "higher",
    0.0,
    1.0,
    summary="Share of images whose predicted class did not change",
    fools="A model that always answers the same keeps its answer.",
    reference=OURS,
    details="Ours.",
)
EMPTY = empty_maps("out-of-set", "corrected")

STATISTICS = (
    SSIM,
    EMPTY_8BIT,
    PEARSON,
    SPEARMAN,
    SSIM_FIXED,
    CHANCE,
    CHANCE_CORRECTED,
    UNCHANGED,
    KEPT,
    EMPTY,
)


def other_images(view: AuditView, model: str) -> OtherImages:
    """Return the clean maps of a model, summed by the class that it predicts."""
    h, w = view.grid(model)
    others = OtherImages(view.predicted(model), h * w)
    for images in blocks(np.arange(len(view.image_ids)), h * w):
        others.add(images, standardised(cells(view.maps(model, images))))
    return others


def out_of_set_columns(view: AuditView, model: str) -> Iterator[Column]:
    """Yield how a model's maps withstand each disturbance, in both forms."""
    conditions = view.conditions("out-of-set")
    if not conditions:
        return
    count = len(view.image_ids)
    others = other_images(view, model)
    out: dict[tuple[Statistic, str], Floats] = {}
    for images in blocks(np.arange(count), view.grid(model)[0] * view.grid(model)[1]):
        clean = view.maps(model, images)
        for condition in conditions:
            for statistic, values in _disturbed(view, model, images, clean, condition, others):
                out.setdefault((statistic, condition.name), nothing(count))[images] = values
    for (statistic, name), values in out.items():
        yield Column(statistic, model, values, name)


def _disturbed(
    view: AuditView,
    model: str,
    images: Numbers,
    clean: Array,
    condition: ConditionTraits,
    others: OtherImages,
) -> Iterator[tuple[Statistic, Floats]]:
    """Yield the numbers of some images under one condition."""
    if condition.published:
        own = view.maps(model, images, condition.name, fixed=False)
        yield SSIM, measured(ssim_8bit, clean, own)
        yield EMPTY_8BIT, measured(no_contrast, own)
    changed = view.maps(model, images, condition.name)
    before, after = standardised(cells(clean)), standardised(cells(changed))
    alike = np.clip((before * after).sum(axis=1), -1, 1)
    chance = (others.mean(images, before) * after).sum(axis=1)
    kept = prediction_kept(view, model, images, condition.name)
    yield PEARSON, alike
    yield SPEARMAN, measured(spearman, clean, changed)
    yield SSIM_FIXED, measured(ssim_8bit, clean, changed)
    yield CHANCE, chance
    yield CHANCE_CORRECTED, chance_corrected(alike, chance)
    yield UNCHANGED, np.where(kept == 1, alike, np.nan)
    yield KEPT, kept
    yield EMPTY, measured(is_empty, changed)


def prediction_kept(view: AuditView, model: str, images: Numbers, condition: str) -> Floats:
    """Return 1 where the predicted class of images (n,) did not change, else 0; NaN where one is not known."""
    before, after = view.predicted(model)[images], view.predicted(model, condition)[images]
    return np.where((before < 0) | (after < 0), np.nan, (before == after).astype(np.float64))
