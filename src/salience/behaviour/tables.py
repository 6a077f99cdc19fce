"""From maps and answers to the tables of an audit."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain

import numpy as np
import pyarrow as pa

from salience.behaviour.datasets import SHIFTS, dataset_columns
from salience.behaviour.degradation import degradation_columns
from salience.behaviour.entropy import entropy_columns
from salience.behaviour.geometry import geometry_columns
from salience.behaviour.group_effects import Found, Key, effect_table
from salience.behaviour.hierarchy import DRAWS, LEAST, Means, runs_needed
from salience.behaviour.out_of_set import out_of_set_columns
from salience.behaviour.rows import Rows, pair_rows
from salience.behaviour.shift import Samples, rank_sum_p, shifts
from salience.behaviour.similarity import ssim_possible
from salience.behaviour.stability import stability
from salience.behaviour.traits import Column, Statistic
from salience.behaviour.view import CLEAN, OUT_OF_SET, AuditView, Floats
from salience.store.schema import DERIVED

_OF_RUNS: dict[str, Callable[[AuditView, str], Iterator[Column]]] = {
    "entropy": entropy_columns,
    "out-of-set": out_of_set_columns,
    "geometry": geometry_columns,
    "degradation": degradation_columns,
}
"""Measures of single runs."""
_NAMED = 4


@dataclass(frozen=True, eq=False)
class AuditTables:
    """The derived tables of an audit; see FORMAT.md.

    Attributes
    ----------
    notes
        What a reader must know: what could not be measured, and why.
    """

    measures: pa.Table
    run_pairs: pa.Table
    group_effects: pa.Table
    notes: tuple[str, ...]


def audit_tables(
    view: AuditView, *, draws: int = DRAWS, progress: Callable[[int, int], None] = lambda done, total: None
) -> AuditTables:
    """Return everything that the measures say about the models of a view.

    Maps are read in blocks of images. What is held grows with the rows of ``measures`` (12 bytes each), not with maps.

    Parameters
    ----------
    draws
        Of the bootstrap.
    progress
        Called with steps that are done, and their number: a measure of a run, or of a group, is one.

    Raises
    ------
    SettingsError
        When the runs of a group have maps of different sizes.
    """
    work = _Work(view, draws)
    steps = list(work.steps())
    for number, step in enumerate(steps):
        progress(number, len(steps))
        step()
    found = work.tables()
    progress(len(steps), len(steps))
    return found


class _Work:
    """Collects what the measures find, run by run."""

    def __init__(self, view: AuditView, draws: int) -> None:
        other = view.out_of_set
        self._view, self._other, self._draws = view, other, draws
        self._rows = Rows(view.method, view.image_ids, () if other is None else other.image_ids)
        self._means: Means[tuple[Key, str, str, str | None]] = Means(
            len(view.image_ids), view.units, draws=draws, seed=view.seed
        )
        self._found = Found()
        self._pairs: list[dict[str, object]] = []

    def steps(self) -> Iterator[Callable[[], None]]:
        """Yield what there is to do."""
        for measure in self._view.measures:
            for group, models in self._view.groups.items():
                if measure == "stability":
                    yield partial(self._compare_runs, group)
                    continue
                for model in models:
                    yield partial(self._add, group, _OF_RUNS[measure], model)
                if measure == "out-of-set" and self._other is not None:
                    yield partial(self._compare_datasets, group, self._other)

    def tables(self) -> AuditTables:
        """Return the tables of all that was done."""
        for (key, condition, group, model), mean in self._means.found().items():
            self._found.add(key, condition, group, model, mean)
        effects = effect_table(self._found, self._view.groups, self._view.method, self._view.seed)
        pairs = pa.Table.from_pylist(self._pairs, schema=DERIVED["run_pairs"])
        return AuditTables(self._rows.table(), pairs, effects, _notes(self._view))

    def _put(self, group: str, column: Column) -> None:
        self._rows.add(group, column)
        self._means.add((column.statistic.key, column.condition, group, column.model), column.values)

    def _add(self, group: str, columns: Callable[[AuditView, str], Iterator[Column]], model: str) -> None:
        for column in columns(self._view, model):
            self._put(group, column)

    def _compare_runs(self, group: str) -> None:
        view = self._view
        found = stability(view, group)
        for column in found.columns:
            self._put(group, column)
        for statistic, (values, counts) in found.pairs.items():
            self._pairs += pair_rows(statistic, view.method, group, view.groups[group], values, counts)

    def _compare_datasets(self, group: str, other: AuditView) -> None:
        """Tell how the runs of a group react to the second dataset: numbers of its images, and against the first's."""
        here: dict[Statistic, list[Floats]] = {}
        there: dict[Statistic, list[Floats]] = {}
        means: Means[tuple[Key, str | None]] = Means(
            len(other.image_ids), other.units, draws=self._draws, seed=self._view.seed + 1
        )
        models = self._view.groups[group]
        for model in models:
            for column in dataset_columns(self._view, model, CLEAN):
                self._put(group, column)
                here.setdefault(column.statistic, []).append(column.values)
            for column in dataset_columns(other, model, OUT_OF_SET):
                self._rows.add(group, column)
                means.add((column.statistic.key, model), column.values)
                there.setdefault(column.statistic, []).append(column.values)
        for (key, run), mean in means.found().items():
            self._found.add(key, OUT_OF_SET, group, run, mean)
        for statistic, values in here.items():
            samples = Samples(np.stack(values), np.stack(there[statistic]), self._view.units, other.units).whole()
            if samples is None:
                continue
            shift = SHIFTS[statistic.key]
            for name, mean in zip(models, shifts(samples, draws=self._draws, seed=self._view.seed), strict=True):
                self._rows.add_run(group, shift, name, OUT_OF_SET, mean.value)
                self._found.add(shift.key, OUT_OF_SET, group, name, mean)
            self._found.tests[shift.key, group] = rank_sum_p(samples)


