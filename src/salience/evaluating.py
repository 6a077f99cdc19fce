"""Score maps: find out which method can be trusted on a model and images."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from salience.data.base import ImageRef, ImageSource
from salience.data.source import open_images
from salience.data.tiles import tile_images
from salience.engine.events import Listener, ignore
from salience.engine.hiring import carry_out, check_crew
from salience.engine.plan import Plan
from salience.engine.pool import POOL_SIZE, draw_pool
from salience.engine.runner import UNIT_BYTES, UNIT_CALLS, UNIT_IMAGES
from salience.engine.scalars import check_output
from salience.engine.targets import Target, parse_target
from salience.engine.work import Part, Work, crash_unit, recorded_content
from salience.errors import MetricError, RunError, SettingsError, nearest
from salience.explaining import (
    MapDtype,
    Outcome,
    RunSettings,
    answers_kept,
    as_settled,
    explain_run,
    plan_outputs,
    staffed,
)
from salience.methods.registry import parse_method
from salience.metrics.backgrounds import parse_background
from salience.metrics.baselines import BASELINES
from salience.metrics.grading import STAGE, KnownCurves, Lacking, ScoreCraft
from salience.metrics.metric import Labelled, RemakeMetric
from salience.metrics.registry import parse_metrics
from salience.metrics.scoring import (
    Candidate,
    Scorer,
    baseline_candidate,
    class_agnostic,
    method_candidate,
    seed_candidate,
)
from salience.models.classifier import Classifier
from salience.models.loading import load_model
from salience.scores import SEEDS, Scores, read_scores
from salience.store.maps import Maps
from salience.store.place import Place, place_of
from salience.store.reader import ArrayMaps, MapReader, StoredMaps, read_npz
from salience.store.run import Run, open_run
from salience.store.unit import StageUnit
from salience.store.writer import RunWriter

METRICS = ("complete-sound", "insertion", "deletion", "srg")
BACKGROUND = ("dataset-mean",)
LABELS = "predicted+9"

External = Maps | str | Path


def evaluate(
    model: Classifier | str,
    images: Any,
    methods: str | Sequence[str] = (),
    *,
    metrics: str | Sequence[str] = METRICS,
    background: str | Sequence[str] = BACKGROUND,
    labels: str = LABELS,
    baselines: Sequence[str] | None = None,
    maps: External | Sequence[External] = (),
    runs: Sequence[str | Place] = (),
    out: str | Place | None = None,
    smooth: Sequence[float] = (0.0,),
    tiles: bool = False,
    pool: Any = None,
    pool_size: int = POOL_SIZE,
    output: str | None = None,
    columns: Mapping[str, str] | None = None,
    limit: int | None = None,
    seed: int = 0,
    seeds: int = 1,
    map_dtype: MapDtype = "float16",
    device: str = "auto",
    settings: RunSettings | None = None,
    listen: Listener = ignore,
    command: Sequence[str] = (),
    writer_type: type[RunWriter] = RunWriter,
) -> Scores:
    """Compute maps of several methods and score them, beside baselines that know nothing of the model.

    Parameters
    ----------
    model
        A :class:`~salience.Classifier`, or a model card or spec for :func:`~salience.load_model`.
    images
        Anything that :func:`~salience.explain` takes.
    methods
        Methods whose maps are computed, with settings as ``"ig:steps=64"``.
    metrics
        Metrics and groups of them, with settings as ``"complete-sound:eps=0.05"``; ``salience list metrics``.
    background
        What takes the place of pixels that a mask removes; ``dataset-mean`` is the published one.
    labels
        The label set: ``predicted+M`` (the predicted class and its M runners-up), ``all`` classes, or ``predicted``,
        which leaves soundness out.
    baselines
        Names of :data:`~salience.metrics.baselines.BASELINES` that are scored beside the methods. All of them where
        None, and besides them a map that is handed to every label.
    maps
        Maps from elsewhere: what :func:`~salience.explain` returned, or ``.npz`` files, see
        :func:`~salience.store.reader.read_npz`.
    runs
        Run directories of ``salience explain`` whose maps of this model are scored too.
    out
        Run directory; one that is unfinished is carried on. Nothing is kept where it is None.
    smooth
        Standard deviations of a Gaussian, in pixels of the input, under which every method's maps are scored.
    tiles
        Put every image into a tile with another one, see :mod:`salience.data.tiles`.
    pool, pool_size
        Images that the background ``dataset`` is drawn from, and how many; those that are scored where None.
    output
        The scalar that methods explain; see :func:`~salience.explain`.
    seed
        For ties, baselines, backgrounds and methods that draw.
    seeds
        Maps of methods that draw are made with so many seeds, ``seed``, ``seed + 1``, ...; a method's numbers are the
        means over them, and the spread between seeds stands beside the interval over images. Other methods are not
        repeated. Metrics that make maps of their own are of the first seed.

    Returns
    -------
    Scores
        Table, rankings, comparisons and warnings.

    Raises
    ------
    SalienceError
        When something cannot be used; whatever was committed before stays.
    """
    classifier = load_model(model, device=device) if isinstance(model, str) else model
    chosen = parse_metrics(_list(metrics))
    backgrounds = [parse_background(b) for b in dict.fromkeys(_list(background))]
    if not backgrounds:
        raise MetricError("No background is named; 'dataset-mean' is the published one.")
    for item in chosen:
        item.metric.check(classifier)
    target = parse_target("label" if labels.startswith("class:") else labels, ())  # asks the model nothing
    if target.kind not in ("predicted", "top", "all"):
        raise SettingsError(f"The label set is {labels!r}; choose predicted+M, all or predicted.")
    outside = _outside(runs, maps, classifier)
    if not outside and not _list(methods):
        raise MetricError("There is nothing to score: name methods, or give maps or runs.")
    smooths = _smooths(smooth)
    for name in baselines or ():
        if name not in (known := [b.name for b in BASELINES]):
            raise MetricError(f"There is no baseline {name!r}; choose of {', '.join(known)}.{nearest(name, known)}")
    if seeds < 1:
        raise SettingsError(f"seeds is {seeds}: 1 or more is needed.")
    source = open_images(images, columns=columns, limit=limit)
    whole = source if limit is None else open_images(images, columns=columns)  # a limit does not change backgrounds
    if tiles:
        source, whole = (tile_images(s, classifier.preprocessing, seed) for s in (source, whole))
    others = whole if pool is None else open_images(pool)
    if settings is not None:
        check_crew(settings.crew, [classifier], out)
    with ExitStack() as stack:
        how = stack.enter_context(staffed(settings or RunSettings()))
        folder = place_of(stack.enter_context(TemporaryDirectory(prefix="salience-")) if out is None else out)
        compute = partial(
            explain_run,
            [classifier],
            source,
            target=labels,
            output=output,
            pool=others,
            pool_size=pool_size,
            map_dtype=map_dtype,
            settings=how,
            listen=listen if methods else ignore,
            command=command,
            writer_type=writer_type,
        )
        outcome = compute(_list(methods), folder, seed=seed, allow_none=True)
        how = as_settled(outcome.run, classifier.name, how)  # what follows is in the precision of the maps
        compute = partial(compute, settings=how)
        plans = outcome.run.info.get("stages", {}).get(STAGE, {}).get("plans", {})
        plan = plan_outputs(plans.get(classifier.name), classifier, how)
        own = _own(outcome.run, _list(methods), classifier)
        lines = _candidates([*own, *outside], len(own), seed, baselines)
        shown = {name: line.name for (name, _), line in zip(own, lines, strict=False)}
        for k in range(seed + 1, seed + seeds):
            redrawn = _redrawn(compute, outcome.run, _list(methods), classifier, k)
            lines += [seed_candidate(reader, shown[name], k) for name, reader in redrawn]
        drawn = any(b.name == "dataset" for b in backgrounds) or any(item.metric.needs_pool for item in chosen)
        if any(isinstance(item.metric, RemakeMetric) for item in chosen):
            drawn |= any(parse_method(m).method.needs_pool for m in _list(methods))
        scorer_of = partial(
            Scorer,
            candidates=lines,
            metrics=chosen,
            backgrounds=backgrounds,
            smooths=smooths,
            target=Target("top", classifier.num_classes - 1) if target.kind == "all" else target,
            seed=seed,
            pool=draw_pool(others, classifier.preprocessing, pool_size, seed) if drawn else None,
            output=None if output is None else check_output(output),
            precision=plan.precision,
        )
        skipped = _hopeless(outcome.run, classifier.name) if methods else set()
        _Evaluation(classifier, scorer_of, source, folder, how, plan, listen, skipped, writer_type).run()
        scores = read_scores(open_run(folder), outcome.notes)
        return replace(scores, run=None) if out is None else scores


def _list(given: str | Sequence[str]) -> list[str]:
    return [given] if isinstance(given, str) else list(given)


def _hopeless(run: Run, model: str) -> set[str]:
    """Return the images that are not tried: those that cannot be read, and those that kill the model's process."""
    rows = run.table("failures").to_pylist()
    return {
        r["image_id"]
        for r in rows
        if r["kind"] == "unreadable" or (r["kind"] == "crash" and r["model"] == model and r["recipe"] is None)
    }


