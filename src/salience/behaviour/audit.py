"""What an audit came to, as ``salience.audit`` returns it and a run holds it. Nothing here imports torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from salience.behaviour.classes import class_rows
from salience.behaviour.group_effects import ALL
from salience.behaviour.measures import MEASURES, STATISTICS, statistic
from salience.behaviour.odd_run import OddRun, find_odd_run
from salience.behaviour.traits import Statistic
from salience.behaviour.view import Floats
from salience.behaviour.wording import compared, sentences
from salience.errors import RunError, SettingsError, nearest
from salience.store.place import Place
from salience.store.run import Run, open_run

STAGE = "audit"
WORST: dict[str, tuple[str, str]] = {
    "entropy": ("corrected", "spatial-entropy"),
    "out-of-set": ("corrected", "pearson"),
    "geometry": ("corrected", "equivariance"),
    "stability": ("corrected", "pearson"),
    "degradation": ("published", "ssim"),
}
"""The form and statistic that tell a measure's extreme images: plain similarities, which no division spreads."""


@dataclass(frozen=True, eq=False)
class Audit:
    """How models behave over a set of images: five measures, as published and corrected.

    Attributes
    ----------
    run
        The run directory: clean maps, maps under conditions, all tables.
    notes
        What a reader must know: what could not be measured, and why.
    """

    run: Run
    notes: tuple[str, ...] = ()

    def __repr__(self) -> str:
        groups = ", ".join(f"{group} ({len(models)})" for group, models in self.groups.items())
        return f"Audit({groups}; {', '.join(self.asked)}; {len(self.run.images)} images)"

    # ------------------------------------------------------------------ what was audited

    @property
    def settings(self) -> Mapping[str, Any]:
        """What was asked: groups, method, measures, conditions, seed; see FORMAT.md."""
        found: Mapping[str, Any] = self.run.info["stages"][STAGE]["settings"]
        return found

    @property
    def groups(self) -> dict[str, tuple[str, ...]]:
        """Names of the models, each one training run, by recipe. The first is what the others are compared with."""
        return {group: tuple(models) for group, models in self.settings["groups"].items()}

    @property
    def models(self) -> tuple[str, ...]:
        """Names of all models."""
        return tuple(model for models in self.groups.values() for model in models)

    @property
    def asked(self) -> tuple[str, ...]:
        """Names of the measures."""
        return tuple(self.settings["measures"])

    @property
    def method(self) -> str:
        """The saliency method."""
        return str(self.settings["method"])

    @cached_property
    def measures(self) -> pa.Table:
        """A row for each number of each image; see ``measures`` in FORMAT.md. Names are dictionaries."""
        return self.run.table("measures").unify_dictionaries()

    @cached_property
    def effects(self) -> pa.Table:
        """Means of groups and their differences from the first; see ``group_effects`` in FORMAT.md."""
        return self.run.table("group_effects")

    @cached_property
    def run_pairs(self) -> pa.Table:
        """Similarities of pairs of runs; see ``run_pairs`` in FORMAT.md."""
        return self.run.table("run_pairs")

    # ------------------------------------------------------------------ what it comes to

    @cached_property
    def answers(self) -> list[dict[str, Any]]:
        """Rows of ``effects`` that answer a measure's question: of headline statistics, over all conditions."""
        rows: list[dict[str, Any]] = self.effects.to_pylist()
        over = {(r["measure"], r["form"], r["statistic"]) for r in rows if r["condition"] == ALL}
        found = []
        for row in rows:
            key = (row["measure"], row["form"], row["statistic"])
            if key in STATISTICS and STATISTICS[key].headline and (row["condition"] == ALL or key not in over):
                found.append(row)
        return found

    def overview(self) -> list[dict[str, Any]]:
        """Return a row for each answer and group, in the order of measures.

        Columns: those of a group's row in ``effects``; ``direction`` (which values are better); and against the first
        group, None for itself: ``difference``, ``difference_low``, ``difference_high``, ``difference_p``,
        ``difference_q`` and ``verdict`` (``better``, ``worse``, ``different``, ``not shown``, ``cannot be shown``).
        """
        against = {self._place(r): r for r in self.answers if r["reference"] is not None}
        rows = []
        for row in (r for r in self.answers if r["reference"] is None):
            gap = against.get(self._place(row))
            shared = STATISTICS[row["measure"], row["form"], row["statistic"]]
            rows.append(
                {
                    **{
                        k: v
                        for k, v in row.items()
                        if k not in ("reference", "reference_runs", "effect_size", "p", "q")
                    },
                    "direction": shared.better(row["condition"]),
                    "difference": None if gap is None else gap["value"],
                    "difference_low": None if gap is None else gap["low"],
                    "difference_high": None if gap is None else gap["high"],
                    "difference_p": None if gap is None else gap["p"],
                    "difference_q": None if gap is None else gap["q"],
                    "effect_size": None if gap is None else gap["effect_size"],
                    "verdict": None if gap is None else compared(gap).verdict,
                }
            )
        return rows

    def sentences(self) -> list[str]:
        """Return what was found, in words: differences that are shown first, then those that are not, then odd runs."""
        odd = [self.odd_run(group) for group in self.groups]
        return [
            *sentences(self.answers, self.groups),
            *(f"{found}" for found in odd if found is not None and found.stands_out),
        ]

    @staticmethod
    def _place(row: Mapping[str, Any]) -> tuple[str, ...]:
        return tuple(row[c] for c in ("measure", "form", "statistic", "condition", "group"))

    # ------------------------------------------------------------------ images and classes

    def extremes(
        self,
        measure: str,
        n: int = 12,
        *,
        form: str | None = None,
        name: str | None = None,
        condition: str | None = None,
        group: str | None = None,
        lowest: bool | None = None,
    ) -> list[dict[str, Any]]:
        """Return the n images with the worst numbers, the worst first.

        Parameters
        ----------
        form, name
            Of the statistic; by default a plain similarity, see :data:`WORST`.
        condition
            Under which; by default the mean over those that an image has numbers under.
        group
            Whose runs; by default all.
        lowest
            Whether the lowest values come first; by default the worst ones, and the lowest where none is better.

        Returns
        -------
        list of dict
            ``image_id``, ``value`` (mean over runs and conditions) and ``numbers`` (how many it is the mean of).

        Raises
        ------
        MetricError
            When there is no such statistic.
        SettingsError
            When there is no such group, or it has no such numbers.
        """
        form, name = form or WORST.get(measure, ("corrected", ""))[0], name or WORST.get(measure, ("", ""))[1]
        chosen = statistic(measure, form, name)
        rows = self.rows(chosen, condition=condition, group=group)
        rows = rows.filter(pc.is_valid(rows["image_id"]))
        found = rows.group_by("image_id", use_threads=False).aggregate([("value", "mean"), ("value", "count")])
        values = found["value_mean"].to_numpy()
        rising = chosen.better(condition or ALL) != "lower" if lowest is None else lowest
        order = np.argsort(values if rising else -values, kind="stable")[: max(0, n)]
        best = found.take(pa.array(order))
        return [
            {"image_id": r["image_id"], "value": r["value_mean"], "numbers": r["value_count"]} for r in best.to_pylist()
        ]

    def by_class(
        self, measure: str, form: str, name: str, *, condition: str | None = None, group: str | None = None
    ) -> list[dict[str, Any]]:
        """Return a row for each class: the mean over its images, with its interval over images.

        An image's class is its label; where no image has one, the class that each run predicts for it. Columns:
        ``class`` (name), ``index``, ``images``, ``value``, ``low``, ``high`` (95 % bootstrap over images, of these
        runs; None for one image). Rows are in the order of classes.

        Raises
        ------
        MetricError
            When there is no such statistic.
        SettingsError
            When there is no such group, or it has no such numbers.
        """
        rows = self.rows(statistic(measure, form, name), condition=condition, group=group)
        names = self.run.info["models"][self.models[0]]["classes"]
        return class_rows(rows.filter(pc.is_valid(rows["image_id"])), self.run, names)

    def rows(self, of: Statistic, *, condition: str | None = None, group: str | None = None) -> pa.Table:
        """Return the rows of ``measures`` of a statistic, under one condition and of one group where named.

        Raises
        ------
        SettingsError
            When there is no such group, or there are no such numbers.
        """
        if group is not None and group not in self.groups:
            known = list(self.groups)
            raise SettingsError(f"The audit has no group {group!r}; it has {', '.join(known)}.{nearest(group, known)}")
        wanted = {"measure": of.measure, "form": of.form, "statistic": of.name, "condition": condition, "group": group}
        kept = None
        for column, value in wanted.items():
            if value is not None:
                these = pc.equal(self.measures[column], value)
                kept = these if kept is None else pc.and_(kept, these)
        rows = self.measures.filter(kept)
        if not len(rows):
            under = "" if condition is None else f" under {condition!r}"
            raise SettingsError(
                f"The audit has no numbers of {of.form} {of.measure}/{of.name}{under}: it was asked for "
                f"{', '.join(self.asked)}."
            )
        return rows

    # ------------------------------------------------------------------ runs

    def similarity(self, group: str, name: str = "pearson", form: str = "corrected") -> tuple[tuple[str, ...], Floats]:
        """Return a group's models and how alike the maps of each two are, (R, R): NaN on the diagonal.

        Raises
        ------
        SettingsError
            When there is no such group.
        """
        if group not in self.groups:
            known = list(self.groups)
            raise SettingsError(f"The audit has no group {group!r}; it has {', '.join(known)}.{nearest(group, known)}")
        models = self.groups[group]
        place = {model: number for number, model in enumerate(models)}
        out = np.full((len(models), len(models)), np.nan)
        for row in self.run_pairs.to_pylist():
            if (row["group"], row["statistic"], row["form"]) == (group, name, form):
                a, b = place[row["first"]], place[row["second"]]
                out[a, b] = out[b, a] = row["value"]
        return models, out

    def odd_run(self, group: str, name: str = "pearson", form: str = "corrected") -> OddRun | None:
        """Return the run that is least like the others of its group; None with fewer than 3 runs, or without numbers.

        Raises
        ------
        SettingsError
            When there is no such group.
        """
        return find_odd_run(group, *self.similarity(group, name, form))

    # ------------------------------------------------------------------ other tools

    def to_pandas(self) -> Any:
        """Return a data frame of the effects.

        Raises
        ------
        RunError
            When pandas is not installed.
        """
        try:
            import_module("pandas")
        except ImportError as error:
            raise RunError(
                "A data frame needs pandas, which is not installed. 'pip install pandas' cures it; the tables "
                "themselves are Parquet files in the run."
            ) from error
        return self.effects.to_pandas()


