"""Metrics of Quantus that mean what salience's mean."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

import salience
from salience.engine.masked import falling_ranks, tie_order

from .captum_metrics import DRAWS, moved, scored_map
from .case import METHOD, ROAD_POINTS, MetricCase, Score, Scored, curve, value
from .scene import Floats, FromNormalised, FromPixels, How, floats

POINTS = 32
"""Steps that divide the pixels of a square image of 32 or 224: then both ends of a curve have the same points."""
CALL = {"channel_first": True}
SETTINGS: dict[str, Any] = {"normalise": False, "disable_warnings": True}


def asked(metric: Any, scored: Scored, how: How, model: nn.Module, x: npt.NDArray[np.float32], **more: Any) -> Any:
    """Call a metric as its documentation does."""
    given = {"x_batch": x, "y_batch": scored.scene.targets, "a_batch": scored.maps[:, None], **more}
    device = str(scored.scene.classifier.device)
    return metric(model=model, device=device, batch_size=how.batch, **CALL, **given)


def pixels(scored: Scored) -> npt.NDArray[np.float32]:
    """Return the images in [0, 1]."""
    return scored.scene.pixels.float().cpu().contiguous().numpy()


def normalised(scored: Scored) -> npt.NDArray[np.float32]:
    """Return what the module takes."""
    return scored.scene.classifier.normalise(scored.scene.pixels).float().cpu().contiguous().numpy()


# ---------------------------------------------------------------------- deleting pixels


def flipping(least_first: bool) -> Any:
    """Return what makes pixel flipping: the most salient pixels first, or the least salient ones."""

    def make(scored: Scored, how: How) -> Score:
        return _flipping(scored if not least_first else _upside_down(scored), how)

    return make


def flipping_both_ways(scored: Scored, how: How) -> Score:
    """Flip from both ends, for what salience reads from one sweep."""
    most, least = _flipping(scored, how), _flipping(_upside_down(scored), how)
    return lambda: np.concatenate([most(), least()], 1)


def _flipping(scored: Scored, how: How) -> Score:
    """Delete features to zero in the normalised space; return probabilities (N, points).

    It deletes features, not pixels: with the map repeated over the channels and a step of three features a pixel,
    whole pixels go. Its check that the step divides the number of pixels takes features for pixels and is left out.
    """
    import quantus

    scored = replace(scored, maps=places(scored))
    step = -(-scored.maps[0].size // POINTS)
    metric = quantus.PixelFlipping(features_in_step=3 * step, perturb_baseline=0.0, **SETTINGS)
    metric.custom_preprocess = lambda **_: None
    model, x = FromNormalised(scored.scene.classifier).eval(), normalised(scored)
    return lambda: np.asarray(asked(metric, scored, how, model, x, softmax=True), dtype=np.float64)


def _upside_down(scored: Scored) -> Scored:
    return replace(scored, maps=-places(scored))


def places(scored: Scored) -> npt.NDArray[np.float32]:
    """Return each pixel's place from the least salient one on, (N, H, W); equal values as salience has them."""
    maps = torch.from_numpy(scored.maps)
    ranks = falling_ranks(maps, tie_order(scored.scene.ids, maps[0].numel(), seed=0, device="cpu"))
    return (maps[0].numel() - 1 - ranks).float().numpy()


def deleted(scores: salience.Scores, scored: Scored) -> Floats:
    """Read the curve without its first point, the whole image, which the peer leaves out."""
    return curve("delete")(scores, scored)[:, 1:]


def inserted(scores: salience.Scores, scored: Scored) -> Floats:
    """Read the curve in the order of the peer, which deletes the least salient pixels first."""
    return curve("keep")(scores, scored)[:, ::-1][:, 1:]


def both_ways(scores: salience.Scores, scored: Scored) -> Floats:
    """Read both."""
    return np.concatenate([deleted(scores, scored), inserted(scores, scored)], 1)


