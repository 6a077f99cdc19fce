"""What a comparison takes beside the models: concepts, effects with their tests, tables.

    python benchmarks/compare.py --images 10000 --segments 50

The segments are drawn: every one is a direction about that of one of some concepts, and the models differ in a few of
these. All else is what ``salience compare`` does once maps, segments and embeddings are stored. *Concepts* finds them,
gives one to every segment and tells how good they are; *effects* is the three families over all strata, with intervals,
p-values and corrections, done once more after the concepts are numbered by what differs; *tables* is writing all of
them. Seconds of one process, its peak memory, and what was found of what was planted.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from salience.comparison.attributing import Attributions
from salience.comparison.cells import Procedure
from salience.comparison.concepts import find_concepts
from salience.comparison.effects import Slices, effects
from salience.comparison.ranking import order_concepts
from salience.store.writer import RunWriter

Floats = npt.NDArray[np.float64]
MODELS = ("old", "new")
DIFFERENT = 3
"""Concepts that the second model gives more to."""
_BLOCK = 500
_NOISE = 0.6
"""Length of the noise on a direction of length 1."""


@dataclass(frozen=True)
class Drawn:
    """Embeddings (P, D) that come block after block, as those of a run do."""

    directions: npt.NDArray[np.float32]
    kind: npt.NDArray[np.int64]
    segments: int
    seed: int

    def blocks(self, images: Sequence[str]) -> Iterator[npt.NDArray[np.float32]]:
        size = self.directions.shape[1]
        for at in range(0, len(images), _BLOCK):
            rng = np.random.default_rng([self.seed, at])
            rows = self.kind[at * self.segments : (at + _BLOCK) * self.segments]
            noise = rng.standard_normal((len(rows), size)).astype(np.float32) * (_NOISE / size**0.5)
            points = self.directions[rows] + noise
            yield points / np.linalg.norm(points, axis=1, keepdims=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=10000)
    parser.add_argument("--segments", type=int, default=50, help="of an image")
    parser.add_argument("--size", type=int, default=280, help="of an embedding: 280 as colour and texture have")
    parser.add_argument("--kinds", type=int, default=25, help="kinds of segments that are there")
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--concepts", type=int, help="how many to look for; by default the most reliable number")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    found = measure(given.images, given.segments, given.size, given.kinds, given.classes, given.concepts)
    print(json.dumps(found, indent=2) if given.json else markdown(found))


def measure(images: int, segments: int, size: int, kinds: int, classes: int, concepts: int | None) -> dict[str, float]:
    """Return the seconds of every stage, the peak memory and how many of the planted differences were found."""
    rng = np.random.default_rng(0)
    kind = rng.integers(0, kinds, images * segments)
    directions = rng.standard_normal((kinds, size)).astype(np.float32)
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    of = attributions(rng, kind, images, segments)
    label = np.arange(images, dtype=np.int64) % classes
    seconds = {}

    begin = time.perf_counter()
    found = find_concepts(of, Drawn(directions, kind, segments, 1), label, concepts, 0)  # type: ignore[arg-type]
    seconds["concepts"] = time.perf_counter() - begin

    begin = time.perf_counter()
    slices = Slices([f"class {c}" for c in label.tolist()])
    shares = {m: of.by_concept(v, found.concept, found.count) for m, v in of.shares.items()}
    totals = {m: of.by_concept(v, found.concept, found.count) for m, v in of.totals.items()}
    rows = effects(shares, totals, slices, procedure=Procedure(seed=0))
    seconds["effects"] = time.perf_counter() - begin

    begin = time.perf_counter()
    found = found.numbered(order_concepts(rows, found.quality))
    tables = {"segments": found.segment_table(of), "attributions": of.table(label.tolist()), "concepts": found.table}
    with (
        tempfile.TemporaryDirectory() as folder,
        RunWriter(Path(folder) / "run", kind="explain", source="drawn") as writer,
    ):
        for name, table in {**tables, "effects": rows}.items():
            writer.put_derived(name, table)
    seconds["tables"] = time.perf_counter() - begin

    return {
        "images": images,
        "segments": images * segments,
        "found": found.count,
        **{name: round(value, 2) for name, value in seconds.items()},
        "all": round(sum(seconds.values()), 2),
        "peak_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        "planted": DIFFERENT,
        "beyond_chance": beyond_chance(rows),
    }


def attributions(rng: np.random.Generator, kind: npt.NDArray[np.int64], images: int, segments: int) -> Attributions:
    """Return maps of two models that differ in the first kinds of segments."""
    count = images * segments
    shared = rng.normal(0, 1, count)
    totals = {}
    for m, name in enumerate(MODELS):
        totals[name] = shared + rng.normal(0, 0.5, count) + m * 0.5 * (kind < DIFFERENT)
    size = {m: np.repeat(np.abs(v).reshape(images, segments).sum(axis=1), segments) for m, v in totals.items()}
    return Attributions(
        tuple(f"{i:06d}" for i in range(images)),
        np.arange(images + 1, dtype=np.int64) * segments,
        None,
        np.full(count, 1 / segments),
        rng.uniform(0, 1, count),
        rng.uniform(0, 1, count),
        totals,
        {m: totals[m] / size[m] for m in MODELS},
    )


def beyond_chance(rows: pa.Table) -> int:
    """Return the number of concepts whose sums of maps differ over all images, with a q below 0.05."""
    ledger = pc.and_(pc.equal(rows["family"], "ledger"), pc.equal(rows["stratum"], "all"))
    return len(rows.filter(pc.and_(ledger, pc.less(pc.fill_null(rows["q"], 1.0), 0.05))))


def markdown(found: dict[str, float]) -> str:
    """Return one table."""
    names = list(found)
    lines = [names, ["---"] * len(names), [f"{found[n]:,}" for n in names]]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


if __name__ == "__main__":
    main()