def read_audit(run: Run | str | Place, notes: Sequence[str] = ()) -> Audit:
    """Return the audit that a run holds.

    Raises
    ------
    RunError
        When there is no run, nothing in it was audited, or its audit was not finished.
    """
    run = run if isinstance(run, Run) else open_run(run)
    stage = run.info.get("stages", {}).get(STAGE)
    if stage is None:
        raise RunError(f"{run.folder} holds no audit: 'salience audit ... --out {run.folder}' makes one.")
    if not stage.get("complete"):
        raise RunError(f"The audit in {run.folder} was not finished: run the same command again to finish it.")
    _check(stage.get("settings", {}), run)
    return Audit(run, (*map(str, stage.get("notes", ())), *notes))


def _check(settings: Mapping[str, Any], run: Run) -> None:
    """Check what is relied upon in the description of an audit that may come from elsewhere."""
    groups, measures = settings.get("groups"), settings.get("measures")
    fits = (
        isinstance(groups, dict)
        and len(groups) > 0
        and all(isinstance(of, list) and of and all(m in run.models for m in of) for of in groups.values())
        and isinstance(measures, list)
        and all(m in MEASURES for m in measures)
        and isinstance(settings.get("method"), str)
    )
    if not fits:
        raise RunError(
            f"{run.folder / 'run.json'} does not describe an audit: groups of its models, measures and a method are "
            "needed. The run directory is damaged; restore it or start another."
        )