# ---------------------------------------------------------------------- what could not be measured


def _notes(view: AuditView) -> tuple[str, ...]:
    return (*_small_grids(view), *_few_runs(view), *_missing(view))


def _small_grids(view: AuditView) -> Iterator[str]:
    small: dict[tuple[int, int], list[str]] = {}
    for model in chain.from_iterable(view.groups.values()):
        if not ssim_possible(view.grid(model)):
            small.setdefault(view.grid(model), []).append(model)
    for (h, w), models in small.items():
        yield (
            f"Maps of {listed(models)} are {h}x{w}: the published SSIM has a window of 7x7 and no value on smaller "
            "grids. The corrected numbers are there; a method with larger maps, or a layer before the last, has both."
        )


def _few_runs(view: AuditView) -> Iterator[str]:
    for group, models in view.groups.items():
        if len(models) == 1 and "stability" in view.measures:
            yield f"Stability compares runs of one recipe, and group {group!r} has one: it has no stability."
        if len(models) < LEAST:
            runs = "one run" if len(models) == 1 else f"{len(models)} runs"
            yield (
                f"Group {group!r} has {runs}: its intervals are over images and hold for {these(len(models))}, not for "
                f"the recipe. With {runs_needed()} runs or more in each of two groups a difference "
                "between recipes can be shown."
            )


def _missing(view: AuditView) -> Iterator[str]:
    for model in chain.from_iterable(view.groups.values()):
        lost = int((view.predicted(model) < 0).sum())
        if lost:
            yield f"{model} has no answer for {lost} of {len(view.image_ids)} images: they have no numbers."


def these(runs: int) -> str:
    """Return what stands for runs of which nothing follows for their recipe."""
    return "this run" if runs == 1 else "these runs"


def listed(names: Sequence[str]) -> str:
    """Return names as words, the first few of many."""
    if len(names) > _NAMED:
        return f"{', '.join(names[:_NAMED])} and {len(names) - _NAMED} more"
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
