"""Geometry: whether the salience follows the image when it is turned, shifted or scaled."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from salience.behaviour.entropy import is_empty, no_contrast
from salience.behaviour.out_of_set import prediction_kept
from salience.behaviour.similarity import measured, pearson, published_8bit, ssim, whole
from salience.behaviour.traits import CRUM, OURS, Column, Measure, Statistic, by_condition, empty_maps, nothing
from salience.behaviour.view import Aligned, Array, AuditView, ConditionTraits, Floats, Numbers

MEASURE = Measure(
    "geometry",
    "Does the salience follow the image when it is turned, shifted or scaled?",
    "equivariance of maps",
)
CRABBE = "Crabbe and van der Schaar, NeurIPS 2023 (arXiv 2304.06715)"

SSIM = Statistic(
    "geometry",
    "published",
    "ssim",
    "higher",
    -1.0,
    1.0,
    summary="SSIM of the 8-bit map of the image and the map of the changed image with the change undone",
    fools="A map that ignores the change still scores: 16 px are half a cell of a 7x7 map (0.8 to 0.9), and a centred "
    "map has 1 under a flip. Read it with static-floor.",
    reference=CRUM,
    details="Published: two flips, two right angles, eight shifts by 16 px. Inferred: SSIM, with scikit-image's "
    "defaults, and the predicted class of each image. Ours: flips and right angles on the native grid, shifts on "
    "enlarged 8-bit maps over the area that both images show. Native grids below 7x7 have no value under flips.",
    headline=True,
    more="follow flips, turns and shifts better (SSIM as published)",
    less="follow flips, turns and shifts less (SSIM as published)",
)
SSIM_FLOOR = Statistic(
    "geometry",
    "published",
    "static-floor",
    "neither",
    -1.0,
    1.0,
    summary="The SSIM that the same maps would have if they ignored the change",
    fools="It is the floor of ssim, and no score.",
    reference=OURS,
    details="Ours: the map of the unchanged image in the place of the changed image's.",
)
EMPTY_8BIT = empty_maps("geometry", "published")
EQUIVARIANCE = Statistic(
    "geometry",
    "corrected",
    "equivariance",
    "higher",
    -1.0,
    1.0,
    summary="Correlation of the map with the changed image's map, the change undone, the same class explained in both",
    fools="Maps that are centred, symmetric or smooth follow without moving: read it with static-floor and gain.",
    reference=CRABBE,
    details="Published: the mean over transforms of the cosine of T e(x) and e(T x). Ours: on centred maps (Pearson), "
    "over the area that both images show.",
)
FLOOR = Statistic(
    "geometry",
    "corrected",
    "static-floor",
    "neither",
    -1.0,
    1.0,
    summary="The correlation that the same maps would have if they ignored the change",
    fools="It is the floor of equivariance, and no score.",
    reference=OURS,
    details="Ours: the map of the unchanged image in the place of the changed image's.",
)
GAIN = Statistic(
    "geometry",
    "corrected",
    "gain",
    "higher",
    -2.0,
    2.0,
    summary="Equivariance less its static floor: how much better the maps follow than maps that do not move",
    fools="Maps with a high floor have little left to gain: a perfectly symmetric one gains 0 and may follow well.",
    reference=OURS,
    details="Ours.",
    headline=True,
    more="follow geometric changes better (beyond maps that do not move)",
    less="follow geometric changes less (beyond maps that do not move)",
)
KEPT = Statistic(
    "geometry",
    "corrected",
    "prediction-kept",
    "higher",
    0.0,
    1.0,
    summary="Share of images whose predicted class did not change: the model's own invariance",
    fools="A model that always answers the same keeps its answer.",
    reference=CRABBE,
    details="Published: model invariance beside equivariance. Ours: as agreement of predictions.",
)
COSINE = Statistic(
    "geometry",
    "corrected",
    "logit-cosine",
    "higher",
    -1.0,
    1.0,
    summary="Cosine of the logits of the image and of the changed image",
    fools="Logits with a large part in common (a bias) are alike whatever the image.",
    reference=CRABBE,
    details="Published: the cosine of the outputs as model invariance. Ours: of the logits.",
)
EMPTY = empty_maps("geometry", "corrected")
STATISTICS = (SSIM, SSIM_FLOOR, EMPTY_8BIT, EQUIVARIANCE, FLOOR, GAIN, KEPT, COSINE, EMPTY)


def geometry_columns(view: AuditView, model: str) -> Iterator[Column]:
    """Yield how a model's maps follow each change of geometry, in both forms."""
    yield from by_condition(view, model, "geometry", _followed)


def _followed(
    view: AuditView, model: str, images: Numbers, condition: ConditionTraits
) -> Iterator[tuple[Statistic, Floats]]:
    """Yield the numbers of some images under one condition."""
    clean = view.maps(model, images)
    if condition.published:
        own = view.maps(model, images, condition.name, fixed=False)
        yield from _as_published(view, model, condition.name, clean, own)
    changed = view.maps(model, images, condition.name)
    maps = view.align(model, condition.name, clean, changed)
    follows = measured(lambda a, b: pearson(a, b, maps.valid), maps.before, maps.after)
    stays = measured(lambda a, b: pearson(a, b, maps.valid), maps.before, maps.static)
    yield EQUIVARIANCE, follows
    yield FLOOR, stays
    yield GAIN, follows - stays
    yield KEPT, prediction_kept(view, model, images, condition.name)
    yield COSINE, cosine(view.logits(model, images), view.logits(model, images, condition.name))
    yield EMPTY, measured(is_empty, changed)


def _as_published(
    view: AuditView, model: str, condition: str, clean: Array, own: Array
) -> Iterator[tuple[Statistic, Floats]]:
    there = whole(clean, own)
    follows, stays = nothing(len(there)), nothing(len(there))
    if there.any():
        maps = align_8bit(view, model, condition, clean[there], own[there])
        follows[there] = ssim(maps.before, maps.after, valid=maps.valid)
        stays[there] = ssim(maps.before, maps.static, valid=maps.valid)
    yield SSIM, follows
    yield SSIM_FLOOR, stays
    yield EMPTY_8BIT, measured(no_contrast, own)


def align_8bit(view: AuditView, model: str, condition: str, clean: Array, changed: Array) -> Aligned:
    """Return the published 8-bit forms of raw maps (n, h, w) on the grid where they can be compared, 0 to 255."""
    first, second = (published_8bit(maps)[0].astype(np.float32) for maps in (clean, changed))
    return view.align(model, condition, first, second)


def cosine(first: Array, second: Array) -> Floats:
    """Return the cosine (n,) of rows (n, C); NaN where one is missing or zero."""
    a, b = first.astype(np.float64), second.astype(np.float64)
    length = np.sqrt((a * a).sum(axis=1) * (b * b).sum(axis=1))
    found: Floats = (a * b).sum(axis=1) / np.where(length > 0, length, np.nan)
    return np.clip(found, -1, 1)