def road(scored: Scored, how: How) -> Score:
    """ROAD: the share of images that keep their class, (percentages,), over all images.

    It counts features and imputes pixels, which raises an IndexError on colour images: here it is given three times
    the percentages, and its imputation the pixels of its features. It averages over its first batch alone, so all
    images are one.
    """
    import quantus
    from quantus.functions.perturb_func import noisy_linear_imputation

    size = scored.maps[0].size
    percentages = [100 * k / ROAD_POINTS for k in range(1, ROAD_POINTS)]

    def impute(arr: npt.NDArray[np.float32], indices: npt.NDArray[np.int64], **_: Any) -> Any:
        return noisy_linear_imputation(arr=arr, indices=np.unique(indices % size), noise=0.01)

    metric = quantus.ROAD(percentages=[3 * p for p in percentages], perturb_func=impute, **SETTINGS)
    model, x = FromPixels(scored.scene.classifier).eval(), pixels(scored)

    def score() -> Floats:
        given = {"model": model, "x_batch": x, "y_batch": scored.scene.targets, "a_batch": scored.maps[:, None]}
        found = metric(**given, **CALL, device=str(scored.scene.classifier.device), batch_size=len(x), softmax=True)
        return np.asarray(list(found.values()), dtype=np.float64)

    return score


def kept(scores: salience.Scores, scored: Scored) -> Floats:
    """Read the share of images that keep their class at each of the inner points."""
    found: Floats = curve("delete", "top")(scores, scored)[:, 1:-1].mean(0)
    return found


# ---------------------------------------------------------------------- of the map alone


def of_the_map(name: str, boxes: bool = False, **settings: Any) -> Any:
    """Return what makes a metric of the map alone; maps are scaled to their maxima, because it adds 1e-7 to some."""

    def make(scored: Scored, how: How) -> Score:
        import quantus

        metric = getattr(quantus, name)(**settings, **SETTINGS)
        model, x = FromPixels(scored.scene.classifier).eval(), pixels(scored)
        largest = np.abs(scored.maps).max(axis=(1, 2), keepdims=True)
        maps = (scored.maps / np.where(largest > 0, largest, 1))[:, None]
        more: dict[str, Any] = {"s_batch": scored.scene.inside[:, None]} if boxes else {}
        return lambda: np.asarray(asked(metric, scored, how, model, x, a_batch=maps.copy(), **more), dtype=np.float64)

    return make


def in_nats(found: Floats, scored: Scored) -> Floats:
    """Undo salience's division of the entropy by its largest value."""
    return found * math.log(scored.maps[0].size)


def share_hit(found: Floats, scored: Scored) -> Floats:
    """Turn the overlap of two sets of equal size into the share of one that lies in the other."""
    return 2 * found / (1 + found)


# ---------------------------------------------------------------------- maps made again


def explain(inputs: Any, targets: Any, model: nn.Module, **_: Any) -> Floats:
    """Return the maps that are scored, as its metrics ask for them: (N, 1, H, W)."""
    reference = next(model.parameters())
    x, y = torch.as_tensor(inputs, device=reference.device), torch.as_tensor(targets, device=reference.device)
    return floats(scored_map(model, x.to(reference.dtype), y))


def max_sensitivity(scored: Scored, how: How) -> Score:
    """Change the images as salience does, draw by draw."""
    import quantus

    model, x = FromPixels(scored.scene.classifier).eval(), pixels(scored)

    def score() -> Floats:
        calls = iter(range(DRAWS * math.ceil(len(x) / how.batch)))

        def perturb(arr: npt.NDArray[np.float32], indices: Any, **_: Any) -> npt.NDArray[np.float32]:
            call = next(calls)
            first = call // DRAWS * how.batch
            images = torch.from_numpy(arr.reshape(-1, *x.shape[1:]))
            ids = scored.scene.ids[first : first + len(images)]
            return moved(images, ids, [call % DRAWS]).numpy().reshape(len(images), -1)

        metric = quantus.MaxSensitivity(nr_samples=DRAWS, perturb_func=perturb, **SETTINGS)
        return np.asarray(asked(metric, scored, how, model, x, explain_func=explain), dtype=np.float64)

    return score


