"""Audit models: how their salience behaves over a set of images, run by run and group by group."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from salience.behaviour.aligned import AlignedView
from salience.behaviour.audit import Audit, read_audit
from salience.behaviour.conditions.condition import Condition
from salience.behaviour.conditions.registry import conditions
from salience.behaviour.degradation import CONTROL
from salience.behaviour.measures import MEASURES, describe, parse_measures
from salience.behaviour.members import Loading, Member, Models, let_go, opened, parse_models
from salience.behaviour.pace import Pace, Phase
from salience.behaviour.reading import CHANGED, CONDITIONS, OUT_OF_SET_RUN, STAGE, ByImage, StoredResults
from salience.behaviour.source import ConditionSource, contents_of, under_conditions
from salience.behaviour.tables import audit_tables
from salience.data.base import ImageSource
from salience.data.source import open_images
from salience.engine.events import Listener, ignore
from salience.engine.hiring import check_crew
from salience.engine.plan import Plan
from salience.engine.pool import POOL_SIZE
from salience.errors import MetricError, SettingsError
from salience.evaluating import evaluate
from salience.explaining import MapDtype, Outcome, RunSettings, as_settled, explain_run, staffed
from salience.methods.registry import parse_method
from salience.metrics.backgrounds import parse_background
from salience.models.classifier import Classifier
from salience.store.place import Place, place_of
from salience.store.run import open_run
from salience.store.writer import RunWriter

METHOD = "gradcam"
BACKGROUND = ("blur", "dataset-mean", "road")
"""What takes the place of degraded pixels, area by area."""
POINTS = 10
"""Areas at which pixels are degraded, beside none: 10 % to 100 %."""
TABLES = ("measures", "run_pairs", "group_effects")
_CHANGED = 0.25
"""Share of changed images that a model puts into another class: a guess, for the estimate of time alone."""


def audit(
    models: Models,
    images: Any,
    *,
    out_of_set: Any = None,
    measures: str | Sequence[str] | None = None,
    method: str = METHOD,
    background: str | Sequence[str] = BACKGROUND,
    out: str | Place | None = None,
    pool: Any = None,
    pool_size: int = POOL_SIZE,
    columns: Mapping[str, str] | None = None,
    limit: int | None = None,
    seed: int = 0,
    map_dtype: MapDtype = "float16",
    device: str = "auto",
    card: str | Path | None = None,
    rate: str | float | None = None,
    settings: RunSettings | None = None,
    listen: Listener = ignore,
    command: Sequence[str] = (),
    writer_type: type[RunWriter] = RunWriter,
) -> Audit:
    """Ask five questions of models, and answer each as published and corrected.

    Entropy (how focused is the salience), out-of-set (does it stay when images are disturbed), geometry (does it follow
    flips, turns, shifts), stability (do training runs of one recipe agree) and degradation (does the answer depend on
    what is salient). Models are loaded one after another. The same call after a kill carries on, and gives the same
    tables.

    Parameters
    ----------
    models
        ``{"plain": [...], "guided": [...]}``: models by group, each a training run of the group's recipe; the first
        group is the reference. Or one model, or several, each a group by itself. A model is a card or spec for
        :func:`~salience.load_model`, or a :class:`~salience.Classifier`.
    images
        Anything that :func:`~salience.explain` takes.
    out_of_set
        A second dataset, likewise: how focus and confidence differ on it.
    measures
        Names of measures, see :data:`~salience.behaviour.measures.MEASURES`; all that these models allow where None.
        Only conditions that they need are computed.
    method
        The saliency method, with settings. Published: ``gradcam`` of the predicted class.
    background
        What takes the place of pixels in the corrected degradation; see :func:`~salience.evaluate`.
    out
        Run directory; one that is unfinished is carried on. Where None, a temporary one goes with the result.
    pool, pool_size
        Images that methods and backgrounds are drawn from, where they need any; all of ``images`` where None.
    seed
        For all that is drawn: noise, controls, resampling.
    device, card, rate
        For models given as specs; see :func:`~salience.load_model`.

    Returns
    -------
    Audit
        Tables, an overview, sentences, extreme images.

    Raises
    ------
    SalienceError
        When something cannot be used; whatever was committed before stays.
    """
    members = parse_models(models)
    asked, notes = _asked(measures, members)
    if out_of_set is not None and "out-of-set" not in asked:
        raise SettingsError("A second dataset is for the measure 'out-of-set': ask for it, or leave the dataset out.")
    label = parse_method(method).label
    backgrounds = [background] if isinstance(background, str) else list(background)
    for name in backgrounds:
        parse_background(name)
    source = open_images(images, columns=columns, limit=limit)
    whole = source if limit is None else open_images(images, columns=columns)  # a limit does not change backgrounds
    how = settings or RunSettings()
    check_crew(how.crew, [m.given for m in members if isinstance(m.given, Classifier)], out)
    folder = place_of(tempfile.mkdtemp(prefix="salience-") if out is None else out)
    work = _Work(
        members=members,
        measures=asked,
        conditions=tuple(conditions(asked).values()),
        method=label,
        backgrounds=backgrounds,
        source=source,
        second=None if out_of_set is None else open_images(out_of_set),
        pool=whole if pool is None else open_images(pool),
        pool_size=pool_size,
        folder=folder,
        seed=seed,
        map_dtype=map_dtype,
        loading=Loading(device, card, rate),
        settings=how,
        listen=listen,
        command=command,
        writer_type=writer_type,
        notes=notes,
    )
    try:
        work.run()
        found = read_audit(open_run(folder))
    except BaseException:
        if out is None:
            shutil.rmtree(str(folder), ignore_errors=True)
        raise
    if out is None:
        weakref.finalize(found, shutil.rmtree, str(folder), ignore_errors=True)
    return found


def _asked(measures: str | Sequence[str] | None, members: Sequence[Member]) -> tuple[tuple[str, ...], list[str]]:
    """Return the measures that are computed, and what is to be said of those that are not."""
    groups = [member.group for member in members]
    repeated = any(groups.count(group) > 1 for group in groups)
    named = list(MEASURES) if measures is None else [measures] if isinstance(measures, str) else list(measures)
    asked = parse_measures([part for name in named for part in name.split(",") if part.strip()])
    if repeated or "stability" not in asked:
        return asked, []
    note = "Stability compares training runs of one recipe: it needs a group of two runs, and every group has one."
    if asked == ("stability",):
        raise MetricError(f"{note} Give groups: --group NAME=CARD,CARD.")
    return tuple(name for name in asked if name != "stability"), [note]


@dataclass
class _Work:
    """Everything that an audit does, model after model, into one run directory and the runs within it."""

    members: Sequence[Member]
    measures: tuple[str, ...]
    conditions: tuple[Condition, ...]
    method: str
    backgrounds: Sequence[str]
    source: ImageSource
    second: ImageSource | None
    pool: ImageSource
    pool_size: int
    folder: Place
    seed: int
    map_dtype: MapDtype
    loading: Loading
    settings: RunSettings
    listen: Listener
    command: Sequence[str]
    writer_type: type[RunWriter]
    notes: list[str]
    plans: dict[tuple[object, ...], RunSettings] = field(default_factory=dict)

    def run(self) -> None:
        """Do what is missing, then measure."""
        self._phases = {(p.model, p.kind): p for member in self.members for p in self._expected(member)}
        self._pace = Pace(list(self._phases.values()), self.listen)
        self._pace.start()
        with staffed(self.settings) as self.settings:
            for member in self.members:
                self._member(member)
                let_go()  # before the next one is loaded
        self._measure()
        self._pace.finish()

    def _expected(self, member: Member) -> Iterator[Phase]:
        count, name = len(self.source), member.name
        yield Phase(name, "clean", count)
        if self.second is not None:
            yield Phase(name, OUT_OF_SET_RUN, len(self.second))
        if self.conditions:
            yield Phase(name, CONDITIONS, count * len(self.conditions))
            published = sum(c.published for c in self.conditions)
            yield Phase(name, CHANGED, int(_CHANGED * count * published))
        if "degradation" in self.measures:
            yield Phase(name, "degradation", count)

    @contextmanager
    def _phase(self, model: str, kind: str) -> Iterator[Listener]:
        phase = self._phases[model, kind]
        yield self._pace.of(phase)
        self._pace.end(phase)

    # ------------------------------------------------------------------ one model

    def _member(self, member: Member) -> None:
        with opened(member, self.loading) as classifier:
            self._model(classifier)

    def _model(self, classifier: Classifier) -> None:
        name = classifier.name
        like = (repr(classifier.module), classifier.preprocessing, classifier.device)
        how = self.plans.get(like, self.settings)
        with self._phase(name, "clean") as listen:
            clean = replace(how, precision=self.settings.precision, fidelity=None)  # checked with these weights
            outcome = self._explain(classifier, self.source, self.folder, clean, listen)
        how = self.plans[like] = _as_planned(outcome, name, self.settings)
        with self._held():
            if self.second is not None:
                with self._phase(name, OUT_OF_SET_RUN) as listen:
                    self._explain(classifier, self.second, self.folder / OUT_OF_SET_RUN, how, listen)
            if self.conditions:
                self._change(classifier, outcome, how)
        if "degradation" in self.measures:
            with self._phase(name, "degradation") as listen:
                self._degrade(classifier, how, listen)

    def _explain(
        self,
        classifier: Classifier,
        source: ImageSource,
        folder: Place,
        how: RunSettings,
        listen: Listener,
        given: Mapping[str, int] | None = None,
    ) -> Outcome:
        outcome = explain_run(
            [classifier],
            source,
            [self.method],
            folder,
            pool=self.pool,
            pool_size=self.pool_size,
            seed=self.seed,
            map_dtype=self.map_dtype,
            settings=how,
            listen=listen,
            command=self.command,
            writer_type=self.writer_type,
            purse=self.folder,
            given=given,
        )
        self.notes += outcome.notes
        return outcome

    def _change(self, classifier: Classifier, outcome: Outcome, how: RunSettings) -> None:
        """Explain the images under all conditions; where another class is predicted then, that one too."""
        name = classifier.name
        ids = [ref.image_id for ref in self.source.refs]
        clean = StoredResults(outcome.run, name, self.method, ids)
        changed = self._changed_images(classifier, outcome, clean, ids)
        with self._phase(name, CONDITIONS) as listen:
            if not changed.refs:  # every image failed
                return
            predicted = dict(zip(ids, clean.predicted.tolist(), strict=True))
            given = {ref.image_id: predicted[changed.parts[ref.index][0].image_id] for ref in changed.refs}
            found = self._explain(classifier, changed, self.folder / CONDITIONS / name, how, listen, given)
        with self._phase(name, CHANGED) as listen:
            others = _other_class(found, name, self.method, changed, given)
            if others.refs:
                self._explain(classifier, others, self.folder / CHANGED / name, how, listen)

    def _changed_images(
        self, classifier: Classifier, outcome: Outcome, clean: StoredResults, ids: Sequence[str]
    ) -> ConditionSource:
        size = classifier.preprocessing.size
        fitting = [c for c in self.conditions if c.fits(size)]
        if len(fitting) < len(self.conditions):
            left = ", ".join(c.name for c in self.conditions if c not in fitting)
            self.notes.append(f"{classifier.name} has inputs of {size[0]}x{size[1]}: {left} cannot be made of them.")
        whole = clean.has_maps() & (clean.predicted >= 0)
        return under_conditions(
            self.source,
            [ref for ref, there in zip(self.source.refs, whole, strict=True) if there],
            fitting,
            classifier.preprocessing,
            seed=self.seed,
            known=contents_of(outcome.run.table("contents").to_pylist()),
            clean=ByImage(clean, {image_id: k for k, image_id in enumerate(ids)}),
        )

    def _degrade(self, classifier: Classifier, how: RunSettings, listen: Listener) -> None:
        """Degrade equal areas by the map and by a random control of its smoothness, into the run's scores."""
        scores = evaluate(
            classifier,
            self.source,
            [self.method],
            metrics=[f"{metric}:points={POINTS}" for metric in ("srg", "insertion", "deletion")],
            background=self.backgrounds,
            labels="predicted",
            baselines=[CONTROL],
            out=self.folder,
            pool=self.pool,
            pool_size=self.pool_size,
            seed=self.seed,
            map_dtype=self.map_dtype,
            settings=how,
            listen=listen,
            command=self.command,
            writer_type=self.writer_type,
        )
        self.notes += scores.notes

    # ------------------------------------------------------------------ all models

    @contextmanager
    def _held(self) -> Iterator[RunWriter]:
        """Hold the run, which is unfinished meanwhile."""
        location = open_run(self.folder).info["images"]["source"]
        with self.writer_type(self.folder, kind="explain", source=location) as writer:
            writer.describe(status="running")
            try:
                yield writer
            except BaseException as error:
                writer.describe(status="interrupted" if isinstance(error, KeyboardInterrupt) else "failed")
                raise

    def _measure(self) -> None:
        """Measure, from what is in the run directories, and write the tables."""
        groups: dict[str, list[str]] = {}
        for member in self.members:
            groups.setdefault(member.group, []).append(member.name)
        with self._held() as writer:
            for table in TABLES:  # those of an earlier call are of what was asked for then
                (self.folder / "derived" / f"{table}.parquet").unlink(missing_ok=True)
            asked = {
                "groups": groups,
                "method": self.method,
                "measures": list(self.measures),
                "conditions": {c.name: _entry(c) for c in self.conditions},
                "backgrounds": list(self.backgrounds),
                "out_of_set": None if self.second is None else self.second.location,
                "seed": self.seed,
            }
            writer.use_stage(STAGE, STAGE, {}, settings=asked, statistics=describe(self.measures), complete=False)
            writer.describe()
            found = audit_tables(AlignedView(self.folder))
            for table in TABLES:
                writer.put_derived(table, getattr(found, table))
            notes = list(dict.fromkeys([*self.notes, *found.notes]))
            writer.use_stage(STAGE, STAGE, {}, complete=True, notes=notes)
            writer.describe(status="complete")


