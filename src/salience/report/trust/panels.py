"""Small charts of mean curves, one for each method."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from salience.report.trust.curves import Means, Sweep, means, sweeps
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
    option: int
    text: str
    keeps: bool
    output: str
    wrong: bool
    reference: str
    panels: tuple[Panel, ...]
    n: int


def panels(scores: Scores, model: str, backgrounds: Sequence[str], smooths: Sequence[float]) -> list[PanelsView]:
    """Return the panels of a model, every sweep under every background and smoothing."""
    found = []
    own = {sweep: rows for sweep, rows in sweeps(scores.curves).items() if sweep.model == model}
    for option, (sweep, rows) in enumerate(own.items()):
        text = _text(sweep, list(own))
        for b, background in enumerate(backgrounds):
            for s, smooth in enumerate(smooths):
                curves = means(rows, background, smooth, list(scores.methods), scores.groups)
                if curves is not None:
                    key = f"{option}.{b}.{s}"
                    found.append(_view(scores, key, option, text, sweep, curves))
    return found


def _text(sweep: Sweep, others: Sequence[Sweep]) -> str:
    alike = [o for o in others if (o.curve, o.output) == (sweep.curve, sweep.output)]
    points = f", {sweep.points} points" if len(alike) > 1 else ""
    text = f"{ORDERS.get(sweep.curve, sweep.curve)}: {OUTPUTS.get(sweep.output, sweep.output)}{points}"
    return text[0].upper() + text[1:]


def _view(scores: Scores, key: str, option: int, text: str, sweep: Sweep, curves: Means) -> PanelsView:
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
        option,
        text,
        sweep.curve == "keep",
        OUTPUTS.get(sweep.output, sweep.output),
        bool(curves.wrong),
        REFERENCE if reference else "",
        tuple(made),
        curves.n,
    )