def _smooths(given: Sequence[float]) -> tuple[float, ...]:
    values = tuple(dict.fromkeys(float(s) for s in given))
    if not values or any(not 0 <= s < 1e4 for s in values):
        raise SettingsError(f"smooth is {list(given)}; standard deviations in pixels, 0 or more, are needed.")
    return values


# ---------------------------------------------------------------------- who stands on the leaderboard


Named = tuple[str, MapReader]


def _own(run: Run, methods: Sequence[str], classifier: Classifier) -> list[Named]:
    """Return the maps that were computed for this evaluation."""
    names = [m.strip() for m in methods]
    return [(name, StoredMaps(run, run.recipe(name, classifier.name)[0])) for name in names]


def _redrawn(
    compute: Callable[..., Outcome], run: Run, methods: Sequence[str], classifier: Classifier, seed: int
) -> list[Named]:
    """Return the maps under another seed of those methods that draw: a run of its own, within the run's folder."""
    drawn = [m for m in methods if run.info["recipes"][run.recipe(m.strip(), classifier.name)[0]]["seed"] is not None]
    if not drawn:
        return []
    outcome = compute(drawn, run.folder / SEEDS / str(seed), seed=seed, purse=run.folder)
    return _own(outcome.run, drawn, classifier)


def _outside(runs: Sequence[str | Place], maps: External | Sequence[External], classifier: Classifier) -> list[Named]:
    """Return the maps of other runs and from elsewhere."""
    items = [maps] if isinstance(maps, (Maps, str, Path)) else list(maps)
    readers = [ArrayMaps.of(item) if isinstance(item, Maps) else read_npz(item) for item in items]
    of_runs = [named for path in runs for named in _of_run(open_run(path), classifier)]
    return [*of_runs, *((reader.method, reader) for reader in readers)]


