"""The five measures and all their statistics, in the order of tables and pages."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

import numpy as np

from salience.behaviour import datasets, degradation, entropy, geometry, out_of_set, stability
from salience.behaviour.traits import Form, Measure, Statistic
from salience.errors import MetricError, nearest

PUBLISHED: Form = "published"
CORRECTED: Form = "corrected"
FORMS = (PUBLISHED, CORRECTED)
"""As published, and corrected."""

MEASURES: dict[str, Measure] = {
    m.name: m for m in (entropy.MEASURE, out_of_set.MEASURE, geometry.MEASURE, stability.MEASURE, degradation.MEASURE)
}
STATISTICS: dict[tuple[str, str, str], Statistic] = {
    s.key: s
    for s in (
        *entropy.STATISTICS,
        *out_of_set.STATISTICS,
        *datasets.STATISTICS,
        *geometry.STATISTICS,
        *stability.STATISTICS,
        *degradation.STATISTICS,
    )
}
"""By measure, form and name."""


def statistic(measure: str, form: str, name: str) -> Statistic:
    """Return a statistic.

    Raises
    ------
    MetricError
        When there is none of that name; the nearest are told.
    """
    if measure not in MEASURES:
        raise _unknown("measure", measure, MEASURES)
    if form not in FORMS:
        raise _unknown("form", form, FORMS)
    known = [s.name for s in STATISTICS.values() if (s.measure, s.form) == (measure, form)]
    if name not in known:
        raise _unknown(f"statistic of {form} {measure}", name, known)
    return STATISTICS[measure, form, name]


def headlines(measure: str, form: str) -> list[Statistic]:
    """Return the statistics that answer a measure's question in one form."""
    return [s for s in STATISTICS.values() if s.headline and (s.measure, s.form) == (measure, form)]


def parse_measures(names: Iterable[str]) -> tuple[str, ...]:
    """Return the named measures once each, in the order of :data:`MEASURES`.

    Raises
    ------
    MetricError
        When there is no such measure, or none is named.
    """
    asked = [name.strip() for name in names]
    for name in asked:
        if name not in MEASURES:
            raise _unknown("measure", name, MEASURES)
    if not asked:
        raise MetricError(f"No measure is named; there are {', '.join(MEASURES)}.")
    return tuple(name for name in MEASURES if name in asked)


def describe(measures: Iterable[str]) -> list[dict[str, Any]]:
    """Return what the statistics of measures are, for ``run.json``: no bound is null."""
    wanted = set(measures)
    return [
        {**asdict(s), **{end: getattr(s, end) if np.isfinite(getattr(s, end)) else None for end in ("low", "high")}}
        for s in STATISTICS.values()
        if s.measure in wanted
    ]


def _unknown(what: str, name: str, known: Iterable[str]) -> MetricError:
    names = list(known)
    return MetricError(f"There is no {what} {name!r}; there are {', '.join(names)}.{nearest(name, names)}")
