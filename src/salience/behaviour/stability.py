"""Stability: whether independent training runs look at the same places."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from salience.behaviour.out_of_set import other_images
from salience.behaviour.similarity import (
    cells,
    chance_corrected,
    published_8bit,
    ranked,
    ssim_pairs,
    standardised,
    whole,
)
from salience.behaviour.traits import CRUM, OURS, Column, Measure, Statistic, nothing
from salience.behaviour.view import Array, AuditView, Floats, Numbers, blocks
from salience.errors import SettingsError

MEASURE = Measure("stability", "Do independent training runs look at the same places?", "stability across runs")
_COMMON = (
    "Maps that are the same for every image, or follow a target that all runs were given, are stable by themselves."
)

SSIM = Statistic(
    "stability",
    "published",
    "ssim",
    "higher",
    -1.0,
    1.0,
    summary="SSIM of the 8-bit maps of an image from two runs, over all pairs of runs of a group",
    fools=f"{_COMMON} Two empty maps have 1. Where runs disagree, maps of two different classes are compared.",
    reference=CRUM,
    details="Published: scikit-image's defaults (7x7 uniform window, K1 0.01, K2 0.03, data range 255) on native 8-bit "
    "maps. Grids below 7x7 have no value. Ours: a run's number is its mean over pairs with the others.",
    headline=True,
    more="are more stable across runs (SSIM as published)",
    less="are less stable across runs (SSIM as published)",
    paired=True,
)
SSIM_SPREAD = Statistic(
    "stability",
    "published",
    "ssim-sd",
    "lower",
    0.0,
    2.0,
    summary="Standard deviation over pairs of runs of an image's SSIM",
    fools="Runs that are equally unlike each other have little spread.",
    reference=CRUM,
    details="Published: mean and standard deviation. Ours: within each image, of n - 1; of three runs or more.",
)
PEARSON = Statistic(
    "stability",
    "corrected",
    "pearson",
    "higher",
    -1.0,
    1.0,
    summary="Correlation of the raw maps of an image from two runs",
    fools=_COMMON,
    reference=OURS,
    details="Ours: raw maps at the native grid; 0 where a map is constant.",
    paired=True,
)
SPEARMAN = Statistic(
    "stability",
    "corrected",
    "spearman",
    "higher",
    -1.0,
    1.0,
    summary="Rank correlation of the same two maps",
    fools=f"{_COMMON} Cells without salience are ranked by rounding noise.",
    reference=OURS,
    details="Ours: ties have mean ranks; 0 where a map is constant.",
    paired=True,
)
CHANCE = Statistic(
    "stability",
    "corrected",
    "chance",
    "neither",
    -1.0,
    1.0,
    summary="Correlation of one run's map with another run's maps of other images of the same predicted class",
    fools="It is the floor of pearson, and no score.",
    reference=OURS,
    details="Ours: the mean over all other images that the other run puts into the class of this one, and the same "
    "with the runs exchanged; no value where the image is alone in its class in both.",
    paired=True,
)
CHANCE_CORRECTED = Statistic(
    "stability",
    "corrected",
    "chance-corrected",
    "higher",
    -math.inf,
    1.0,
    summary="How far the correlation is above what maps of other images reach: 1 is identical, 0 is chance",
    fools="Runs that were guided to the same places agree by training: compare with shuffled and constant guidance.",
    reference=OURS,
    details="Ours: (pearson - chance) / (1 - chance) for each image and pair of runs.",
    headline=True,
    more="are more stable across runs",
    less="are less stable across runs",
    paired=True,
)
AGREED = Statistic(
    "stability",
    "corrected",
    "pearson-agreed",
    "higher",
    -1.0,
    1.0,
    summary="The correlation, where both runs predict the same class",
    fools="Runs that rarely agree are judged by their easiest images: read it with class-agreement.",
    reference=OURS,
    details="Ours: pairs of runs that disagree about an image have no value.",
    paired=True,
)
AGREEMENT = Statistic(
    "stability",
    "corrected",
    "class-agreement",
    "higher",
    0.0,
    1.0,
    summary="Share of images for which both runs predict the same class",
    fools="Models that always give one answer agree.",
    reference=OURS,
    details="Ours.",
    paired=True,
)
STATISTICS = (SSIM, SSIM_SPREAD, PEARSON, SPEARMAN, CHANCE, CHANCE_CORRECTED, AGREED, AGREEMENT)


@dataclass(frozen=True, eq=False)
class Stability:
    """What pairs of a group's R runs come to.

    Attributes
    ----------
    columns
        Each run's number of each image: its mean over pairs with the other runs.
    pairs
        By statistic: the mean over images (R, R), and how many images it is of (R, R).
    """

    columns: Sequence[Column]
    pairs: Mapping[Statistic, tuple[Floats, Numbers]]


def stability(view: AuditView, group: str) -> Stability:
    """Compare the maps of clean images from all pairs of runs of a group, each explaining its own prediction.

    Returns
    -------
    Stability
        Nothing where the group has one run.

    Raises
    ------
    SettingsError
        When the runs' maps differ in size.
    """
    models = list(view.groups[group])
    if len(models) < 2:
        return Stability((), {})
    h, w = _common_grid(view, group, models)
    count = len(view.image_ids)
    others = [other_images(view, model) for model in models]
    classes = np.stack([view.predicted(model) for model in models], axis=1)
    runs = {s: np.full((count, len(models)), np.nan) for s in STATISTICS if s.paired}
    spread = nothing(count)
    sums = {s: np.zeros((len(models), len(models))) for s in runs}
    counts = {s: np.zeros((len(models), len(models)), dtype=np.int64) for s in runs}
    for images in blocks(np.arange(count), len(models) * h * w):
        maps = np.stack([view.maps(model, images) for model in models], axis=1)
        flat = standardised(cells(maps))
        means = np.stack([o.mean(images, flat[:, r]) for r, o in enumerate(others)], axis=1)
        for statistic, values in compare_runs(maps, flat, means, classes[images]).items():
            runs[statistic][images] = _over_others(values)
            sums[statistic] += np.nansum(values, axis=0)
            counts[statistic] += np.isfinite(values).sum(axis=0)
            if statistic is SSIM:
                spread[images] = _spread(values)
    columns = [Column(s, model, values[:, r]) for s, values in runs.items() for r, model in enumerate(models)]
    pairs = {s: (sums[s] / np.where(counts[s] > 0, counts[s], np.nan), counts[s]) for s in runs}
    return Stability((*columns, Column(SSIM_SPREAD, None, spread)), pairs)


def compare_runs(maps: Array, flat: Floats, means: Floats, classes: Numbers) -> dict[Statistic, Floats]:
    """Return the numbers (n, R, R) of all pairs of R runs, NaN of a run with itself.

    Parameters
    ----------
    maps
        Raw maps (n, R, h, w), NaN where one is missing.
    flat
        The same, standardised: (n, R, cells).
    means
        Mean standardised map (n, R, cells) of the other images that a run puts into the class of this one.
    classes
        Predicted classes (n, R), -1 where unknown.
    """
    n, runs = classes.shape
    there = whole(maps)
    pair = there[:, :, None] & there[:, None, :] & ~np.eye(runs, dtype=bool)
    filled = np.where(there[..., None, None], maps, 0)
    eight = published_8bit(filled.reshape(n * runs, *maps.shape[2:]))[0].reshape(maps.shape)
    ranks = ranked(cells(filled))
    alike = np.clip(flat @ flat.swapaxes(1, 2), -1, 1)
    one_way = flat @ means.swapaxes(1, 2)
    other_way = one_way.swapaxes(1, 2)
    # Replacing the image in one run, and in the other; where only one of them has others in its class, that one.
    chance = np.where(np.isnan(one_way), other_way, np.where(np.isnan(other_way), one_way, (one_way + other_way) / 2))
    agree = (classes[:, :, None] == classes[:, None, :]) & (classes >= 0)[:, :, None]
    found = {
        SSIM: ssim_pairs(eight),
        PEARSON: alike,
        SPEARMAN: np.clip(ranks @ ranks.swapaxes(1, 2), -1, 1),
        CHANCE: chance,
        CHANCE_CORRECTED: chance_corrected(alike, chance),
        AGREED: np.where(agree, alike, np.nan),
        AGREEMENT: agree.astype(np.float64),
    }
    return {statistic: np.where(pair, values, np.nan) for statistic, values in found.items()}


def _over_others(values: Floats) -> Floats:
    """Return the mean (n, R) of each run over the pairs (n, R, R) that it has; NaN where it has none."""
    known = np.isfinite(values)
    count = known.sum(axis=2)
    found: Floats = np.where(known, values, 0).sum(axis=2) / np.where(count > 0, count, np.nan)
    return found


def _spread(values: Floats) -> Floats:
    """Return the standard deviation (n,) over pairs of runs (n, R, R); NaN where fewer than two pairs are known."""
    upper = values[:, *np.triu_indices(values.shape[1], 1)]
    known = np.isfinite(upper)
    count = known.sum(axis=1)
    mean = np.where(known, upper, 0).sum(axis=1) / np.maximum(count, 1)
    squares = np.where(known, (upper - mean[:, None]) ** 2, 0).sum(axis=1)
    return np.where(count > 1, np.sqrt(squares / np.maximum(count - 1, 1)), np.nan)


def _common_grid(view: AuditView, group: str, models: Sequence[str]) -> tuple[int, int]:
    grids = {model: view.grid(model) for model in models}
    if len(set(grids.values())) > 1:
        told = ", ".join(f"{model} {h}x{w}" for model, (h, w) in grids.items())
        raise SettingsError(
            f"The runs of group {group!r} have maps of different sizes ({told}): stability compares them cell by cell. "
            "Runs of one recipe have one architecture; give each architecture a group of its own."
        )
    return next(iter(grids.values()))