def _candidates(
    readers: Sequence[Named], own: int, seed: int, baselines: Sequence[str] | None = None
) -> list[Candidate]:
    """Return the lines of the leaderboard: methods, each under a name of its own, and baselines.

    The maps of the first ``own`` were computed here, so their methods can be asked again.
    """
    named: list[Named] = []
    for name, reader in readers:
        taken = {n for n, _ in named} | {b.name for b in BASELINES}
        number = next(i for i in range(1, len(readers) + 2) if (name if i == 1 else f"{name} ({i})") not in taken)
        named.append((name if number == 1 else f"{name} ({number})", reader))
    return [
        *(
            method_candidate(reader, name, parse_method(readers[i][0]).method if i < own else None)
            for i, (name, reader) in enumerate(named)
        ),
        *(baseline_candidate(b, seed) for b in BASELINES if baselines is None or b.name in baselines),
        *([class_agnostic(named[0][1], named[0][0])] if baselines is None else []),
    ]


def _of_run(run: Run, classifier: Classifier) -> list[tuple[str, MapReader]]:
    weights = classifier.fingerprint()
    found = [r for r in run.info["current"] if run.info["recipes"][r]["weights"] == weights]
    if not found:
        raise RunError(
            f"{run.folder} has no maps of this model: its models are {', '.join(run.models)}, with other weights or "
            f"another preprocessing than {classifier.name!r}."
        )
    return [(f"{run.info['recipes'][r]['method']} of {run.folder.name}", StoredMaps(run, r)) for r in found]