def random_logit(scored: Scored, how: How) -> Score:
    """Compare with the runner-up's map: the explanation is of that class whichever wrong one the metric draws."""
    import quantus
    from quantus.functions.similarity_func import correlation_spearman

    model, x = FromPixels(scored.scene.classifier).eval(), pixels(scored)

    def of_runner_up(inputs: Any, targets: Any, model: nn.Module, **_: Any) -> Floats:
        with torch.no_grad():
            z = model(torch.as_tensor(inputs, device=scored.scene.pixels.device))
        first, second = z.topk(2, dim=1).indices.T
        asked_for = torch.as_tensor(targets, device=z.device)
        return explain(inputs, torch.where(asked_for == first, first, second), model)

    classes = scored.scene.classifier.num_classes
    metric = quantus.RandomLogit(num_classes=classes, similarity_func=correlation_spearman, **SETTINGS)
    return lambda: np.asarray(
        asked(metric, scored, how, model, x, a_batch=None, explain_func=of_runner_up), dtype=np.float64
    )


def randomisation(scored: Scored, how: How) -> Score:
    """Compare with the map of the model whose layers are all randomised."""
    import quantus

    model, x = FromPixels(scored.scene.classifier).eval(), pixels(scored)
    metric = quantus.MPRT(skip_layers=True, return_last_correlation=True, **SETTINGS)
    return lambda: np.asarray(asked(metric, scored, how, model, x, explain_func=explain), dtype=np.float64)


def _case(ours: tuple[str, ...], peer: str, make: Any, read: Any, **more: Any) -> MetricCase:
    return MetricCase(ours, peer, "quantus", make, read, usual_batch=64, **more)


CASES = (
    _case((f"deletion:points={POINTS}",), "PixelFlipping", flipping(False), deleted, calls=POINTS - 1),
    _case(
        (f"insertion:points={POINTS}",),
        "PixelFlipping, least salient first",
        flipping(True),
        inserted,
        calls=POINTS - 1,
    ),
    _case(
        tuple(f"{name}:points={POINTS}" for name in ("deletion", "insertion", "srg")),
        "PixelFlipping, twice",
        flipping_both_ways,
        both_ways,
        calls=2 * (POINTS - 1),
    ),
    _case(
        (f"deletion-class:points={ROAD_POINTS}",),
        "ROAD, repaired",
        road,
        kept,
        calls=ROAD_POINTS - 1,
        background="road",
        seeds=True,
        remark="shares of images; it fails on colour images and is given features for pixels; the imputation's noise "
        "is drawn anew",
    ),
    _case(("gini",), "Sparseness", of_the_map("Sparseness", abs=True), value("gini")),
    _case(("entropy",), "Complexity", of_the_map("Complexity", abs=True), value("entropy", in_nats)),
    _case(("pointing",), "PointingGame", of_the_map("PointingGame", True), value("pointing")),
    _case(("energy",), "RelevanceMassAccuracy", of_the_map("RelevanceMassAccuracy", True), value("energy")),
    _case(("energy",), "AttributionLocalisation", of_the_map("AttributionLocalisation", True), value("energy")),
    _case(("iou",), "RelevanceRankAccuracy", of_the_map("RelevanceRankAccuracy", True), value("iou", share_hit)),
    _case(
        ("max-sensitivity",),
        "MaxSensitivity",
        max_sensitivity,
        value("max-sensitivity"),
        remakes=1 + DRAWS,
        remark="values with salience's draws",
    ),
    _case(
        ("random-logit:similarity=spearman",),
        "RandomLogit, Spearman",
        random_logit,
        value("random-logit:similarity=spearman"),
        remakes=2,
        labels="predicted+1",
        remark="it is made to explain the runner-up; its own SSIM is that of maps laid out as one long row",
    ),
    _case(
        ("randomisation:stages=1",),
        "MPRT, all layers randomised",
        randomisation,
        value("randomisation:stages=1"),
        remakes=2,
        seeds=True,
        remark="values differ: it draws new weights by each layer's own initialisation and resets batch statistics, "
        "salience keeps each tensor's mean and deviation",
    ),
)
assert METHOD == "gradient"  # explain makes no other map
