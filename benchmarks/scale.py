"""What a unit and an image cost: overhead, growth to tens of thousands of images, and what a million would take.

python benchmarks/scale.py cifar10.npz --model resnet20.toml --large photos/ --large-model efficientnet_lite0.toml

Every run is made in a process of its own, whose memory is looked at while it works. Overhead is what the same images
cost more in many units than in few, by the pace once the workers are there; growth is the slope of time, bytes and
memory over the number of images. Nothing but slopes goes into what a million images are said to cost.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import psutil

from salience.engine.allocator import keep_freed_memory
from salience.engine.crew import Crew
from salience.engine.events import Committed, Event
from salience.explaining import RunSettings, explain_run
from salience.models.loading import load_model

COUNTS = (1_000, 2_000, 5_000, 10_000, 20_000, 40_000, 60_000)
ENGINES = ("process", "local:1", "local:2", "ray:1", "ray:2")
METHODS = ("gradcam", "gradient")
MILLION = 1_000_000
_LOOK_S = 0.02


@dataclass(frozen=True)
class Job:
    """One run: what a process of its own is told."""

    images: str
    model: str
    method: str
    count: int
    engine: str = "process"
    unit_images: int | None = None


@dataclass(frozen=True)
class Cost:
    """What a run cost.

    ``seconds`` is the work on the images: reading, explaining, storing. The model is loaded and its batch found before,
    but workers, where there are any, start and load theirs within; ``image_ms`` is the pace from the first unit that is
    safe to the last. ``core_seconds`` is the processor time of the process, which a busy machine changes less.
    ``peak_mib`` is the resident memory of the process that the command runs in, workers not counted, ``begin_mib`` the
    same before the run, and ``first_mib`` when its first unit is safe: the images are listed then.
    """

    count: int
    units: int
    seconds: float
    core_seconds: float
    image_ms: float
    bytes: int
    begin_mib: float
    first_mib: float
    peak_mib: float


# ---------------------------------------------------------------------- one run


def run(job: Job) -> Cost:
    """Make a run in a process of its own."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as alone:
        return alone.submit(_run, job).result()


def _run(job: Job) -> Cost:
    keep_freed_memory()
    engine, _, workers = job.engine.partition(":")
    crew = None if engine == "process" else Crew(engine, int(workers))  # type: ignore[arg-type]  # checked there
    classifier = load_model(job.model)
    how = RunSettings(crew=crew, unit_images=job.unit_images)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        # a run of some images first: the batch is found, code is loaded, and the slopes are of the rest
        explain_run([classifier], job.images, [job.method], Path(folder) / "first", limit=64, settings=how)
        begin, pace = _resident(), Pace()
        with _watched() as seen:
            started, used = time.perf_counter(), time.process_time()
            explain_run([classifier], job.images, [job.method], out, limit=job.count, settings=how, listen=pace)
            seconds, cores = time.perf_counter() - started, time.process_time() - used
        size = sum(p.stat().st_size for p in out.rglob("*") if p.is_file())
        units = len(list((out / "units").iterdir()))
    return Cost(job.count, units, seconds, cores, pace.image_ms(), size, begin, pace.first_mib, max(seen))


class Pace:
    """Hears when units are safe."""

    def __init__(self) -> None:
        self._safe: list[tuple[float, int]] = []
        self.first_mib = float("nan")

    def __call__(self, event: Event) -> None:
        if isinstance(event, Committed):
            if not self._safe:
                self.first_mib = _resident()
            self._safe.append((time.perf_counter(), event.images))

    def image_ms(self) -> float:
        """Return milliseconds an image, from the first unit to the last; NaN of a single unit."""
        images = sum(n for _, n in self._safe[1:])
        return (self._safe[-1][0] - self._safe[0][0]) / images * 1e3 if images else float("nan")


def _resident() -> float:
    return float(psutil.Process().memory_info().rss / 2**20)


@contextmanager
def _watched() -> Iterator[list[float]]:
    """Look at this process's memory again and again, MiB."""
    seen, ended = [_resident()], threading.Event()

    def look() -> None:
        while not ended.wait(_LOOK_S):
            seen.append(_resident())

    watcher = threading.Thread(target=look, daemon=True)
    watcher.start()
    try:
        yield seen
    finally:
        ended.set()
        watcher.join()


# ---------------------------------------------------------------------- figures


def slope(x: Sequence[float], y: Sequence[float]) -> float:
    """Return the least-squares slope of ``y`` over ``x``."""
    a, b = (np.asarray(v, dtype=np.float64) - np.mean(v) for v in (x, y))
    return float(a @ b / (a @ a))


@dataclass(frozen=True)
class Overhead:
    """What one more unit costs on one kind of workers; ``few_seconds`` has their start in it."""

    engine: str
    unit_ms: float
    few_seconds: float
    few_units: int
    many_units: int


