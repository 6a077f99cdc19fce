"""Out-of-set, the second half: what the salience and the confidence do on another dataset."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from salience.behaviour.entropy import HISTOGRAM, SPATIAL, of_8bit, of_maps
from salience.behaviour.spatial import spatial_entropy
from salience.behaviour.traits import CRUM, Column, Statistic, nothing
from salience.behaviour.view import AuditView, Floats, blocks, probabilities

_CLASSES = 1000
"""Logits are read in blocks as if there were so many."""
_BY_DATASET = "of images of the first dataset (condition clean) and of the second (condition out-of-set)"
HISTOGRAM_ENTROPY = replace(
    HISTOGRAM,
    measure="out-of-set",
    summary=f"Entropy of the 8-bit map's grey values, {_BY_DATASET}",
    headline=False,
    more="",
    less="",
    averaged=False,
)
SPATIAL_ENTROPY = replace(
    SPATIAL,
    measure="out-of-set",
    summary=f"Entropy of where the map's absolute values are, {_BY_DATASET}",
    headline=False,
    more="",
    less="",
    averaged=False,
)
CONFIDENCE = Statistic(
    "out-of-set",
    "corrected",
    "confidence",
    "neither",
    0.0,
    1.0,
    summary=f"Probability of the predicted class, {_BY_DATASET}",
    fools="Confidence is not accuracy: a poorly calibrated model may be sure of anything.",
    reference=CRUM,
    details="Published: the question of samples out of the set. Ours: softmax, the largest probability.",
    averaged=False,
)
_DELTA = "Cliff's delta, P(out-of-set is larger) - P(in-set is larger), of"
_DELTA_FOOLS = "It says that the datasets differ, not which of their differences the model reacts to."
_CLIFF = "Cliff, Psychological Bulletin 1993"
_DELTA_DETAILS = "Ours: one number a run over all images; its p-value is of the Mann-Whitney test in these runs."
HISTOGRAM_SHIFT = Statistic(
    "out-of-set",
    "published",
    "histogram-entropy-shift",
    "neither",
    -1.0,
    1.0,
    summary=f"{_DELTA} the published entropy: how the second dataset's maps differ from the first's",
    fools=_DELTA_FOOLS,
    reference=_CLIFF,
    details=_DELTA_DETAILS,
    averaged=False,
)
SPATIAL_SHIFT = replace(
    HISTOGRAM_SHIFT,
    form="corrected",
    name="spatial-entropy-shift",
    summary=f"{_DELTA} the spatial entropy: above 0 where maps are less focused on the second dataset",
)
CONFIDENCE_SHIFT = replace(
    SPATIAL_SHIFT,
    name="confidence-shift",
    direction="lower",
    summary=f"{_DELTA} the confidence: below 0 where the model is less sure on the second dataset",
    fools="A model that is less sure everywhere out of the set may still be wrong with confidence where it matters.",
)
SHIFTS = {
    HISTOGRAM_ENTROPY.key: HISTOGRAM_SHIFT,
    SPATIAL_ENTROPY.key: SPATIAL_SHIFT,
    CONFIDENCE.key: CONFIDENCE_SHIFT,
}
"""What is compared between datasets, and the statistic that compares it."""

STATISTICS = (
    HISTOGRAM_ENTROPY,
    HISTOGRAM_SHIFT,
    SPATIAL_ENTROPY,
    SPATIAL_SHIFT,
    CONFIDENCE,
    CONFIDENCE_SHIFT,
)


def dataset_columns(view: AuditView, model: str, condition: str) -> Iterator[Column]:
    """Yield entropy and confidence of a model on one dataset, under the name that tells which."""
    entropies = of_maps(view, model, [of_8bit, spatial_entropy])
    for statistic, values in zip((HISTOGRAM_ENTROPY, SPATIAL_ENTROPY), entropies, strict=True):
        yield Column(statistic, model, values, condition)
    yield Column(CONFIDENCE, model, confidence(view, model), condition)


def confidence(view: AuditView, model: str) -> Floats:
    """Return the largest probability of each image (N,), NaN where there is no answer."""
    out = nothing(len(view.image_ids))
    for images in blocks(np.arange(len(out)), _CLASSES):
        out[images] = probabilities(view.logits(model, images)).max(axis=1)
    return out
