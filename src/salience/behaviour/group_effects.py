"""The table ``group_effects``: means of groups and their differences from the reference, with what they are worth."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import pyarrow as pa

from salience.behaviour.hierarchy import Estimate, Mean, average, difference, group_mean, of_pairs
from salience.behaviour.measures import STATISTICS
from salience.behaviour.traits import Statistic
from salience.behaviour.view import Floats
from salience.stats import benjamini_hochberg
from salience.store.schema import DERIVED

ALL = "all"
"""The condition of a mean over conditions."""

Key = tuple[str, str, str]
Family = Literal["headlines", "others", "datasets"]


@dataclass
class Found:
    """What runs came to.

    Attributes
    ----------
    means
        By statistic, condition, group and model; model ``None`` is a number of the group's runs together.
    tests
        P-values of groups alone, by statistic and group: of a second dataset against the first.
    """

    means: dict[Key, dict[str, dict[str, dict[str | None, Mean]]]] = field(default_factory=dict)
    tests: dict[tuple[Key, str], float] = field(default_factory=dict)

    def add(self, key: Key, condition: str, group: str, model: str | None, mean: Mean) -> None:
        """Add a run's mean."""
        self.means.setdefault(key, {}).setdefault(condition, {}).setdefault(group, {})[model] = mean


@dataclass(frozen=True)
class _Line:
    """A row to be: a group's mean, or its difference from the reference."""

    statistic: Statistic
    condition: str
    group: str
    estimate: Estimate
    reference: str | None = None
    reference_runs: int | None = None
    family: Family = "datasets"


def effect_table(found: Found, groups: Mapping[str, Sequence[str]], method: str, seed: int = 0) -> pa.Table:
    """Return the table ``group_effects``.

    A row with no reference is a group's mean; one with a reference is its difference from the first group. Where a
    statistic has several conditions and their mean has a meaning, rows of condition ``all`` weigh the same each of
    the conditions that every run has. ``q`` is Benjamini and Hochberg's over three families: the comparisons that
    answer a measure's question (headline statistics, over all conditions), all other comparisons, and those of a second
    dataset with the first.
    """
    lines: list[_Line] = []
    for statistic in (s for s in STATISTICS.values() if s.key in found.means):
        by_condition = dict(found.means[statistic.key])
        over = _averaged(by_condition) if statistic.averaged else None
        answers = tuple(by_condition) if over is None else (ALL,)
        for condition, sides in {**by_condition, **({} if over is None else {ALL: over})}.items():
            family: Family = "headlines" if statistic.headline and condition in answers else "others"
            tests = {g: p for (key, g), p in found.tests.items() if key == statistic.key}
            lines += _lines(statistic, condition, sides, groups, family, tests, seed)
    q = _adjusted(lines)
    columns = {
        "measure": [x.statistic.measure for x in lines],
        "form": [x.statistic.form for x in lines],
        "statistic": [x.statistic.name for x in lines],
        "condition": [x.condition for x in lines],
        "method": [method] * len(lines),
        "group": [x.group for x in lines],
        "reference": [x.reference for x in lines],
        "runs": [x.estimate.runs for x in lines],
        "reference_runs": [x.reference_runs for x in lines],
        "images": [x.estimate.images for x in lines],
        "value": [x.estimate.value for x in lines],
        "low": [x.estimate.low for x in lines],
        "high": [x.estimate.high for x in lines],
        "effect_size": [x.estimate.effect_size for x in lines],
        "p": [x.estimate.p for x in lines],
        "q": q.tolist(),
    }
    schema = DERIVED["group_effects"]
    return pa.table([pa.array(columns[f.name], f.type, from_pandas=True) for f in schema], schema=schema)


def _averaged(
    by_condition: Mapping[str, Mapping[str, Mapping[str | None, Mean]]],
) -> dict[str, dict[str | None, Mean]] | None:
    """Return each run's mean over the conditions that all runs have; ``None`` where there are fewer than two."""
    runs = {(group, model) for sides in by_condition.values() for group, of in sides.items() for model in of}
    common = [c for c, sides in by_condition.items() if all(m in sides.get(g, {}) for g, m in runs)]
    if len(common) < 2:
        return None
    first = by_condition[common[0]]
    return {g: {m: average([by_condition[c][g][m] for c in common]) for m in of} for g, of in first.items()}


def _lines(
    statistic: Statistic,
    condition: str,
    sides: Mapping[str, Mapping[str | None, Mean]],
    groups: Mapping[str, Sequence[str]],
    family: Family,
    tests: Mapping[str, float],
    seed: int,
) -> Iterator[_Line]:
    """Yield the rows of one statistic and condition: every group's mean, then every difference."""
    streams = {group: number for number, group in enumerate(groups) if group in sides}
    runs = {g: of_pairs(list(sides[g].values())) if statistic.paired else list(sides[g].values()) for g in streams}
    together = any(None in of for of in sides.values())
    for group, stream in streams.items():
        mean = _within(group_mean(runs[group], stream=stream, seed=seed), statistic)
        mean = replace(mean, p=tests.get(group, math.nan))
        yield _Line(statistic, condition, group, replace(mean, runs=len(groups[group])) if together else mean)
    reference = next(iter(groups))
    for group, stream in streams.items():
        if reference not in runs or group == reference:
            continue
        gap = difference(runs[group], runs[reference], streams=(stream, 0), seed=seed)
        there = len(runs[reference])
        if together:  # its runs have no numbers of their own: how it varies between recipes is not known
            gap = Estimate(gap.value, math.nan, math.nan, len(groups[group]), gap.images, "none")
            there = len(groups[reference])
        yield _Line(statistic, condition, group, gap, reference, there, family)


def _within(mean: Estimate, statistic: Statistic) -> Estimate:
    """Return a mean whose interval ends where the statistic's range does: Student's t knows no range."""
    low, high = np.clip([mean.low, mean.high], statistic.low, statistic.high).tolist()
    return replace(mean, low=low, high=high)


def _adjusted(lines: Sequence[_Line]) -> Floats:
    p = np.array([x.estimate.p for x in lines], dtype=np.float64)
    family = np.array([x.family for x in lines])
    q = np.full(len(p), np.nan)
    for name in set(family.tolist()):
        q[family == name] = benjamini_hochberg(p[family == name])
    return q
