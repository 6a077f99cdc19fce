"""Degradation of equal areas: what is left of the probability, against random masks."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from salience.behaviour.degradation import CONTROL
from salience.behaviour.hierarchy import Means, group_mean
from salience.behaviour.view import Floats
from salience.report.behaviour import wording
from salience.report.behaviour.figures import Chart, Series, chart
from salience.report.behaviour.material import Material
from salience.report.trust.figures import axis
from salience.scores import read_scores

DRAWS = 500
_ORDERS = (("delete", "most salient first"), ("keep", "least salient first"))
_WHO = {False: "map", True: "random"}


def area_charts(material: Material) -> tuple[list[Chart], str]:
    """Return curves of the probability over the degraded area: a chart for each fill and order of pixels."""
    run = material.audit.run
    if "evaluate" not in run.info.get("stages", {}):
        return [], ""
    rows = _rows(read_scores(run).curves, material)
    if not len(rows):
        return [], ""
    made = []
    for fill in material.audit.settings["backgrounds"]:
        for order, words in _ORDERS:
            series = _series(material, rows, fill, order)
            if not series:
                continue
            title = f"{wording.kind_title(fill)}: {words}"
            told = "; ".join(f"{s.name}: mean {np.mean([p[1] for p in s.points]):.2f}" for s in series)
            ticks = [(0.0, "none"), (0.5, "half"), (1.0, "all")]
            scale = axis([0.0, 1.0], 0.0, 1.0)
            made.append(chart(title, series, ticks, scale, words=f"{title}. {told}.", dots=False))
    note = (
        "Probability of the predicted class over the share of pixels that is replaced, with 95 % bands. Dashed: random "
        "smooth masks of the same areas. Where the most salient pixels go first a good map falls below them; where the "
        "least salient go first it stays above."
    )
    return made, note


def _rows(curves: pa.Table, material: Material) -> pa.Table:
    """Return the curves of the maps and of the control, of maps that are smoothed least."""
    if not curves.num_rows:
        return curves
    names = pa.array([material.audit.method, CONTROL], pa.string())
    kept = pc.and_(pc.equal(curves["position"], 0), pc.is_in(curves["method"], names))
    rows = curves.filter(pc.and_(kept, pc.equal(curves["output"], "full")))
    return rows.filter(pc.equal(rows["smooth"], pc.min(rows["smooth"]))) if len(rows) else rows


def _series(material: Material, rows: pa.Table, fill: str, order: str) -> list[Series]:
    """Return the curves of all groups under one fill: of their maps, and of random masks."""
    rows = rows.filter(pc.and_(pc.equal(rows["background"], fill), pc.equal(rows["curve"], order)))
    if not len(rows):
        return []
    ids = {i: n for n, i in enumerate(material.view.image_ids)}
    points = len(rows["values"][0])
    rows = rows.filter(pc.equal(pc.list_value_length(rows["values"]), points))
    shares = rows["fractions"][0].as_py()
    values: dict[tuple[str, bool], Floats] = defaultdict(lambda: np.full((len(ids), points), np.nan))
    for model, method, image, found in zip(
        *(rows[c].to_pylist() for c in ("model", "method", "image_id", "values")), strict=True
    ):
        if image in ids:
            values[model, method == CONTROL][ids[image]] = found
    means: Means[tuple[str, bool, int]] = Means(len(ids), material.view.units, draws=DRAWS, seed=material.view.seed)
    for (model, control), matrix in values.items():
        for k in range(points):
            means.add((model, control, k), matrix[:, k])
    known = means.found()
    out = []
    for tone, (group, models) in enumerate(material.audit.groups.items()):
        for control in (True, False):
            there = [m for m in models if (m, control, 0) in known]
            if not there:
                continue
            found = [group_mean([known[m, control, k] for m in there], stream=tone) for k in range(points)]
            # what is degraded grows to the right, whichever pixels go first
            at = [1 - s if order == "keep" else s for s in shares]
            line = sorted(zip(at, ((e.value, e.low, e.high) for e in found), strict=True))
            name = f"{group}, {_WHO[control]}"
            out.append(Series(name, tone, tuple((x, *rest) for x, rest in line), "dashed" if control else "solid"))
    return out
