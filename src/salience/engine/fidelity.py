"""How near maps in bfloat16 are to those in single precision: figures, and the tolerances for them.

Maps are compared one by one: by Spearman's rank correlation, and by the largest difference as a share of the map's own
largest absolute value; outputs as probabilities. The tolerances are ours. They were set between two groups that
measured clearly apart, see :data:`RANK_CORRELATION`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from torch import Tensor

from salience.stats.ranks import midranks

RANK_CORRELATION = 0.99
"""Least mean over maps. On four networks (ResNet-20, EfficientNet-Lite0, MobileNetV2, a small vision transformer) class
activation maps measured 0.996 to 0.9998; gradients of the convolutional ones, also along paths, 0.75 to 0.993."""
DEVIATION = 0.05
"""Largest mean over maps of the largest difference, as a share of the map's own largest value: 0.005 to 0.045 and 0.08
to 0.7 in these two groups."""
PROBABILITY = 0.05
"""Largest mean over images of the largest difference of a probability: 0.002 to 0.03 on the four."""


@dataclass(frozen=True)
class Agreement:
    """How near one method's maps in bfloat16 are to those in single precision.

    Attributes
    ----------
    rank_correlation
        Spearman's, mean over maps, in [-1, 1]; NaN where maps are not finite.
    deviation
        Largest difference of a map's values over its largest absolute value, mean over maps.
    worst
        The same of the map in which it is largest.
    """

    rank_correlation: float
    deviation: float
    worst: float

    @property
    def within(self) -> bool:
        """Whether both are inside the tolerances; NaN is not."""
        return self.rank_correlation >= RANK_CORRELATION and self.deviation <= DEVIATION


@dataclass(frozen=True)
class Fidelity:
    """What was found when bfloat16 was checked.

    Attributes
    ----------
    images
        How many were looked at.
    probability
        Largest difference of a probability, mean over images.
    speedup
        Time of a model call in single precision over that in bfloat16, each at its best batch.
    methods
        By label.
    """

    images: int
    probability: float
    speedup: float
    methods: Mapping[str, Agreement] = field(default_factory=dict)

    @property
    def within(self) -> bool:
        """Whether everything is inside the tolerances."""
        return self.probability <= PROBABILITY and all(a.within for a in self.methods.values())

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON; numbers that are none become null."""
        figures = {name: {k: _plain(v) for k, v in asdict(a).items()} for name, a in self.methods.items()}
        return {
            "images": self.images,
            "probability": _plain(self.probability),
            "speedup": _plain(self.speedup),
            "within": self.within,
            "methods": figures,
        }

    @classmethod
    def read(cls, entry: Any) -> Self | None:
        """Read what :meth:`to_dict` returned; None where it is none of it: checking again is the cure."""
        try:
            methods = {name: Agreement(**{k: _number(v) for k, v in a.items()}) for name, a in entry["methods"].items()}
            return cls(int(entry["images"]), _number(entry["probability"]), _number(entry["speedup"]), methods)
        except (AttributeError, KeyError, TypeError, ValueError):
            return None

    def with_methods(self, more: Fidelity) -> Fidelity:
        """Return the figures of both, the worse output of the two, the later speed."""
        worst = max(self.probability, more.probability, key=lambda v: (v != v, v))
        return Fidelity(min(self.images, more.images), worst, more.speedup, {**self.methods, **more.methods})

    def only(self, labels: Iterable[str]) -> Fidelity:
        """Return the figures of these methods alone."""
        return replace(self, methods={label: self.methods[label] for label in labels if label in self.methods})

    def told(self, precision: str) -> str:
        """Tell in a sentence what was decided on, and why."""
        verdict = (
            "keeps results within the tolerances" if self.within else "does not keep results within the tolerances"
        )
        return f"model calls are in {precision}; bfloat16 is {self.speedup:.2g} times as fast and {verdict}."

    def outside(self) -> str:
        """Tell in words which figures are outside the tolerances."""
        found = [
            f"{name}: rank correlation {a.rank_correlation:.3f} (at least {RANK_CORRELATION}), largest difference "
            f"{a.deviation:.1%} of a map's largest value (at most {DEVIATION:.0%})"
            for name, a in self.methods.items()
            if not a.within
        ]
        if not self.probability <= PROBABILITY:
            found.append(f"probabilities differ by {self.probability:.3f} (at most {PROBABILITY})")
        return "; ".join(found)


def _plain(value: float) -> float | None:
    return round(value, 5) if np.isfinite(value) else None


def _number(value: float | None) -> float:
    return float("nan") if value is None else float(value)


# ---------------------------------------------------------------------- comparing


def agreement(single: Tensor, half: Tensor) -> Agreement:
    """Compare maps (M, h, w) in single precision with the same maps in bfloat16.

    Maps that are not finite in single precision are left out: they fail in any case. A map that is constant in both
    agrees; one that is constant in one of them has the correlation 0.
    """
    a, b = (maps.flatten(1).double().cpu().numpy() for maps in (single, half))
    usable = np.isfinite(a).all(axis=1)
    a, b = a[usable], b[usable]
    if not len(a) or not np.isfinite(b).all():
        return Agreement(float("nan"), float("nan"), float("nan"))
    top = np.abs(a).max(axis=1)
    difference = np.abs(a - b).max(axis=1)
    share = np.divide(difference, top, out=np.where(difference > 0, np.inf, 0.0), where=top > 0)
    return Agreement(float(_rank_correlations(a, b).mean()), float(share.mean()), float(share.max()))


def _rank_correlations(a: npt.NDArray[np.float64], b: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return Spearman's correlation of each row of (M, G)."""
    first, second = (ranks - ranks.mean(axis=1, keepdims=True) for ranks in (midranks(a), midranks(b)))
    spreads = (first**2).sum(axis=1), (second**2).sum(axis=1)
    both = np.sqrt(spreads[0] * spreads[1])
    flat = (spreads[0] == 0) & (spreads[1] == 0)
    found: npt.NDArray[np.float64] = flat.astype(np.float64)
    np.divide((first * second).sum(axis=1), both, out=found, where=both > 0)
    return found