def overhead(job: Job, engine: str, units: tuple[int, int], rounds: int) -> Overhead:
    """Explain the same images in few and in many units, alternately; medians of the difference."""
    few, many = (
        [run(replace(job, engine=engine, unit_images=-(-job.count // n))) for _ in range(rounds)] for n in units
    )
    added = [(b.image_ms - a.image_ms) * job.count / (b.units - a.units) for a, b in zip(few, many, strict=True)]
    first = statistics.median(a.seconds for a in few)
    return Overhead(engine, statistics.median(added), first, few[0].units, many[0].units)


@dataclass(frozen=True)
class Large:
    """Slopes of one method on a model of usual size."""

    method: str
    image_ms: float
    core_ms: float
    image_bytes: float


def large(job: Job, counts: tuple[int, int]) -> Large:
    """Measure what an image more costs."""
    costs = [run(replace(job, count=count)) for count in counts]
    x = [c.count for c in costs]
    seconds, cores = slope(x, [c.seconds for c in costs]), slope(x, [c.core_seconds for c in costs])
    return Large(job.method, seconds * 1e3, cores * 1e3, slope(x, [c.bytes for c in costs]))


def enlarged(path: str, count: int, folder: Path) -> str:
    """Return a file of ``count`` images: those of ``path``, then the same moved by a pixel, by two, and so on."""
    with np.load(path, allow_pickle=False) as archive:
        images = archive["images"]
    if len(images) >= count:
        return path
    copies = -(-count // len(images))
    moved = [np.roll(images, k, axis=(1, 2)) for k in range(copies)]
    made = folder / "enlarged.npz"
    np.savez(made, images=np.concatenate(moved)[:count])
    return str(made)


# ---------------------------------------------------------------------- tables


def table(heads: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return a Markdown table."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def overhead_table(found: Sequence[Overhead]) -> str:
    """Return the cost of a unit by who works."""
    rows = [[o.engine, f"{o.unit_ms:.1f}", f"{o.few_seconds:.1f}", f"{o.few_units}, {o.many_units}"] for o in found]
    return table(("workers", "ms a unit", "s, few units", "units"), rows)


def growth_table(costs: Sequence[Cost]) -> str:
    """Return what runs of more and more images cost."""
    rows = [
        [
            f"{c.count:,}",
            f"{c.seconds:.1f}",
            f"{c.core_seconds:.1f}",
            f"{c.bytes / 2**20:.1f}",
            f"{c.begin_mib:.0f}",
            f"{c.first_mib:.0f}",
            f"{c.peak_mib:.0f}",
        ]
        for c in costs
    ]
    heads = (
        "images",
        "seconds",
        "core seconds",
        "MiB stored",
        "MiB resident before",
        "after the first unit",
        "at most",
    )
    return table(heads, rows)


def million_table(found: Sequence[Large]) -> str:
    """Return what a million images would cost at the measured slopes."""
    rows = [
        [
            f"`{f.method}`",
            f"{f.image_ms:.1f}",
            f"{f.core_ms:.1f}",
            f"{f.image_ms * MILLION / 1e3 / 3600:.1f}",
            f"{f.core_ms * MILLION / 1e3 / 3600:.1f}",
            f"{f.image_bytes:.0f}",
            f"{f.image_bytes * MILLION / 2**30:.2f}",
        ]
        for f in found
    ]
    heads = ("method", "ms an image", "core ms", "hours a million", "core hours", "bytes an image", "GiB a million")
    return table(heads, rows)


def growth_line(costs: Sequence[Cost]) -> str:
    """Tell the slopes over the number of images in words."""
    x = [c.count for c in costs]
    ms = slope(x, [c.seconds for c in costs]) * 1e3
    cores = slope(x, [c.core_seconds for c in costs]) * 1e3
    size = slope(x, [c.bytes for c in costs])
    memory = slope(x, [c.peak_mib for c in costs]) * 1e4
    return (
        f"An image more: {ms:.2f} ms, {cores:.2f} ms of one core, {size:.0f} bytes; "
        f"ten thousand more: {memory:+.1f} MiB resident."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", help=".npz; with fewer images than the largest count, moved copies are added")
    parser.add_argument("--model", required=True)
    parser.add_argument("--method", default="gradcam")
    parser.add_argument("--counts", default=",".join(map(str, COUNTS)), help="images of the growing runs")
    parser.add_argument("--engines", default=",".join(ENGINES), help="kinds of workers; empty for none")
    parser.add_argument("--overhead-images", type=int, default=2048)
    parser.add_argument("--units", default="4,64", help="few and many, for the overhead of a unit")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--large", help="images of usual size")
    parser.add_argument("--large-model")
    parser.add_argument("--large-methods", default=",".join(METHODS))
    parser.add_argument("--large-counts", default="100,400")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    counts = [int(c) for c in given.counts.split(",") if c]
    few, many = (int(n) for n in given.units.split(","))
    first, second = (int(n) for n in given.large_counts.split(","))
    if given.large and not given.large_model:
        parser.error("--large needs --large-model")

    with tempfile.TemporaryDirectory() as folder:
        images = enlarged(given.images, max([*counts, given.overhead_images]), Path(folder))
        job = Job(images, given.model, given.method, given.overhead_images)
        engines = [e for e in given.engines.split(",") if e]
        overheads = [overhead(job, engine, (few, many), given.rounds) for engine in engines]
        costs = [run(replace(job, count=count)) for count in counts]
        of_large = (
            [large(Job(given.large, given.large_model, m, 0), (first, second)) for m in given.large_methods.split(",")]
            if given.large
            else []
        )
    if given.json:
        found = {"overhead": overheads, "growth": costs, "large": of_large}
        print(json.dumps({name: [asdict(f) for f in some] for name, some in found.items()}, indent=2))
        return
    if overheads:
        print(overhead_table(overheads), end="\n\n")
    if costs:
        print(growth_table(costs), end="\n\n")
    if len(costs) > 1:
        print(growth_line(costs), end="\n\n")
    if of_large:
        print(million_table(of_large))


if __name__ == "__main__":
    main()
