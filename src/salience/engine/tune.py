"""Find, by measuring for some seconds, how a model runs fastest here; remember it per model and machine."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import platformdirs
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from salience.engine.memory import bytes_of_rows, room
from salience.engine.passes import call_model, is_out_of_memory
from salience.engine.plan import MemoryFormat, Plan, Precision
from salience.engine.precision import casting, exact_convolutions
from salience.errors import ModelError
from salience.models.classifier import GRADIENTS, Classifier, as_found
from salience.models.twin import twin

_CACHE_VERSION = 8
_PAID_BATCH = 16
_BATCH_S = 1e-3
"""What the engine itself takes for a batch, about: of two batches that are equally fast, the larger one wins."""
_LANE_THREADS = (1, 4)
"""So many threads of a lane are tried."""
_LANES_ON_CUDA = 2
_LANES_WORTH = 1.3
"""Lanes are taken up to this cost of one call after another: images are decoded and results written beside them."""
_TWIN_ROWS = 2
"""A twin is tried on so many rows."""
_LANES_S = 0.25
"""So long calls side by side are timed at least: the first ones of a thread are slow."""
_MAX_BATCH = {"cpu": 256, "cuda": 512, "mps": 256}


def make_plan(
    classifier: Classifier,
    *,
    gradients: bool = True,
    batch: int | None = None,
    memory_format: MemoryFormat | None = None,
    threads: int | None = None,
    lanes: int | None = None,
    precision: Precision = "float32",
    budget_s: float = 2.0,
    remember: bool = True,
) -> Plan:
    """Return the plan for ``classifier``: what is given by hand is kept, the rest is measured or remembered.

    The plan is one under which an image's result does not depend on its place in the batch, byte for byte; where
    kernels make it so, attention is computed without fusion, or the batch is made smaller. A paid model is asked
    nothing to find that out: its plan is what is given or usual, and promises no more than that (``exact`` is false).
    """
    fixed: int | None = getattr(classifier, "fixed_batch", None)
    if classifier.paid:
        count = threads or torch.get_num_threads()
        size = fixed or batch or classifier.usual_batch or _PAID_BATCH
        return Plan(size, memory_format or "contiguous", count, str(classifier.device), exact=False)
    given = (fixed or batch, memory_format, threads, lanes, precision)
    path = _cache_path(classifier, gradients, given) if remember else None
    known = _recall(path)
    if known is not None:
        return known
    if fixed or batch:
        each = max(1, (threads or torch.get_num_threads()) // (lanes or 1))
        plan = Plan(
            fixed or batch or 1,
            memory_format or "channels_last",
            each,
            str(classifier.device),
            precision=precision,
            lanes=lanes or 1,
        )
        if not memory_format and plan.batch > 1 and not fixed:
            plan = _measure(classifier, gradients, batch, memory_format, threads, lanes, precision, budget_s)
    else:
        plan = _measure(classifier, gradients, batch, memory_format, threads, lanes, precision, budget_s)
    if lanes is None and classifier.device.type == "cuda" and _has_twins(classifier, plan, gradients):
        # while one lane's images are decoded and its results written, the device has the other's to do
        plan = replace(plan, threads=max(1, plan.threads // _LANES_ON_CUDA), lanes=_LANES_ON_CUDA)
    plan = _exact(classifier, plan, movable=not fixed)
    _store(path, plan)
    return plan


def _exact(classifier: Classifier, plan: Plan, *, movable: bool) -> Plan:
    """Return the nearest plan under which rows are independent of their place."""
    sizes = [plan.batch]
    while movable and sizes[-1] > 1:
        sizes.append(1 << (sizes[-1] - 1).bit_length() - 1)  # the next power of two below
    for size in sizes:
        for attention in ("fused", "math"):
            trial = replace(plan, batch=size, attention=attention)
            try:
                independent = rows_are_independent(classifier, trial)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                break  # a smaller batch may fit
            if independent:
                return trial
    return replace(plan, exact=False)


def rows_are_independent(classifier: Classifier, plan: Plan) -> bool:
    """Tell whether a row's logits and gradient are the same bytes at every place in the batch, beside any others.

    Forward passes are tried with and without a graph: kernels may differ.
    """
    if plan.batch == 1:
        return True
    pixels = _probe(classifier, plan)
    order = torch.arange(plan.batch, device=pixels.device)
    with_others = pixels.flip(0)
    with_others[::2] = 1 - with_others[::2]
    trials = ((pixels.roll(1, 0), order.roll(1), slice(None)), (with_others, order.flip(0), slice(1, None, 2)))
    with running(classifier, plan):
        for gradients in (False, True):
            logits, slope = _call(classifier, pixels, plan, gradients)
            for rows, moved, same in trials:
                other, other_slope = _call(
                    classifier, rows.contiguous(memory_format=plan.torch_format), plan, gradients
                )
                if not torch.equal(other[same], logits[moved][same]):
                    return False
                if slope is None or other_slope is None:
                    continue
                if not torch.equal(other_slope[same], slope[moved][same]):
                    return False
    return True


def _probe(classifier: Classifier, plan: Plan) -> Tensor:
    """Return a batch of random pixels."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.rand(plan.batch, 3, *classifier.preprocessing.size, generator=generator)
    return pixels.to(classifier.device, classifier.dtype).contiguous(memory_format=plan.torch_format)


