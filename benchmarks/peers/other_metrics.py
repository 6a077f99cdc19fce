"""Metrics of pytorch-grad-cam and XAITK-saliency."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

import salience
from salience.store.views import min_max

from .case import ROAD_POINTS, MetricCase, Score, Scored, curve, value
from .scene import Floats, FromPixels, How, floats


def confidence(name: str) -> Any:
    """Return what makes pytorch-grad-cam's drop or increase of the probability under the map."""

    def make(scored: Scored, how: How) -> Score:
        from pytorch_grad_cam.metrics import cam_mult_image

        return _judged(getattr(cam_mult_image, name)(), scored, how)

    return make


def road(scored: Scored, how: How) -> Score:
    """ROAD's mean change of the probability, the most salient pixels removed first."""
    from pytorch_grad_cam.metrics.road import ROADMostRelevantFirstAverage

    percentiles = [100 * k / ROAD_POINTS for k in range(1, ROAD_POINTS)]
    return _judged(ROADMostRelevantFirstAverage(percentiles), scored, how)


def _judged(metric: Any, scored: Scored, how: How) -> Score:
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputSoftmaxTarget

    model, scene = FromPixels(scored.scene.classifier).eval(), scored.scene.laid_out(how)
    cams = min_max(scored.maps)

    def score() -> Floats:
        found = []
        for rows in scene.rows(how.batch):
            targets = [ClassifierOutputSoftmaxTarget(int(t)) for t in scene.targets[rows]]
            found.append(metric(scene.pixels[rows], cams[rows], targets, model))
        return floats(np.concatenate(found))

    return score


def dropped(found: Floats, scored: Scored) -> Floats:
    """Undo salience's division by the probability of the whole image."""
    return found * scored.probabilities


def mean_change(scores: salience.Scores, scored: Scored) -> Floats:
    """Read the mean change of the probability over the inner points of the curve."""
    found = curve("delete")(scores, scored)
    change: Floats = (found[:, 1:-1] - found[:, :1]).mean(1)
    return change


def entropy(scored: Scored, how: How) -> Score:
    """XAITK's entropy in bits, of maps scaled to their maxima and cut to [0, 1], image by image."""
    from xaitk_saliency.impls.saliency_metric.entropy import Entropy

    metric = Entropy(clip_range=(0.0, 1.0))
    maps = scored.maps / scored.maps.max(axis=(1, 2), keepdims=True)
    return lambda: np.array([metric.compute(m) for m in maps], dtype=np.float64)


def in_bits(found: Floats, scored: Scored) -> Floats:
    """Undo salience's division of the entropy by its largest value."""
    return found * math.log2(scored.maps[0].size)


CASES = (
    MetricCase(
        ("average-drop",),
        "DropInConfidence",
        "pytorch_grad_cam",
        confidence("DropInConfidence"),
        value("average-drop", dropped),
        calls=1,
        remark="times the probability, by which the paper and salience divide",
    ),
    MetricCase(
        ("increase",),
        "IncreaseInConfidence",
        "pytorch_grad_cam",
        confidence("IncreaseInConfidence"),
        value("increase"),
        calls=1,
    ),
    MetricCase(
        (f"deletion:points={ROAD_POINTS}",),
        "ROADMostRelevantFirstAverage",
        "pytorch_grad_cam",
        road,
        mean_change,
        calls=ROAD_POINTS - 1,
        background="road",
        seeds=True,
        remark="the imputation's noise is drawn anew",
    ),
    MetricCase(("entropy",), "Entropy, not negative", "xaitk_saliency", entropy, value("entropy", in_bits)),
)
