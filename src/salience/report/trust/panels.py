"""Small charts of mean curves, one for each method."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa

from salience.report.trust.curves import Means, Sweep, means
from salience.report.trust.figures import Trace, trace
from salience.scores import Scores

WIDTH, HEIGHT = 220.0, 130.0
REFERENCE = "random"

ORDERS = {"keep": "most salient pixels kept", "delete": "most salient pixels removed"}
OUTPUTS = {
    "restricted": "probability within the label set",
    "full": "probability among all classes",
    "top": "share of images where the label leads",
}


@dataclass(frozen=True)
class Panel:
    """One method's curves: traces of the kinds ``reference``, ``wrong`` and ``predicted``, drawn in this order."""

    name: str
    baseline: bool
    traces: tuple[Trace, ...]


@dataclass(frozen=True)
class PanelsView:
    """The panels of one sweep under a background and a smoothing."""

    key: str
    text: str
    keeps: bool
    output: str
    wrong: bool
    reference: str
    panels: tuple[Panel, ...]
    n: int


def panels(
    scores: Scores, found: Mapping[Sweep, pa.Table], backgrounds: Sequence[str], smooths: Sequence[float]
) -> dict[str, list[PanelsView]]:
    """Return the panels of each model: every sweep of ``found`` under every background and smoothing."""
    options = curve_options(found)
    again = {name for others in scores.repeats.values() for name in others}
    names = [m for m in scores.methods if m not in again]  # of several seeds, the first one's curves are shown
    out: dict[str, list[PanelsView]] = {}
    for sweep, rows in found.items():
        option = options.index(_text(sweep, found))
        for b, background in enumerate(backgrounds):
            for s, smooth in enumerate(smooths):
                curves = means(rows, background, smooth, names, scores.groups)
                if curves is not None:
                    view = _view(scores, f"{option}.{b}.{s}", options[option], sweep, curves)
                    out.setdefault(sweep.model, []).append(view)
    return out


def curve_options(found: Collection[Sweep]) -> list[str]:
    """Return what can be read of the sweeps, in words; its place in this list names it."""
    return list(dict.fromkeys(_text(sweep, found) for sweep in found))


def _text(sweep: Sweep, others: Collection[Sweep]) -> str:
    alike = {o.points for o in others if (o.curve, o.output) == (sweep.curve, sweep.output)}
    points = f", {sweep.points} points" if len(alike) > 1 else ""
    text = f"{ORDERS.get(sweep.curve, sweep.curve)}: {OUTPUTS.get(sweep.output, sweep.output)}{points}"
    return text[0].upper() + text[1:]


def _view(scores: Scores, key: str, text: str, sweep: Sweep, curves: Means) -> PanelsView:
    reference = curves.predicted.get(REFERENCE)
    made = []
    for name, band in curves.predicted.items():
        traces = [trace("reference", reference, WIDTH, HEIGHT)] if reference and name != REFERENCE else []
        if name in curves.wrong:
            traces.append(trace("wrong", curves.wrong[name], WIDTH, HEIGHT))
        traces.append(trace("predicted", band, WIDTH, HEIGHT))
        made.append(Panel(name, scores.methods[name]["kind"] != "method", tuple(traces)))
    return PanelsView(
        key,
        text,
        sweep.curve == "keep",
        OUTPUTS.get(sweep.output, sweep.output),
        bool(curves.wrong),
        REFERENCE if reference else "",
        tuple(made),
        curves.n,
    )