def _entry(condition: Condition) -> dict[str, Any]:
    """Return what ``run.json`` says of a condition."""
    kind = condition.kind
    return {
        "measure": kind.measure,
        "family": kind.family,
        "severity": condition.severity,
        "published": condition.published,
        "summary": kind.summary,
        "reference": kind.reference,
        "details": kind.details,
    }


def _as_planned(outcome: Outcome, model: str, settings: RunSettings) -> RunSettings:
    """Return settings under which a model is run as it was, without measuring it again."""
    plan = Plan(**outcome.run.info["models"][model]["plan"])
    settled = as_settled(outcome.run, model, settings)
    threads = plan.threads * plan.lanes or None
    return replace(settled, batch=plan.batch, memory_format=plan.memory_format, threads=threads, lanes=plan.lanes)


def _other_class(
    found: Outcome, model: str, method: str, changed: ConditionSource, given: Mapping[str, int]
) -> ConditionSource:
    """Return the changed images that the model puts into another class than the unchanged one, where that is asked."""
    refs = [ref for ref in changed.refs if changed.parts[ref.index][1].published]
    ids = [ref.image_id for ref in refs]
    now = StoredResults(found.run, model, method, ids).predicted
    before = np.array([given[i] for i in ids], dtype=np.int64)
    return changed.only([i for i, a, b in zip(ids, now.tolist(), before.tolist(), strict=True) if a >= 0 and a != b])
