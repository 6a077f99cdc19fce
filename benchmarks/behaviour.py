"""Similarities of all pairs of runs beside loops over scikit-image and SciPy, then a whole audit's tables.

    python benchmarks/behaviour.py --images 10000 --runs 10 --grid 7

*SSIM*, *Pearson* and *Spearman* of R (R - 1) / 2 pairs of runs on N images: ours over everything, the peers' calls over
a sample of pairs of maps, of which the seconds for all are told. Both are timed in turn, of each the median;
*difference* is the largest between their values. Ours makes the 8-bit maps within its time, the peer gets them ready.
*Stability* is all that the measure computes, chance level and class agreement included; *tables* is that measure with
its bootstrap, tests and rows, for two groups.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from scipy import stats
from skimage.metrics import structural_similarity

from salience.behaviour.similarity import cells, published_8bit, ranked, ssim_pairs, standardised
from salience.behaviour.stability import stability
from salience.behaviour.tables import audit_tables
from salience.behaviour.view import CLEAN, Aligned, Array, ConditionTraits, Floats, Numbers

AnyMaps = npt.NDArray[np.generic]
Peer = Callable[[AnyMaps, AnyMaps], float]
SAMPLE = 2000
"""Pairs of maps that the peers are given: their time goes with the number."""
BLOCK = 500
"""Images that we take at a time."""


@dataclass(frozen=True)
class Maps:
    """A view of two groups of runs, with clean maps only."""

    values: Mapping[str, Array]
    groups: Mapping[str, Sequence[str]]
    image_ids: Sequence[str]
    labels: Numbers
    method: str = "gradcam"
    units: Sequence[str] | None = None
    measures: Sequence[str] = ("stability",)
    scores: pa.Table | None = None
    out_of_set: None = None
    seed: int = 0
    classes: Mapping[str, Numbers] = field(default_factory=dict)

    def conditions(self, measure: str) -> Sequence[ConditionTraits]:
        return ()

    def grid(self, model: str) -> tuple[int, int]:
        h, w = self.values[model].shape[1:]
        return h, w

    def input_size(self, model: str) -> tuple[int, int]:
        return 224, 224

    def maps(self, model: str, images: Numbers, condition: str = CLEAN, *, fixed: bool = True) -> Array:
        return self.values[model][images]

    def predicted(self, model: str, condition: str = CLEAN) -> Numbers:
        return self.classes[model]

    def logits(self, model: str, images: Numbers, condition: str = CLEAN) -> Array:
        raise NotImplementedError

    def align(self, model: str, condition: str, clean: Array, changed: Array) -> Aligned:
        raise NotImplementedError


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--runs", type=int, default=10, help="of each of two groups")
    parser.add_argument("--grid", type=int, default=7, help="side of the maps")
    parser.add_argument("--rounds", type=int, default=3, help="of which medians are taken")
    given = parser.parse_args()
    view = simulated(given.images, given.runs, given.grid)
    maps = np.stack([view.values[m] for m in view.groups["plain"]], axis=1)
    pairs = given.runs * (given.runs - 1) // 2
    print(
        f"{pairs} pairs of runs x {given.images} images at {given.grid}x{given.grid}; median of {given.rounds} rounds\n"
    )
    print(f"{'':12}{'ours, s':>10}{'peer, s':>12}{'ratio':>9}{'difference':>14}")
    sample = drawn(given.images, given.runs)
    for name, ours, peer, of in similarities(maps):
        seconds, others, found, expected = alternated(ours, lambda p=peer, m=of: looped(p, m, sample), given.rounds)
        scale = pairs * given.images / len(sample)
        gap = np.abs(found[tuple(sample.T)] - expected).max()
        print(f"{name:12}{seconds:10.2f}{others * scale:12.1f}{others * scale / seconds:9.0f}{gap:14.1e}")
    print()
    for name, work in (
        ("stability of one group", lambda: stability(view, "plain")),
        ("tables of two groups", lambda: audit_tables(view)),
    ):
        start = time.perf_counter()
        work()
        print(f"{name:24}{time.perf_counter() - start:8.1f} s")


def simulated(images: int, runs: int, side: int) -> Maps:
    """Runs that share half of their maps."""
    rng = np.random.default_rng(0)
    common = rng.random((images, side, side), dtype=np.float32)
    groups = {g: tuple(f"{g}-{k}" for k in range(runs)) for g in ("plain", "guided")}
    models = [m for of in groups.values() for m in of]
    classes = rng.integers(0, 100, images)
    return Maps(
        values={m: common + rng.random(common.shape, dtype=np.float32) for m in models},
        groups=groups,
        image_ids=[f"{i:06d}.png" for i in range(images)],
        labels=classes,
        classes=dict.fromkeys(models, classes),
    )


def similarities(maps: Array) -> list[tuple[str, Callable[[], Floats], Peer, AnyMaps]]:
    """Return a name, our call over maps (N, R, h, w), the peer's for two maps, and the maps that the peer gets."""

    def in_blocks(work: Callable[[Array], Floats]) -> Callable[[], Floats]:
        return lambda: np.concatenate([work(maps[at : at + BLOCK]) for at in range(0, len(maps), BLOCK)])

    def bytes_of(block: Array) -> npt.NDArray[np.uint8]:
        return published_8bit(block.reshape(-1, *block.shape[2:]))[0].reshape(block.shape)

    def products(rows: Floats) -> Floats:
        return rows @ rows.swapaxes(1, 2)

    exact = maps.astype(np.float64)
    return [
        (
            "SSIM",
            in_blocks(lambda block: ssim_pairs(bytes_of(block))),
            lambda a, b: float(structural_similarity(a, b)),
            bytes_of(maps),
        ),
        (
            "Pearson",
            in_blocks(lambda block: products(standardised(cells(block)))),
            lambda a, b: float(stats.pearsonr(a.ravel(), b.ravel()).statistic),
            exact,
        ),
        (
            "Spearman",
            in_blocks(lambda block: products(ranked(cells(block)))),
            lambda a, b: float(stats.spearmanr(a.ravel(), b.ravel()).statistic),
            exact,
        ),
    ]


def drawn(images: int, runs: int) -> Numbers:
    """Return images and pairs of runs for the peers, (n, 3)."""
    rng = np.random.default_rng(1)
    first = rng.integers(0, runs, SAMPLE)
    second = (first + rng.integers(1, runs, SAMPLE)) % runs
    return np.stack([rng.integers(0, images, SAMPLE), first, second], axis=1)


def looped(peer: Peer, maps: AnyMaps, sample: Numbers) -> Floats:
    return np.array([peer(maps[i, a], maps[i, b]) for i, a, b in sample])


def alternated(
    first: Callable[[], Floats], second: Callable[[], Floats], rounds: int
) -> tuple[float, float, Floats, Floats]:
    """Return median seconds of both, in turn, and what they found."""
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(rounds):
        found = []
        for work, seconds in zip((first, second), times, strict=True):
            start = time.perf_counter()
            found.append(work())
            seconds.append(time.perf_counter() - start)
    return statistics.median(times[0]), statistics.median(times[1]), found[0], found[1]


if __name__ == "__main__":
    main()
