"""Mean curves of the masked sweeps, with bootstrap bands over images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from salience.report.trust.figures import Band
from salience.stats import bootstrap_means

DRAWS = 1000

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Sweep:
    """What a curve is: of which model, which pixels stay, which output is read, at how many points."""

    model: str
    curve: str
    output: str
    points: int


@dataclass(frozen=True)
class Means:
    """Mean curves of the methods under one background and smoothing, all over the same ``n`` images.

    ``predicted`` are of the predicted label's map, ``wrong`` the mean over the maps of wrong labels, each told by its
    own label's probability; empty where maps of wrong labels were not asked.
    """

    predicted: Mapping[str, Band]
    wrong: Mapping[str, Band]
    n: int


def sweeps(curves: pa.Table) -> dict[Sweep, pa.Table]:
    """Return the curves of each sweep, those that keep pixels first."""
    if not curves.num_rows:
        return {}
    curves = curves.append_column("points", pc.list_value_length(curves["values"]))
    keys = ["model", "curve", "output", "points"]
    found = curves.select(keys).group_by(keys, use_threads=False).aggregate([]).to_pylist()
    out = {}
    for row in sorted(
        found, key=lambda r: (r["model"], r["curve"] != "keep", r["output"] != "restricted", r["points"])
    ):
        kept = pa.array(np.ones(len(curves), dtype=np.bool_))
        for key in keys:
            kept = pc.and_(kept, pc.equal(curves[key], row[key]))
        out[Sweep(**row)] = curves.filter(kept)
    return out


def means(
    rows: pa.Table, background: str, smooth: float, methods: list[str], groups: Mapping[str, str] | None = None
) -> Means | None:
    """Return the mean curves of one sweep under a background and smoothing; None where no image has them all."""
    kept = pc.and_(pc.equal(rows["background"], background), pc.equal(rows["smooth"], pa.scalar(smooth, pa.float32())))
    rows = rows.filter(kept)
    if not len(rows):
        return None
    points = len(rows["fractions"][0])
    shares = rows["fractions"][0].as_py()
    values = _matrix(rows["values"], points)
    position = rows["position"].to_numpy()
    name, image = (np.asarray(rows[c].to_pylist(), dtype=object) for c in ("method", "image_id"))
    present = [m for m in methods if (name == m).any()]
    out: dict[str, dict[str, Band]] = {"predicted": {}, "wrong": {}}
    count = 0
    for kind, wanted in (("predicted", position == 0), ("wrong", position > 0)):
        found = {m: _by_image(image, values, wanted & (name == m)) for m in present}
        found = {m: f for m, f in found.items() if f}
        common = sorted(set.intersection(*(set(f) for f in found.values()))) if found else []
        if not common:
            continue
        x = np.concatenate([np.stack([f[i] for i in common], axis=1) for f in found.values()])
        of = [groups.get(i) or f"image {i}" for i in common] if groups else None
        drawn, units = bootstrap_means(x, groups=of, draws=DRAWS)
        low, high = np.quantile(drawn, [0.025, 0.975], axis=1)
        count = units if kind == "predicted" else count
        for k, m in enumerate(found):
            part = slice(k * points, (k + 1) * points)
            out[kind][m] = Band(tuple(shares), *(tuple(v[part].tolist()) for v in (x.mean(1), low, high)))
    return Means(out["predicted"], out["wrong"], count) if out["predicted"] else None


def _matrix(column: pa.ChunkedArray, points: int) -> Floats:
    flat = column.combine_chunks().flatten().to_numpy(zero_copy_only=False)
    matrix: Floats = flat.astype(np.float64).reshape(-1, points)
    return matrix


def _by_image(image: npt.NDArray[np.object_], values: Floats, kept: npt.NDArray[np.bool_]) -> dict[str, Floats]:
    """Return the mean curve of each image over the rows that are kept."""
    if not kept.any():
        return {}
    names, index = np.unique(image[kept].astype(str), return_inverse=True)
    sums = np.zeros((len(names), values.shape[1]))
    np.add.at(sums, index, values[kept])
    return dict(zip(names.tolist(), sums / np.bincount(index)[:, None], strict=True))
