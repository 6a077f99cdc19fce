"""Which effects and concepts come first: by how large they are, how sure, and how well their concept holds together."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from salience.comparison.confirmation import BEYOND_CHANCE

Floats = npt.NDArray[np.float64]


def quality_of(cohesion: float | None, stability: float | None) -> float:
    """Return how well a concept holds together, 0 to 1: cohesion times stability, as far as they are known.

    Ours: the product lets a concept rank high only if its segments look alike and other draws find it again.
    """
    known = [v for v in (cohesion, stability) if v is not None and v == v]
    return float(np.clip(np.prod(known), 0.0, 1.0)) if known else 1.0


def sizes(effects: pa.Table, quality: Mapping[int, float]) -> Floats:
    """Return the absolute effects (rows,), relative to the largest of their family and model, times the quality.

    Families have different units (shares, or units of the explained scalar), which this makes comparable. Of each
    family only tested effects count as the largest, where some are; untested ones are cut off at 1.
    """
    effect = np.abs(np.nan_to_num(effects["effect"].to_numpy().astype(np.float64)))
    tested = pc.is_valid(effects["p"]).to_numpy(zero_copy_only=False)
    weight = np.array([quality[c] for c in effects["concept"].to_pylist()], dtype=np.float64)
    names = list(zip(effects["model"].to_pylist(), effects["family"].to_pylist(), strict=True))
    codes = {name: i for i, name in enumerate(dict.fromkeys(names))}
    of = np.array([codes[name] for name in names], dtype=np.int64)
    out = np.zeros(len(effect))
    for code in range(len(codes)):
        own = of == code
        among = own & tested if (own & tested).any() else own
        largest = float(effect[among].max())
        if largest > 0:
            out[own] = np.minimum(effect[own] / largest, 1.0)
    return out * weight


def order_concepts(effects: pa.Table, quality: Mapping[int, float]) -> list[int]:
    """Return the concepts by falling size of what differs: those with an effect beyond chance first.

    A concept counts by its largest effect: of those beyond chance where it has one, else of those that were tested,
    else of all. Equal ones stand in the order of ``quality``.
    """
    size = sizes(effects, quality)
    q = pc.fill_null(effects["q"], 1.0).to_numpy()
    tier = np.where(q < BEYOND_CHANCE, 2, np.where(pc.is_valid(effects["p"]).to_numpy(zero_copy_only=False), 1, 0))
    best = dict.fromkeys(quality, (-1, 0.0))
    for concept, level, value in zip(effects["concept"].to_pylist(), tier.tolist(), size.tolist(), strict=True):
        best[concept] = max(best[concept], (level, value))
    return sorted(quality, key=lambda c: (-best[c][0], -best[c][1]))


def worth_testing(effects: pa.Table, quality: Mapping[int, float], most: int) -> list[int]:
    """Return the concepts whose effects are worth an intervention: the first ``most`` in their order.

    All where there are fewer. A concept without any effect other than 0 is not worth one.
    """
    moved = {
        c
        for c, e in zip(effects["concept"].to_pylist(), effects["effect"].to_pylist(), strict=True)
        if e is not None and e != 0
    }
    return [c for c in order_concepts(effects, quality) if c in moved][: max(0, most)]
