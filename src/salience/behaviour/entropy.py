"""Entropy: how focused the salience is."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt

from salience.behaviour.similarity import measured, published_8bit
from salience.behaviour.spatial import gini, half_mass_area, spatial_entropy
from salience.behaviour.traits import CRUM, OURS, Column, Measure, Statistic, empty_maps, nothing
from salience.behaviour.view import Array, AuditView, Floats, blocks

MEASURE = Measure("entropy", "How focused is the salience?", "focus")

HISTOGRAM = Statistic(
    "entropy",
    "published",
    "histogram-entropy",
    "neither",
    0.0,
    1.0,
    summary="Entropy of the grey values of the 8-bit map, over the largest that so many cells can have: how many "
    "different values the map holds",
    fools="It is blind to where values are and how large: a constant map has 0, as if it were perfectly focused, one "
    "sharp peak over many tiny different values has 1, and the cells may be shuffled at will.",
    reference=CRUM,
    details="Published: base 2, native 8-bit map, over min(log2(cells), 8). Ours: a map without contrast has 0.",
    headline=True,
    more="have maps with more different grey values (entropy as published)",
    less="have maps with fewer different grey values (entropy as published)",
)
SPATIAL = Statistic(
    "entropy",
    "corrected",
    "spatial-entropy",
    "neither",
    0.0,
    1.0,
    summary="Entropy of where the map's absolute values are: 0 is one cell, 1 is evenly spread",
    fools="Focus is not right or wrong by itself: a map may be focused on the wrong thing. Two far peaks count like "
    "one of twice the size.",
    reference="Bhatt et al., IJCAI 2020 (arXiv 2005.00631)",
    details="Published: entropy of the fractions that cells contribute. Ours: over the logarithm of their number, at "
    "the native grid; a map of zeros has 1.",
    headline=True,
    more="spread their salience over more of the image",
    less="focus their salience on less of the image",
)
GINI = Statistic(
    "entropy",
    "corrected",
    "gini",
    "neither",
    0.0,
    1.0,
    summary="Gini index of the map's absolute values: 0 is evenly spread, near 1 is one cell",
    fools="The largest possible value, 1 - 1/cells, depends on the grid: compare only maps of one size.",
    reference="Chalasani et al., ICML 2020 (arXiv 1810.06583)",
    details="Published: the index of the sorted absolute attributions. Ours: at the native grid; a map of zeros has 0.",
)
HALF_MASS = Statistic(
    "entropy",
    "corrected",
    "half-mass-area",
    "neither",
    0.0,
    0.5,
    summary="Smallest share of the image that holds half of the map's absolute values",
    fools="It does not see how the other half is spread.",
    reference=OURS,
    details="Ours: the last cell counts in part, so a constant map has 0.5; a map of zeros has 0.5.",
)
EMPTY_8BIT = empty_maps("entropy", "published")
EMPTY = empty_maps("entropy", "corrected")
STATISTICS = (HISTOGRAM, EMPTY_8BIT, SPATIAL, GINI, HALF_MASS, EMPTY)


def histogram_entropy(maps: npt.NDArray[np.uint8]) -> Floats:
    """Return the entropy (N,) of the grey values of 8-bit maps (N, h, w), as published: 0 to 1.

    ``-sum_v p_v log2 p_v / min(log2(h w), 8)``, ``p_v`` the share of cells with value v. One cell has 0.
    """
    cells = maps.shape[1] * maps.shape[2]
    place = np.arange(len(maps))[:, None] * 256 + maps.reshape(len(maps), -1)
    share = np.bincount(place.ravel(), minlength=256 * len(maps)).reshape(-1, 256) / cells
    bits = -(share * np.log2(share, out=np.zeros_like(share), where=share > 0)).sum(axis=1)
    found: Floats = np.clip(bits / min(np.log2(max(2, cells)), 8.0), 0, 1)
    return found


def of_8bit(maps: Array) -> Floats:
    """Return the published entropy (N,) of raw maps (N, h, w)."""
    return histogram_entropy(published_8bit(maps)[0])


def no_contrast(maps: Array) -> Floats:
    """Return 1 for raw maps (N, h, w) whose published form is empty, else 0: (N,)."""
    return published_8bit(maps)[1].astype(np.float64)


def is_empty(maps: Array) -> Floats:
    """Return 1 for maps (N, h, w) that are zero everywhere, else 0: (N,)."""
    found: Floats = (maps == 0).all(axis=(1, 2)).astype(np.float64)
    return found


def entropy_columns(view: AuditView, model: str) -> Iterator[Column]:
    """Yield the entropy of a model's maps of clean images, in both forms."""
    formulas: list[tuple[Statistic, Callable[[Array], Floats]]] = [
        (HISTOGRAM, of_8bit),
        (EMPTY_8BIT, no_contrast),
        (SPATIAL, spatial_entropy),
        (GINI, gini),
        (HALF_MASS, half_mass_area),
        (EMPTY, is_empty),
    ]
    values = of_maps(view, model, [formula for _, formula in formulas])
    for (statistic, _), found in zip(formulas, values, strict=True):
        yield Column(statistic, model, found)


def of_maps(view: AuditView, model: str, formulas: list[Callable[[Array], Floats]]) -> list[Floats]:
    """Return what formulas make of each of a model's maps of clean images, (N,) for each; NaN where there is no map."""
    count = len(view.image_ids)
    out = [nothing(count) for _ in formulas]
    h, w = view.grid(model)
    for images in blocks(np.arange(count), max(256, h * w)):
        maps = view.maps(model, images)
        for values, formula in zip(out, formulas, strict=True):
            values[images] = measured(formula, maps)
    return out
