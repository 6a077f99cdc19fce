"""Model-call efficiency: the time of the calls that a method needs, over the time of the whole run.

*Bare calls* are the forward and backward passes that the method mathematically needs, made by nothing but torch, on
prepared tensors, with frozen weights, warmed up, in the batch and memory format that turn out fastest, by all cores or
side by side by one each, whichever that is. The *run* is all of it: reading and decoding files, explaining, reducing,
storing. Rounds of both alternate in one process, and medians are compared, because machines drift.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from salience.data.decode import load
from salience.data.source import open_images
from salience.engine.events import ignore
from salience.engine.fidelity import Fidelity
from salience.engine.method import Activation, PointMethod
from salience.engine.plan import MemoryFormat, Plan, Precision
from salience.engine.precision import casting, single
from salience.engine.queries import QueryMethod
from salience.engine.runner import to_pixels
from salience.engine.sweep import Stage, Sweep
from salience.engine.tune import climb, largest_batch, running, side_by_side
from salience.errors import MethodError
from salience.explaining import Job, RunSettings, carry_out_job, described, prepare
from salience.models.classifier import Classifier, unpack_logits
from salience.models.layers import capture
from salience.store.writer import RunWriter


@dataclass(frozen=True)
class Measured:
    """One method's figures, per image where it says so.

    ``efficiency`` is ``bare_ms / run_ms``; 1 would be a run that costs nothing beside the model. Both are in
    ``precision``. ``fidelity`` is what was found where bfloat16 was asked for, see
    :class:`~salience.engine.fidelity.Fidelity`.
    """

    method: str
    efficiency: float
    images_per_second: float
    bare_ms: float
    run_ms: float
    forward_calls: int
    backward_calls: int
    batch: int
    memory_format: str
    threads: int
    lanes: int
    images: int
    rounds: int
    precision: Precision = "float32"
    fidelity: Fidelity | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        plain = {k: round(v, 4) if isinstance(v, float) else v for k, v in asdict(self).items()}
        return {**plain, "fidelity": None if self.fidelity is None else self.fidelity.to_dict()}


def bench(
    classifier: Classifier,
    images: Any,
    methods: Sequence[str],
    *,
    limit: int | None = None,
    rounds: int = 3,
    seconds: float = 3.0,
    settings: RunSettings | None = None,
    target: str = "predicted",
    budget: int | None = None,
    told: Callable[[str], None] = lambda text: None,
) -> list[Measured]:
    """Measure the methods together, in one shared run, and each alone where there are several.

    Parameters
    ----------
    limit
        Images in a round; by default as many as take about ``seconds``.
    rounds
        Alternated rounds of bare calls and runs; medians are taken.
    budget
        Forward passes an image of black-box methods, which must be all of ``methods`` then.

    Raises
    ------
    MethodError
        When a method runs the model itself: there is no telling which calls it needs.
    """
    groups = [list(methods)] + ([[m] for m in methods] if len(methods) > 1 else [])
    results = []
    for group in groups:
        told("+".join(group))
        how = settings or RunSettings()
        results.append(_measure(classifier, images, group, limit, rounds, seconds, how, target, budget))
    return results


def _measure(
    classifier: Classifier,
    images: Any,
    methods: list[str],
    limit: int | None,
    rounds: int,
    seconds: float,
    settings: RunSettings,
    target: str,
    budget: int | None = None,
) -> Measured:
    source = open_images(images, limit=limit)
    job = prepare(
        classifier,
        source,
        methods,
        target=target,
        output=None,
        budget=budget,
        seed=0,
        map_dtype="float16",
        settings=settings,
    )
    for item in job.request.methods:
        if not isinstance(item.method, (PointMethod, QueryMethod)):
            raise MethodError(f"{item.label!r} runs the model itself, so the calls that it needs are not known.")
    sweep = Sweep(classifier, [m.method for m in job.request.methods], job.request.target, None, 0, job.plan)
    pixels = to_pixels(
        [load(source, source.refs[i], classifier.preprocessing).pixels for i in range(min(len(source), 64))], classifier
    )
    plan = _best_plan(classifier, sweep, pixels, job.plan)
    if limit is None:
        per_image = _bare_seconds(classifier, sweep, pixels, plan, 0.5) if len(source) > plan.batch else 0.0
        count = int(seconds / per_image) if per_image else len(source)
        count = max(job.plan.batch, count // job.plan.batch * job.plan.batch)
        source = open_images(images, limit=min(len(source), count))
        job = _of_first(job, len(source))
    bare: list[float] = []
    whole: list[float] = []
    warm = open_images(images, limit=min(len(source), 2 * job.plan.batch))
    _whole_seconds(_of_first(job, len(warm)), warm, settings)
    for _ in range(rounds):
        bare.append(_bare_seconds(classifier, sweep, pixels, plan, seconds / 2))
        whole.append(_whole_seconds(job, source, settings) / len(source))
    calls = sweep.calls_per_image()
    b, w = statistics.median(bare), statistics.median(whole)
    return Measured(
        method="+".join(methods),
        efficiency=b / w,
        images_per_second=1 / w,
        bare_ms=b * 1e3,
        run_ms=w * 1e3,
        forward_calls=calls.forward,
        backward_calls=calls.backward,
        batch=plan.batch,
        memory_format=plan.memory_format,
        threads=plan.threads * plan.lanes,
        lanes=plan.lanes,
        images=len(source),
        rounds=rounds,
        precision=plan.precision,
        fidelity=job.fidelity,
    )


def _of_first(job: Job, count: int) -> Job:
    """Return a job for the first images of its source."""
    return replace(job, labels=job.labels[:count], classes=job.classes[:count])


def _whole_seconds(job: Job, source: Any, settings: RunSettings) -> float:
    """Time a run from the files to the store."""
    with (
        tempfile.TemporaryDirectory() as folder,
        RunWriter(Path(folder) / "run", kind="explain", source="benchmark") as writer,
    ):
        writer.use_recipes(job.classifier.name, list(job.recipes), job.unit_images)
        writer.describe(models={job.classifier.name: described(job)})
        begin = time.perf_counter()
        carry_out_job(job, source, writer, ignore, settings)
        return time.perf_counter() - begin


def _best_plan(classifier: Classifier, sweep: Sweep, pixels: Tensor, plan: Plan) -> Plan:
    """Search around ``plan`` for the batch and memory format in which the bare calls are fastest."""
    if getattr(classifier, "fixed_batch", None) or classifier.paid:
        return plan

    def cost(trial: Plan) -> float:
        return _bare_seconds(classifier, sweep, pixels, trial, 0.3)

    plan = replace(plan, attention="fused")  # what is fastest, byte for byte the same or not
    other: MemoryFormat = "contiguous" if plan.memory_format == "channels_last" else "channels_last"
    found = []
    backward = any(stage.products for stage in sweep.stages())
    whole = plan.alone()
    cost(whole)  # the first calls of a process do not count
    for start in (whole, plan) if plan.lanes > 1 else (whole,):  # all cores at one call, or side by side
        largest = largest_batch(classifier, start, backward)
        best, value = climb(start, cost(start), cost, largest=largest, worth=0.0)
        turned = replace(best, memory_format=other)
        found += [(value, best), (cost(turned), turned)]
    return min(found, key=lambda item: item[0])[1]


def _bare_seconds(classifier: Classifier, sweep: Sweep, pixels: Tensor, plan: Plan, seconds: float) -> float:
    """Return the seconds per image of the bare calls that the methods of ``sweep`` need."""
    x = pixels.repeat((plan.batch + len(pixels) - 1) // len(pixels), 1, 1, 1)[: plan.batch]
    x = classifier.normalise(x.to(classifier.dtype)).contiguous(memory_format=plan.torch_format)
    stages = [s for s in sweep.stages() if s.points]
    with running(classifier, plan):
        total = 0.0
        for stage in stages:  # one pass over and over: it is timed some times, and counts as often as it is needed
            call = partial(_bare_pass, sweep=sweep, stage=stage, x=x, plan=plan)
            share = seconds / len(stages)
            timed = side_by_side(classifier, plan, call, share) if plan.lanes > 1 else _alone(classifier, call, share)
            total += stage.points * timed
    return total / plan.batch


def _alone(classifier: Classifier, call: Callable[[Classifier], None], seconds: float) -> float:
    """Return the median seconds of a call."""
    times: list[float] = []
    began = time.perf_counter()
    while len(times) < 4 or time.perf_counter() - began < seconds:
        begin = time.perf_counter()
        call(classifier)
        if classifier.device.type == "cuda":
            torch.cuda.synchronize(classifier.device)
        times.append(time.perf_counter() - begin)
    return statistics.median(times[1:])


def _bare_pass(classifier: Classifier, sweep: Sweep, stage: Stage, x: Tensor, plan: Plan) -> None:
    pixels = any(p.pixels for p in stage.products)
    with ExitStack() as stack, torch.set_grad_enabled(bool(stage.products)):
        held = [
            stack.enter_context(capture(classifier, sweep.layers[w])) for w in stage.wants if isinstance(w, Activation)
        ]
        leaf = x.detach().requires_grad_(pixels)
        with casting(classifier, plan.precision):
            z = single(unpack_logits(classifier.module(leaf), len(leaf)))
        layers = [h.activation for h in held if h.activation is not None]
        for k, product in enumerate(stage.products):
            of = (layers if product.layers else []) + ([leaf] if product.pixels else [])
            more = k < len(stage.products) - 1
            torch.autograd.grad(z[:, k % z.shape[1]].sum(), of, retain_graph=more, allow_unused=True)
