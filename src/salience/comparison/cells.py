"""Cells of a table of effects: a concept in a stratum, measured on independent units, with everything said of it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from salience.comparison.strata import Stratum
from salience.errors import SettingsError
from salience.stats import (
    FlipTest,
    Units,
    bca_limits,
    d_z,
    detectable_effect,
    flip_tests,
    signed_ranks,
    sum_units,
)

Floats = npt.NDArray[np.float64]
Numbers = npt.NDArray[np.int64]
Truths = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Procedure:
    """How effects are tested.

    Parameters
    ----------
    test
        ``sign-flip`` tests the mean, ``wilcoxon`` the signed ranks, both by flipping the signs of whole units.
    level
        Coverage of intervals.
    draws, flips
        Bootstrap draws and random flips.
    minimum
        Cells of fewer units have an effect and its smallest detectable size, but neither interval nor p.
    seed
        Of draws and flips.
    """

    test: Literal["sign-flip", "wilcoxon"] = "sign-flip"
    level: float = 0.95
    draws: int = 2000
    flips: int = 4999
    minimum: int = 30
    seed: int = 0

    def __post_init__(self) -> None:
        if self.test not in ("sign-flip", "wilcoxon"):
            raise SettingsError(f"The test {self.test!r} is unknown; choose 'sign-flip' or 'wilcoxon'.")
        if not 0 < self.level < 1:
            raise SettingsError(f"Intervals of coverage {self.level} do not exist: give one between 0 and 1, as 0.95.")
        least = {"draws": 100, "flips": 99, "minimum": 2, "seed": 0}
        for name, bound in least.items():
            if getattr(self, name) < bound:
                raise SettingsError(f"{name} is {getattr(self, name)}; at least {bound} is needed.")


@dataclass(frozen=True, eq=False)
class Cells:
    """Columns (M,) of values over the same images (n,) of a stratum, and over its units."""

    stratum: str
    columns: Numbers
    images: Numbers
    units: Units


def cells(values: Floats, stratum: Stratum, numbers: Numbers, present: Truths | None = None) -> Iterable[Cells]:
    """Yield the cells of a stratum: columns that are measured on the same images stand together.

    Parameters
    ----------
    values
        Values (I, M), NaN where an image says nothing.
    numbers
        The unit of each image (I,).
    present
        Columns (M,) to take; all by default. Columns without any value in the stratum have no cell.
    """
    part = values[stratum.images]
    finite = np.isfinite(part)
    patterns: dict[bytes, list[int]] = {}
    for column in np.flatnonzero(finite.any(axis=0) if present is None else present & finite.any(axis=0)):
        patterns.setdefault(finite[:, column].tobytes(), []).append(int(column))
    for alike in patterns.values():
        columns, rows = np.array(alike, dtype=np.int64), finite[:, alike[0]]
        images = stratum.images[rows]
        yield Cells(stratum.name, columns, images, sum_units(part[rows][:, columns].T, numbers[images]))


def summarise(
    family: Sequence[Cells], procedure: Procedure, *, tested: bool = True
) -> dict[str, npt.NDArray[np.generic]]:
    """Return what is said of every cell of a family, a row each: numbers that do not exist are NaN.

    ``column``, ``stratum``, ``n`` (units), ``effect`` (mean), ``low``, ``high`` (BCa), ``d_z``, ``p``, ``p_max``
    (max-T over the family) and ``detectable`` (at power 0.8).

    Parameters
    ----------
    tested
        False where zero is no hypothesis: there is no p then.
    """
    enough = [c.units.n >= procedure.minimum for c in family]
    limits = [
        bca_limits(c.units, level=procedure.level, draws=procedure.draws, seed=procedure.seed) if ok else _none(c.units)
        for c, ok in zip(family, enough, strict=True)
    ]
    tests = _tests(family, [ok and tested for ok in enough], procedure)
    return {
        "column": np.concatenate([np.zeros(0, np.int64), *(c.columns for c in family)]),
        "stratum": np.array([c.stratum for c in family for _ in c.columns], dtype=object),
        "n": np.array([c.units.n for c in family for _ in c.columns], dtype=np.int64),
        "effect": _joined([c.units.mean for c in family]),
        "low": _joined([low for low, _ in limits]),
        "high": _joined([high for _, high in limits]),
        "d_z": _joined([d_z(c.units) for c in family]),
        "p": _joined([t.p for t in tests]),
        "p_max": _joined([t.p_max for t in tests]),
        "detectable": _joined([detectable_effect(c.units) for c in family]),
    }


def _tests(family: Sequence[Cells], wanted: Sequence[bool], procedure: Procedure) -> list[FlipTest]:
    """Test the wanted cells as one family; NaN for the others."""
    units = [c.units for c, want in zip(family, wanted, strict=True) if want]
    if procedure.test == "wilcoxon":
        units = [signed_ranks(u) for u in units]
    found = iter(flip_tests(units, flips=procedure.flips, seed=procedure.seed))
    return [next(found) if want else FlipTest(*_none(c.units)) for c, want in zip(family, wanted, strict=True)]


def _none(units: Units) -> tuple[Floats, Floats]:
    missing = np.full(len(units.sums), np.nan)
    return missing, missing


def _joined(parts: Sequence[Floats]) -> Floats:
    return np.concatenate([np.zeros(0), *parts])