def _call(classifier: Classifier, pixels: Tensor, plan: Plan, gradients: bool) -> tuple[Tensor, Tensor | None]:
    """Make one forward pass, and one backward pass to the pixels where ``gradients`` and the model has them."""
    gradients = gradients and GRADIENTS in classifier.capabilities
    with torch.set_grad_enabled(gradients):
        leaf = pixels.detach().requires_grad_(gradients)
        logits = call_model(classifier, leaf, plan)
        slope = torch.autograd.grad(logits[:, 0].sum(), leaf)[0] if gradients else None
    return logits.detach(), slope


def _measure(
    classifier: Classifier,
    gradients: bool,
    batch: int | None,
    memory_format: MemoryFormat | None,
    threads: int | None,
    lanes: int | None,
    precision: Precision,
    budget_s: float,
) -> Plan:
    count = max(1, (threads or torch.get_num_threads()) // (lanes or 1))
    deadline = time.perf_counter() + budget_s
    formats: list[MemoryFormat] = [memory_format] if memory_format else ["channels_last", "contiguous"]
    start = batch or min(8, largest_batch(classifier, Plan(1), gradients))
    like = Plan(start, formats[0], count, str(classifier.device), precision=precision, lanes=lanes or 1)

    def cost(plan: Plan) -> float:
        return seconds_per_row(classifier, plan, gradients) + _BATCH_S / plan.batch

    while True:
        try:
            with running(classifier, like):  # the first calls of a process are slow: they do not count
                _call(classifier, _probe(classifier, replace(like, batch=start)), like, gradients)
            break
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            if start == 1:  # the images then fail one by one, as rows
                return replace(like, batch=1)
            start = batch = start // 2
    seconds = {f: cost(replace(like, batch=start, memory_format=f)) for f in formats}
    fastest = min(formats, key=lambda f: seconds[f])
    alone = replace(like, batch=start, memory_format=fastest)
    best, value = alone, seconds[fastest]
    if lanes is None:
        best, value = _in_lanes(classifier, alone, value, batch, cost, gradients)
    if batch is None:
        largest = largest_batch(classifier, best, gradients)
        best, _ = climb(best, value, cost, deadline=deadline, largest=largest)
    if threads is None and lanes is None and best.lanes == 1 and count > 3 and time.perf_counter() < deadline:
        half = replace(best, threads=count // 2)
        best = min((best, half), key=cost)
    return best


def _in_lanes(
    classifier: Classifier, plan: Plan, value: float, batch: int | None, cost: Callable[[Plan], float], gradients: bool
) -> tuple[Plan, float]:
    """Return the plan with calls side by side where that is about as fast or faster, else as it is; and its cost.

    ``batch`` is the one given by hand; without it, one core gets larger batches than two do, for it is best at them.
    """
    if classifier.device.type != "cpu" or plan.threads < 2 or not _has_twins(classifier, plan, gradients):
        return plan, value
    found = []
    for threads in _LANE_THREADS:
        trial = replace(plan, threads=threads, lanes=plan.threads // threads)
        if trial.lanes > 1:
            size = batch or min(2 * plan.batch, largest_batch(classifier, trial, gradients))
            trial = replace(trial, batch=size)
            try:
                found.append((cost(trial), trial))
            except (RuntimeError, MemoryError, ModelError):  # too large for the memory, or no thread can run it
                continue
    if not found:
        return plan, value
    seconds, best = min(found, key=lambda item: item[0])
    return (best, seconds) if seconds < value * _LANES_WORTH else (plan, value)


def _has_twins(classifier: Classifier, plan: Plan, gradients: bool) -> bool:
    """Tell whether the model has a twin that answers with the same bytes."""
    try:
        with running(classifier, replace(plan, threads=1) if classifier.device.type == "cpu" else plan):
            rows = getattr(classifier, "fixed_batch", None) or min(plan.batch, _TWIN_ROWS)
            pixels = _probe(classifier, replace(plan, batch=rows))
            logits, slope = _call(classifier, pixels, plan, gradients)
            other, other_slope = _call(twin(classifier), pixels, plan, gradients)
    except (ModelError, RuntimeError, MemoryError):
        return False
    same = torch.equal(logits, other)
    return same and (slope is None or other_slope is None or torch.equal(slope, other_slope))


def largest_batch(classifier: Classifier, plan: Plan, gradients: bool) -> int:
    """Return the largest batch that is tried under a plan's lanes: one whose activations the memory carries.

    A device other than the CPU says when its memory is full, and a smaller batch is taken then.
    """
    most = _MAX_BATCH.get(classifier.device.type, 256)
    if classifier.device.type != "cpu" or GRADIENTS not in classifier.capabilities:
        return most
    one = replace(plan, batch=1, lanes=1)
    try:
        with running(classifier, one):
            pixels = _probe(classifier, one)
            row = bytes_of_rows(
                classifier.module, lambda: _call(classifier, pixels, one, gradients=True), gradients=gradients
            )
    except (ModelError, RuntimeError, MemoryError):  # it will be told where the model is run
        return most
    return max(1, min(most, room() // (plan.lanes * max(1, row))))


def climb(
    best: Plan,
    value: float,
    cost: Callable[[Plan], float],
    *,
    largest: int,
    deadline: float = float("inf"),
    worth: float = 0.03,
) -> tuple[Plan, float]:
    """Double the batch while that saves the share ``worth``, or else halve it; stop after two steps in vain.

    ``value`` is the cost of ``best``. Returns the best plan and its cost.
    """
    start = best.batch
    for factor in (2.0, 0.5):
        if best.batch > start:
            break  # what is smaller has been left behind
        size, misses = best.batch, 0
        while misses < 2 and time.perf_counter() < deadline:
            size = int(size * factor)
            if not 1 <= size <= largest:
                break
            trial = replace(best, batch=size)
            try:
                seconds = cost(trial)
            except (RuntimeError, MemoryError, ModelError):  # too large for the memory, or for the model
                break
            if seconds < value * (1 - worth):
                best, value, misses = trial, seconds, 0
            else:
                misses += 1
    return best, value


def seconds_per_row(classifier: Classifier, plan: Plan, gradients: bool, at_least_s: float = 0.15) -> float:
    """Time the bare model: one forward pass, and one backward pass to the pixels where ``gradients``.

    The fastest of as many calls as fit into ``at_least_s``: small models are timed often, because a single short call
    tells more about the machine's other work than about the model. Of one that takes so long, one is enough.
    """
    pixels = _probe(classifier, plan)
    if plan.lanes > 1:
        with running(classifier, plan):
            call = partial(_call, pixels=pixels, plan=plan, gradients=gradients)
            return side_by_side(classifier, plan, call, max(at_least_s, _LANES_S), min) / plan.batch
    best, spent = float("inf"), 0.0
    with running(classifier, plan):
        _call(classifier, pixels, plan, gradients)
        while spent < at_least_s:
            _wait(classifier)
            begin = time.perf_counter()
            _call(classifier, pixels, plan, gradients)
            _wait(classifier)
            seconds = time.perf_counter() - begin
            best, spent = min(best, seconds), spent + seconds
    return best / plan.batch


def side_by_side(
    classifier: Classifier,
    plan: Plan,
    call: Callable[[Classifier], object],
    at_least_s: float,
    typical: Callable[[list[float]], float] = statistics.median,
) -> float:
    """Time calls of twins in as many threads as the plan has lanes; return the seconds from one call to the next.

    ``typical`` makes one time of those of a thread. Must be used inside :func:`running`.
    """
    begin = threading.Barrier(plan.lanes, timeout=60)

    def calls_a_second(model: Classifier) -> float:
        torch.set_num_threads(plan.threads)
        times: list[float] = []
        try:
            call(model)
            begin.wait()
        except BaseException:
            begin.abort()  # nobody waits for one that failed
            raise
        began = time.perf_counter()
        while len(times) < 2 or time.perf_counter() - began < at_least_s:
            start = time.perf_counter()
            call(model)
            times.append(time.perf_counter() - start)
        return 1 / typical(times)

    twins = [twin(classifier) for _ in range(plan.lanes)]
    with ThreadPoolExecutor(plan.lanes) as pool:
        return 1 / sum(pool.map(calls_a_second, twins))


@contextmanager
def running(classifier: Classifier, plan: Plan) -> Iterator[None]:
    """Freeze the model and set threads, memory format and kernels as ``plan`` says; leave all as it was found.

    Autocast is off inside but for the model calls of a plan that says so: a caller's own would change sums.
    """
    threads, cudnn = torch.get_num_threads(), torch.backends.cudnn
    kernels = (cudnn.deterministic, cudnn.benchmark)
    if plan.threads not in (0, threads):
        torch.set_num_threads(plan.threads)
    cudnn.deterministic, cudnn.benchmark = True, False
    try:
        with ExitStack() as stack:
            if plan.attention == "math":
                stack.enter_context(sdpa_kernel(SDPBackend.MATH))
            stack.enter_context(casting(classifier, "float32"))
            stack.enter_context(exact_convolutions())
            stack.enter_context(as_found(classifier.module, plan.torch_format))
            yield
    finally:
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)
        cudnn.deterministic, cudnn.benchmark = kernels


def _wait(classifier: Classifier) -> None:
    if classifier.device.type == "cuda":
        torch.cuda.synchronize(classifier.device)
    elif classifier.device.type == "mps":
        torch.mps.synchronize()


def _cache_path(classifier: Classifier, gradients: bool, given: tuple[object, ...]) -> Path:
    folder = Path(os.environ.get("SALIENCE_CACHE") or platformdirs.user_cache_dir("salience"))
    device = torch.cuda.get_device_name(classifier.device) if classifier.device.type == "cuda" else platform.processor()
    what = (
        _CACHE_VERSION,
        classifier.fingerprint(),
        str(classifier.device),
        device,
        platform.machine(),
        platform.node(),
        torch.__version__,
        torch.get_num_threads(),
        gradients,
        given,
    )
    name = hashlib.sha256(repr(what).encode()).hexdigest()[:24]
    return folder / "plans" / f"{name}.json"


def _recall(path: Path | None) -> Plan | None:
    if path is None:
        return None
    try:
        return Plan.read(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):  # not there, or damaged: measuring again is the cure
        return None


def _store(path: Path | None, plan: Plan) -> None:
    if path is None:
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(f".{os.getpid()}")
        partial.write_text(json.dumps(plan.to_dict()), encoding="utf-8")
        partial.replace(path)
    except OSError:  # a cache that cannot be written costs some seconds next time, nothing else
        return
