"""Alternated rounds of bare calls, of salience and of a peer; and how far the values agree."""

from __future__ import annotations

import statistics
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache, partial

import numpy as np
import torch

import salience
from salience.benchmark import _bare_seconds, _whole_seconds
from salience.engine.plan import Plan
from salience.engine.sweep import Sweep
from salience.engine.tune import climb, largest_batch
from salience.errors import SalienceError
from salience.explaining import Job, RunSettings, prepare
from salience.metrics.baselines import BASELINES

from .agreement import Agreement, of_maps, of_scores
from .case import METHOD, Case, MethodCase, MetricCase, Scored
from .importing import TITLES, missing
from .row import Row, Times
from .scene import Floats, How, Scene, floats

USUAL_BATCH = 32
"""In which people call methods."""
FEWEST = 4
"""Images of a row at least."""
LINES = len(BASELINES) + 2
"""Maps of an image that are scored together: the method's, the baselines', and the method's for every label."""
QUICK = 0.02
"""Of so many seconds a call, one is no measurement: it is repeated."""


Found = tuple[Agreement, Agreement | None]
"""The agreement, and that between two seeds where the peer draws what cannot be given."""


@dataclass(frozen=True)
class Effort:
    """How long is measured.

    Attributes
    ----------
    rounds
        Rounds of a row.
    seconds
        Images are as many as the bare calls of a round take about so long for, four at least.
    limit
        Seconds after which no other round of a row is begun.
    """

    rounds: int = 3
    seconds: float = 0.5
    limit: float = 12.0


@dataclass
class Bare:
    """The bare calls of one classifier, each kind at the plan that is the fastest for it."""

    scene: Scene
    plans: dict[object, Plan] = field(default_factory=dict)

    def job(self, method: str, scene: Scene, target: str = "predicted", output: str | None = None) -> Job:
        """Return a method's work on a scene, as a run has it."""
        return prepare(
            scene.classifier,
            scene.source,
            [method],
            target=target,
            output=output,
            seed=0,
            map_dtype="float16",
            settings=RunSettings(),
        )

    def sweep(self, job: Job) -> Sweep:
        """Return its passes."""
        request = job.request
        return Sweep(
            self.scene.classifier, [m.method for m in request.methods], request.target, request.output, 0, job.plan
        )

    def plan(self, job: Job) -> Plan:
        """Return the fastest plan for the kinds of passes that a job makes."""
        sweep = self.sweep(job)
        every = {tuple(sorted((p.layers, p.pixels) for p in s.products)) for s in sweep.stages() if s.points}
        kinds = frozenset(kind for kind in every if kind) or frozenset(every)  # backward passes decide, where there are
        if kinds not in self.plans:
            self.plans[kinds] = self._fastest(sweep, job.plan)
        return self.plans[kinds]

    def _fastest(self, sweep: Sweep, plan: Plan) -> Plan:
        """Search around ``plan``: on the CPU up to the usual batch, beyond which nothing is won but memory is lost."""
        classifier = self.scene.classifier

        def cost(trial: Plan) -> float:
            return _bare_seconds(classifier, sweep, self._some, trial, 0.3)

        largest = USUAL_BATCH if classifier.device.type == "cpu" else largest_batch(classifier)
        cost(plan)  # the first calls do not count
        best, value = climb(plan, cost(plan), cost, largest=largest, worth=0.0)
        turned = replace(best, memory_format="contiguous" if best.memory_format == "channels_last" else "channels_last")
        return turned if cost(turned) < value else best

    def seconds(self, job: Job, plan: Plan, for_seconds: float) -> float:
        """Return the seconds of an image's bare calls."""
        return _bare_seconds(self.scene.classifier, self.sweep(job), self._some, plan, for_seconds)

    def forward(self) -> tuple[Job, int]:
        """Return work of nothing but forward passes, and how many an image has."""
        job = self.job("occlusion:budget=10:fill=black", self.scene)
        return job, self.sweep(job).calls_per_image().forward

    @property
    def _some(self) -> torch.Tensor:
        return self.scene.pixels[:64]


