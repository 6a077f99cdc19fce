"""Degradation: whether the answer depends on what the salience points at."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from salience.behaviour.entropy import no_contrast
from salience.behaviour.geometry import align_8bit
from salience.behaviour.similarity import measured, ssim, whole
from salience.behaviour.traits import CRUM, OURS, Column, Measure, Statistic, by_condition, empty_maps, nothing
from salience.behaviour.view import (
    OBJECT,
    Array,
    AuditView,
    ConditionTraits,
    Floats,
    Numbers,
    probabilities,
)

MEASURE = Measure(
    "degradation",
    "Does the answer depend on what the salience points at?",
    "reaction to degradation",
)
BLUECHER = "Bluecher et al., TMLR 2024 (arXiv 2401.06654)"
CONTROL = "random-blurred"
"""The baseline whose masks are random, of the same area and smooth."""
_AREAS = (
    "Compact and diffuse maps blur different areas: a map that is salient nearly everywhere leaves the image sharp "
    "when the background is degraded. There is no random control."
)

SCORE = Statistic(
    "degradation",
    "published",
    "score-after",
    "higher",
    0.0,
    1.0,
    summary="Probability of the class that was predicted for the clean image when regions are blurred by salience",
    fools=_AREAS,
    reference=CRUM,
    details="Published: the score of the degraded image; blur of sigma (10 - q)^4 / 1000, q the salience in tenths of "
    "ten. Ours: of the clean image's class. Under 'background' the salient regions stay sharp and higher is better; "
    "under 'object' they are blurred and lower is better.",
    headline=True,
    more="keep more of their score",
    less="keep less of their score",
    averaged=False,
    turned=(OBJECT,),
)
ACCURACY = Statistic(
    "degradation",
    "published",
    "accuracy",
    "higher",
    0.0,
    1.0,
    summary="Share of degraded images whose predicted class is the true one",
    fools=f"{_AREAS} It starts from the accuracy on clean images, which differs between models.",
    reference=CRUM,
    details="Published. Images without a label have no value. Under 'object' lower is better.",
    averaged=False,
    turned=(OBJECT,),
)
SSIM = Statistic(
    "degradation",
    "published",
    "ssim",
    "neither",
    -1.0,
    1.0,
    summary="SSIM of the enlarged 8-bit maps of the clean and of the degraded image",
    fools="A map that is the same for every image has 1.",
    reference=CRUM,
    details="Published: maps of the predicted class at the size of the input, with scikit-image's defaults.",
    averaged=False,
)
EMPTY_8BIT = empty_maps("degradation", "published")
AREA = Statistic(
    "degradation",
    "corrected",
    "area-difference",
    "higher",
    -1.0,
    1.0,
    summary="Area under the probability when the least salient pixels go first, less that when the most salient do",
    fools="It rewards masks that fit the model's reaction to the fill: compare fills, and the random control.",
    reference=BLUECHER,
    details="Published: symmetric relevance gain. Every map degrades the same areas. A random map has 0 on average.",
)
LEAST_FIRST = Statistic(
    "degradation",
    "corrected",
    "least-first",
    "higher",
    0.0,
    1.0,
    summary="Area under the probability while the least salient pixels go first",
    fools="A robust model keeps its probability whatever goes: the difference of both areas counts.",
    reference=BLUECHER,
    details="Published: read backwards it is insertion, the most salient pixels coming in first.",
)
MOST_FIRST = Statistic(
    "degradation",
    "corrected",
    "most-first",
    "lower",
    0.0,
    1.0,
    summary="Area under the probability while the most salient pixels go first",
    fools="A fragile model loses its probability whatever goes: the difference of both areas counts.",
    reference=BLUECHER,
    details="Published: deletion.",
)
RANDOM = Statistic(
    "degradation",
    "corrected",
    "random-control",
    "neither",
    -1.0,
    1.0,
    summary="The area difference of random smooth masks of the same areas",
    fools="It is the floor of area-difference, and no score.",
    reference=OURS,
    details="Ours: the baseline random-blurred, noise under a Gaussian of a sixteenth of the shorter side.",
)
GAIN = Statistic(
    "degradation",
    "corrected",
    "gain",
    "higher",
    -2.0,
    2.0,
    summary="Area difference less that of the random control: how much more depends on what is salient",
    fools="It does not ask whether the model should depend on it: a shortcut that is found scores well.",
    reference=OURS,
    details="Ours.",
    headline=True,
    more="depend more on what their salience points at",
    less="depend less on what their salience points at",
)
STATISTICS = (SCORE, ACCURACY, SSIM, EMPTY_8BIT, AREA, LEAST_FIRST, MOST_FIRST, RANDOM, GAIN)

_METRICS = {"srg": AREA, "insertion": LEAST_FIRST, "deletion": MOST_FIRST}


def degradation_columns(view: AuditView, model: str) -> Iterator[Column]:
    """Yield how a model reacts to degradation by its salience, in both forms."""
    yield from by_condition(view, model, "degradation", _degraded)
    if view.scores is not None:
        yield from area_columns(view.scores, model, view.method, view.image_ids)


def _degraded(
    view: AuditView, model: str, images: Numbers, condition: ConditionTraits
) -> Iterator[tuple[Statistic, Floats]]:
    before, after = view.predicted(model)[images], view.predicted(model, condition.name)[images]
    share = probabilities(view.logits(model, images, condition.name))
    yield SCORE, np.where(before < 0, np.nan, share[np.arange(len(images)), np.maximum(before, 0)])
    labels = view.labels[images]
    yield ACCURACY, np.where((labels < 0) | (after < 0), np.nan, (labels == after).astype(np.float64))
    clean, own = view.maps(model, images), view.maps(model, images, condition.name, fixed=False)
    yield SSIM, _enlarged_ssim(view, model, condition.name, clean, own)
    yield EMPTY_8BIT, measured(no_contrast, own)


def _enlarged_ssim(view: AuditView, model: str, condition: str, clean: Array, own: Array) -> Floats:
    there = whole(clean, own)
    out = nothing(len(there))
    if there.any():
        maps = align_8bit(view, model, condition, clean[there], own[there])
        out[there] = ssim(maps.before, maps.after)
    return out


def area_columns(scores: pa.Table, model: str, method: str, image_ids: Sequence[str]) -> Iterator[Column]:
    """Yield the areas under a model's degradation curves, by what took the place of pixels (the condition).

    Parameters
    ----------
    scores
        The table ``scores`` of a run: metrics ``srg``, ``insertion`` and ``deletion`` of the method and of the random
        control. Of several amounts of smoothing the least is read.
    """
    rows = scores.filter(pc.and_(pc.equal(scores["model"], model), pc.equal(scores["position"], 0)))
    rows = rows.filter(pc.is_in(rows["method"], pa.array([method, CONTROL], pa.string())))
    if not len(rows):
        return
    rows = rows.filter(pc.equal(rows["smooth"], pc.min(rows["smooth"])))
    names = np.array([label.partition(":")[0] for label in rows["metric"].to_pylist()])
    place = pc.index_in(rows["image_id"], pa.array(list(image_ids), pa.string())).fill_null(-1).to_numpy()
    methods, fills = (np.array(rows[c].to_pylist(), dtype=object) for c in ("method", "background"))
    values = rows["value"].to_numpy()

    def read(of: str, metric: str, fill: str) -> Floats:
        own = (methods == of) & (names == metric) & (fills == fill) & (place >= 0)
        out = nothing(len(image_ids))
        out[place[own]] = values[own]
        return out

    for fill in dict.fromkeys(f for f in fills if f is not None):
        areas = {metric: read(method, metric, fill) for metric in _METRICS}
        for metric, statistic in _METRICS.items():
            yield Column(statistic, model, areas[metric], fill)
        control = read(CONTROL, "srg", fill)
        yield Column(RANDOM, model, control, fill)
        yield Column(GAIN, model, areas["srg"] - control, fill)
