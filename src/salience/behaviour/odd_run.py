"""Which run of a group is not like the others."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtr

from salience.behaviour.hierarchy import LEAST, LEVEL
from salience.behaviour.view import Floats

_EQUAL = 1e-12


@dataclass(frozen=True)
class OddRun:
    """The run whose maps are least like those of its group's other runs.

    Attributes
    ----------
    value
        Its mean similarity with them.
    others
        Theirs with each other.
    p
        Of Grubbs' test (one-sided) that it is no outlier: a guide, as runs share pairs.
    """

    group: str
    model: str
    value: float
    others: float
    p: float

    @property
    def stands_out(self) -> bool:
        """Whether it is less alike than chance makes the least alike of so many runs."""
        return self.p < LEVEL

    def __str__(self) -> str:
        return (
            f"{self.model} is the odd one out of {self.group}: its maps correlate {self.value:.2f} with those of the "
            f"other runs, theirs {self.others:.2f} with each other."
        )


def find_odd_run(group: str, models: Sequence[str], similarity: Floats) -> OddRun | None:
    """Return the run that is least like the others, of the similarities (R, R) of R runs.

    ``None`` with fewer than 3 runs, or where a pair has no similarity. The diagonal does not count.
    """
    pairs = np.triu_indices(len(models), 1)
    if len(models) < LEAST or np.isnan(similarity[pairs]).any():
        return None
    filled = similarity.copy()
    np.fill_diagonal(filled, 0)
    mean = filled.sum(axis=1) / (len(models) - 1)
    odd = int(mean.argmin())
    rest = np.delete(np.delete(filled, odd, 0), odd, 1)
    others = float(rest[np.triu_indices(len(rest), 1)].mean())
    return OddRun(group, models[odd], float(mean[odd]), others, grubbs_p(mean))


def grubbs_p(values: Floats) -> float:
    """Return the p-value of the lowest of R values being no outlier (Grubbs 1950): 1 where all are equal."""
    count, spread = len(values), float(values.std(ddof=1))
    if count < LEAST or spread <= _EQUAL * float(np.abs(values).max()):
        return 1.0
    gap = (float(values.mean()) - float(values.min())) / spread
    room = (count - 1) ** 2 - count * gap**2
    if room <= _EQUAL:
        return 0.0 if count > LEAST else 1.0
    return min(1.0, count * float(stdtr(count - 2, -gap * math.sqrt(count * (count - 2) / room))))