def compare(
    scene: Scene, cases: Sequence[Case], effort: Effort, tell: Callable[[Row], None] = lambda row: None
) -> list[Row]:
    """Return a row for each case; each is told of as soon as it is measured."""
    bare, scored = Bare(scene), cache(lambda: scored_maps(scene))
    rows = []
    for case in cases:
        rows.append(measure(case, bare, scored, effort))
        tell(rows[-1])
    return rows


def measure(case: Case, bare: Bare, scored: Callable[[], Scored], effort: Effort) -> Row:
    """Return the row of one case; a peer that is missing, or fails, is told about in it."""
    ours = case.ours if isinstance(case, MethodCase) else ", ".join(case.ours)
    row = Row(
        kind="method" if isinstance(case, MethodCase) else "metric",
        ours=ours.format(**bare.scene.settings()),
        peer=f"{TITLES[case.package]} {case.peer}",
        remark=case.remark,
    )
    why = missing(case.package)
    if why is not None:
        return replace(row, failure=why)
    try:
        with quiet():
            if isinstance(case, MethodCase):
                return _method(replace(case, ours=row.ours), bare, effort, row)
            return _metric(case, bare, scored(), effort, row)
    except SalienceError as error:
        return replace(row, failure=f"not for this model: {error}")
    except Exception as error:  # a peer's failure is a finding, and ends nothing
        return replace(row, failure=f"fails: {type(error).__name__}: {error}".splitlines()[0])