# ---------------------------------------------------------------------- the work


@dataclass
class _Evaluation:
    """Scores what is missing in a run directory, unit by unit."""

    classifier: Classifier
    scorer_of: Callable[[Classifier], Scorer]
    source: ImageSource
    folder: Place
    settings: RunSettings
    plan: Plan
    listen: Listener
    skipped: set[str]
    writer_type: type[RunWriter]

    def run(self) -> None:
        classifier, self.scorer = self.classifier, self.scorer_of(self.classifier)
        source = open_run(self.folder).info["images"]["source"]
        with self.writer_type(self.folder, kind="explain", source=source) as w, answers_kept([classifier], w):
            before = w.info.get("stages", {}).get(STAGE, {})
            self._describe(w, before)
            try:
                carry_out(self._work(w), w, self.settings.crew, self.listen)
                if classifier.account is not None:
                    classifier.account.finish(STAGE)
            except BaseException as error:
                self._close(w, "interrupted" if isinstance(error, KeyboardInterrupt) else "failed")
                raise
            self._close(w, "complete")

    def _close(self, writer: RunWriter, status: str) -> None:
        """Describe how the work ended, and what a paid model was sent for it."""
        classifier = self.classifier
        if classifier.account is not None and classifier.paid:
            writer.info["models"][classifier.name]["queries"] = classifier.account.sent
        writer.describe(status=status)

    def _describe(self, writer: RunWriter, before: Mapping[str, Any]) -> None:
        s = self.scorer
        metrics = {item.label: _metric_entry(item) for item in s.metrics}
        methods = {c.name: _method_entry(c) for c in s.candidates}
        rest = [before["recipes"][i] for i in before.get("current", [])]
        rest = [r for r in rest if r["model"] != s.classifier.name]  # other models' scores stay in the table
        kept_metrics = {r["metric"] for r in rest if "metric" in r} - set(metrics)
        kept_methods = {r["method"] for r in rest} - set(methods)
        writer.use_stage(
            STAGE,
            s.classifier.name,
            {task.id: task.description for task in s.tasks},
            metrics={**metrics, **{k: v for k, v in before.get("metrics", {}).items() if k in kept_metrics}},
            methods={**methods, **{k: v for k, v in before.get("methods", {}).items() if k in kept_methods}},
            plans={**before.get("plans", {}), s.classifier.name: self.plan.to_dict()},
            settings={
                "labels": str(s.target),
                "backgrounds": [b.label for b in s.backgrounds],
                "smooth": list(s.smooths),
                "seed": s.seed,
                "pool": None if s.pool is None else s.pool.hash,
            },
        )
        writer.describe(status="running")

    # ------------------------------------------------------------------ what to do

    def _work(self, writer: RunWriter) -> Work:
        """Return what is missing, in units, and how it is computed."""
        groups = self._missing()
        parts = []
        for member, (refs, of) in enumerate(groups):
            rows = self.scorer.rows([t for t in of.tasks if t.id not in of.read])
            size = self.settings.unit_images or self._unit_images(rows)
            places = [ref.index for ref in refs]
            parts += [Part(tuple(places[at : at + size]), (member,), rows) for at in range(0, len(places), size)]
        lacking = tuple(of for _, of in groups)
        reading = [ref.image_id for refs, of in groups if of.read for ref in refs]
        ids = {ref.index: ref.image_id for ref in self.source.refs}
        curves = self._curves.of({task for of in lacking for task in of.read}, reading)
        return Work(
            classifier=self.classifier,
            source=self.source,
            verb="score",
            craft=ScoreCraft(self.scorer_of, self.source, lacking, curves),
            plan=self.plan,
            parts=parts,
            reused=len(self.source) - sum(len(refs) for refs, _ in groups),
            lost=lambda ref, members, message: self._lost(ref, lacking[members[0]], message),
            halved=partial(self._halved, writer),
            name=lambda unit: _unit_name(lacking[unit.members[0]], [ids[place] for place in unit.images]),
        )

    def _missing(self) -> list[tuple[list[ImageRef], Lacking]]:
        """Group the images by the tasks they lack, and by those of them that stored curves are enough for."""
        run = open_run(self.folder)
        self._curves = KnownCurves(self.scorer, run.table("curves"))
        self._contents = {r["image_id"]: r for r in run.parts("contents").to_pylist()}
        finished = run.finished(STAGE)
        groups: dict[tuple[tuple[str, ...], frozenset[str]], tuple[list[ImageRef], Lacking]] = {}
        for ref in self.source.refs:
            if ref.image_id in self.skipped:
                continue
            content = self._content(ref)
            done: set[str] = set()
            for _, then, recipes in finished.get(ref.image_id, []):
                done = done | recipes if then == content else done - recipes
            lacking = tuple(t for t in self.scorer.tasks if t.id not in done)
            if lacking:
                ids = tuple(t.id for t in lacking)
                read = self._curves.enough(ref.image_id, lacking, done)
                groups.setdefault((ids, read), ([], Lacking(lacking, read)))[0].append(ref)
        return list(groups.values())

    def _content(self, ref: ImageRef) -> str | None:
        """Return what an image is now, None where that was never seen."""
        row = self._contents.get(ref.image_id)
        before = None if row is None else (str(row["content_hash"]), int(row["bytes"]), int(row["mtime_ns"]))
        return self.source.hash_since(ref, before)

    def _unit_images(self, rows: int) -> int:
        """Return how many images keep a unit near 4096 model calls, its pixels within 64 MiB."""
        h, w = self.scorer.size
        return max(1, min(UNIT_CALLS // max(1, rows), UNIT_BYTES // (12 * h * w), UNIT_IMAGES))

    # ------------------------------------------------------------------ what goes wrong

    def _lost(self, ref: ImageRef, lacking: Lacking, message: str) -> StageUnit:
        """Make a unit of an image that no worker survived."""
        content = recorded_content(self._contents, self.source, ref)
        return crash_unit(STAGE, self.classifier.name, [t.id for t in lacking.tasks], ref, content, message)

    def _halved(self, writer: RunWriter, plan: Plan) -> None:
        """Record that memory ran out."""
        writer.info["stages"][STAGE]["plans"][self.classifier.name] = plan.to_dict()
        writer.describe()


def _unit_name(lacking: Lacking, image_ids: Sequence[str]) -> str:
    """Name a unit by what is in it: begun again after a kill, it finds the answers that were paid for."""
    what = ([t.id for t in lacking.tasks], list(image_ids))
    return f"{STAGE}.{hashlib.sha256(json.dumps(what).encode()).hexdigest()[:16]}"


def _method_entry(candidate: Candidate) -> dict[str, Any]:
    entry = {"kind": candidate.kind, "signed": candidate.signed, "maps": candidate.identity}
    return entry if candidate.of is None else {**entry, "of": candidate.of, "seed": candidate.seed}


def _metric_entry(item: Labelled) -> dict[str, Any]:
    traits = item.metric.traits
    return {
        "name": traits.name,
        "summary": traits.summary,
        "family": traits.family,
        "direction": traits.direction,
        "low": _bound(traits.low),
        "high": _bound(traits.high),
        "sign": traits.sign,
        "over": traits.over,
        "reference": traits.reference,
        "settings": item.metric.settings(),
        "version": traits.version,
    }


def _bound(value: float) -> float | None:
    return value if abs(value) < float("inf") else None