@contextmanager
def quiet() -> Iterator[None]:
    """Leave out the peers' warnings."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _ways(plan: Plan, usual_batch: int) -> dict[str, How]:
    usual = replace(plan, batch=usual_batch, memory_format="contiguous", attention="fused")
    return {"usual": How(usual, usual=True), "best": How(plan)}


def _rounds(effort: Effort) -> Iterator[int]:
    """Count rounds, one at least, as long as there is time for another like the last."""
    begin = last = time.perf_counter()
    for done in range(effort.rounds):
        now = time.perf_counter()
        if done and now - begin + (now - last) > effort.limit:
            return
        last = now
        yield done


def _count(per_image: float, effort: Effort, most: int) -> int:
    return min(most, max(FEWEST, int(effort.seconds / max(per_image, 1e-9))))


# ---------------------------------------------------------------------- methods


def _method(case: MethodCase, bare: Bare, effort: Effort, row: Row) -> Row:
    own = bare.job(case.ours, bare.scene, output=case.output)
    stand_in, times = (own, 1) if case.needed is None else (bare.job(case.needed[0], bare.scene), case.needed[1])
    plan = bare.plan(stand_in)
    scene = bare.scene.first(_count(times * bare.seconds(stand_in, plan, 0.2), effort, len(bare.scene)))
    job = replace(own, labels=own.labels[: len(scene)], classes=own.classes[: len(scene)])
    ways = _ways(plan, USUAL_BATCH)
    agreement, between = agreement_of_maps(case, scene, ways["best"])  # what it takes does not count
    taken: dict[str, list[float]] = {name: [] for name in ("bare", "salience", *ways)}
    for _ in _rounds(effort):
        taken["bare"].append(times * bare.seconds(stand_in, plan, effort.seconds))
        taken["salience"].append(_whole_seconds(job, scene.source, RunSettings()) / len(scene))
        for name, how in ways.items():
            with how.entered(scene.classifier):
                laid_out = scene.laid_out(how)
                run = case.make(laid_out, how)
                begin = time.perf_counter()
                for rows in laid_out.rows(how.batch):
                    run(rows)
                taken[name].append((time.perf_counter() - begin) / len(scene))
    return _filled(row, len(scene), taken, agreement, between)


def agreement_of_maps(case: MethodCase, scene: Scene, how: How) -> Found:
    """Return how far the maps agree, and those of two seeds where the peer draws what cannot be given."""
    ours = _explained(case, scene, seed=0)
    with how.entered(scene.classifier):
        laid_out = scene.laid_out(how)
        run = (case.given or case.make)(laid_out, how)
        theirs = np.concatenate([run(rows) for rows in laid_out.rows(how.batch)])
    found = of_maps(*case.align(ours, theirs, scene))
    between = of_maps(_explained(case, scene, seed=1), ours) if case.seeds else None
    return found, between


def _explained(case: MethodCase, scene: Scene, seed: int) -> Floats:
    maps = salience.explain(scene.classifier, scene.source, case.ours, output=case.output, seed=seed)
    if maps.image_ids != scene.ids:
        raise SalienceError(f"{len(maps.failures)} maps failed, e.g. {maps.failures[:1]}")
    return floats(maps.values)


# ---------------------------------------------------------------------- metrics


def scored_maps(scene: Scene) -> Scored:
    """Compute the maps that are scored."""
    maps = salience.explain(scene.classifier, scene.source, METHOD)
    if maps.image_ids != scene.ids:
        raise SalienceError(f"{len(maps.failures)} maps failed, e.g. {maps.failures[:1]}")
    chosen = floats(maps.probabilities)[np.arange(len(scene)), scene.targets]
    return Scored(scene, maps, maps.upsampled(scene.size), chosen)


def _metric(case: MetricCase, bare: Bare, scored: Scored, effort: Effort, row: Row) -> Row:
    if case.labels != "predicted":  # one forward pass serves the maps of all labels
        job, share = bare.job(METHOD, bare.scene, target=case.labels), 1.0
    elif case.remakes:
        job, share = bare.job(METHOD, bare.scene), float(case.remakes)
    else:
        job, each = bare.forward()
        share = case.calls / each
    plan = bare.plan(job)
    lines = 1 if case.remakes else LINES
    scored = scored.first(_count(lines * share * bare.seconds(job, plan, 0.2), effort, len(scored.scene)))
    ways = _ways(plan, case.usual_batch)
    agreement, between = agreement_of_scores(case, scored, ways["best"])  # what it takes does not count
    taken: dict[str, list[float]] = {name: [] for name in ("bare", "salience", *ways)}
    for _ in _rounds(effort):
        taken["bare"].append(share * bare.seconds(job, plan, effort.seconds) if share else 0.0)
        taken["salience"].append(_evaluated(case, scored)[0])
        for name, how in ways.items():
            taken[name].append(_peer_s(case, scored, how)[0])
    return _filled(row, len(scored.scene), taken, agreement, between)


def agreement_of_scores(case: MetricCase, scored: Scored, how: How) -> Found:
    """Return how far the scores agree, and those of two seeds where the peer draws what cannot be given."""
    ours, theirs = _evaluated(case, scored)[1], _peer_s(case, scored, how)[1]
    between = of_scores(_evaluated(case, scored, seed=1)[1], ours) if case.seeds else None
    return of_scores(ours, theirs), between


def _evaluated(case: MetricCase, scored: Scored, seed: int = 0) -> tuple[float, Floats]:
    """Score the maps, and those of all baselines, as a user does; return seconds a map, and what is compared."""
    scene = scored.scene
    evaluate = partial(
        salience.evaluate,
        scene.classifier,
        scene.source,
        metrics=list(case.ours),
        labels=case.labels,
        background=case.background,
        map_dtype="float32",
        seed=seed,
    )
    begin = time.perf_counter()
    scores = evaluate(METHOD) if case.remakes else evaluate(maps=scored.whole)
    seconds = time.perf_counter() - begin
    methods = 1 if case.remakes else len(scores.table["method"].unique())  # maps are made for one of them alone
    return seconds / (methods * len(scene)), case.read(scores, scored)


def _peer_s(case: MetricCase, scored: Scored, how: How) -> tuple[float, Floats]:
    with how.entered(scored.scene.classifier):
        score = case.make(scored, how)
        calls, begin = 0, time.perf_counter()
        while not calls or time.perf_counter() - begin < QUICK:
            found = score()
            calls += 1
        spent = (time.perf_counter() - begin) / calls
    return spent / len(scored.scene), found


def _filled(
    row: Row, images: int, taken: dict[str, list[float]], agreement: Agreement, between: Agreement | None
) -> Row:
    times = Times(**{name: 1e3 * statistics.median(values) for name, values in taken.items()})
    rounds = len(taken["bare"])
    return replace(row, images=images, rounds=rounds, times=times, agreement=agreement, between_seeds=between)
