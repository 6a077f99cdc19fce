"""Salience beside Quantus: the same metrics of the same maps, one process, alternated rounds, medians.

    python benchmarks/metrics.py cifar.npz --model resnet20.toml --limit 64

Maps are gradients of the predicted class. Salience is timed as a user gets it: ``evaluate`` in memory, decoding and all
baselines included, over the maps that it scores (the method's and the baselines'); Quantus gets decoded arrays and
scores the method's alone. *Efficiency* is the time of the bare model calls for the masked images, at the best batch,
over the time of the whole; *difference* the largest between the two libraries' values. ``ratio`` compares seconds a
map. With few images the fixed costs of a run count, which Quantus has not: it stores nothing and resumes nothing.

Quantus deletes features, not pixels: with the map repeated over the channels and a step of three features a pixel,
whole pixels go (its check that the step divides the number of pixels is left out). Its curve leaves the whole image
out, and its area under it fails where NumPy has no ``trapz`` (2.4 and later); so curves are compared. Where Quantus
cannot be imported, a plain loop that deletes as it does takes its place, and the table says so.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

import salience
from salience.data.decode import load
from salience.data.source import open_images
from salience.engine.allocator import keep_freed_memory
from salience.engine.events import Finished
from salience.engine.plan import Plan
from salience.engine.runner import to_pixels
from salience.engine.tune import make_plan, seconds_per_row
from salience.explaining import RunSettings
from salience.models.classifier import Classifier, as_found
from salience.store.maps import Maps

Floats = npt.NDArray[np.float64]
POINTS = 32
"""Steps that divide the pixels of a square image of 32 or 224: then both ends of a curve have the same points."""


@dataclass(frozen=True)
class Ours:
    """What evaluate came to: values by image, seconds, maps that were scored, rows of the model."""

    values: Floats
    seconds: float
    maps: int
    rows: int


@dataclass(frozen=True)
class Case:
    """One comparison: our metrics, and the peer's call that returns its values and the rows it asked for."""

    name: str
    metrics: tuple[str, ...]
    read: Callable[[salience.Scores], Floats]
    peer: Callable[[Given], tuple[Floats, int]]


@dataclass(frozen=True)
class Given:
    """What the peers get: the normalised images, their classes and maps (N, 1, H, W), and the logits' module."""

    module: nn.Module
    x: npt.NDArray[np.float32]
    y: npt.NDArray[np.int64]
    a: npt.NDArray[np.float32]
    quantus: Any

    @property
    def step(self) -> int:
        """Pixels between two points."""
        return -(-self.a[0].size // POINTS)


# ---------------------------------------------------------------------- the peer


def flipping(given: Given) -> tuple[Floats, int]:
    """Delete the most salient pixels, to zero in the normalised space; return probabilities (N, points)."""
    points = math.ceil(given.a[0].size / given.step)
    if given.quantus is None:
        return plain_flipping(given), points * len(given.x)
    metric = given.quantus.PixelFlipping(
        features_in_step=3 * given.step, perturb_baseline=0.0, normalise=False, disable_warnings=True
    )
    metric.custom_preprocess = lambda **_: None  # it wants a step that divides the pixels, and takes features
    found = metric(model=given.module, x_batch=given.x, y_batch=given.y, a_batch=given.a, softmax=True, device="cpu")
    return np.asarray(found, dtype=np.float64), points * len(given.x)


def insertion(given: Given) -> tuple[Floats, int]:
    """Delete the least salient pixels first: inserted the other way round, most salient first."""
    flat = given.a.reshape(len(given.a), -1)
    least = flat.shape[1] - 1 - flat.argsort(axis=1).argsort(axis=1)  # by rank: it takes no maps below zero
    return flipping(replace(given, a=least.reshape(given.a.shape).astype(np.float32)))


def both(given: Given) -> tuple[Floats, int]:
    """Delete from both ends, for what salience reads from one sweep."""
    (first, rows), (second, more) = flipping(given), insertion(given)
    return np.concatenate([first, second], 1), rows + more


def plain_flipping(given: Given) -> Floats:
    """Do as Quantus does: sort features, change an array, predict every image's next step in one batch."""
    order = np.argsort(-np.broadcast_to(given.a, given.x.shape).reshape(len(given.x), -1), axis=1, kind="stable")
    x, curve = given.x.copy().reshape(len(given.x), -1), []
    rows = np.arange(len(x))
    for at in range(0, order.shape[1], 3 * given.step):
        x[rows[:, None], order[:, at : at + 3 * given.step]] = 0
        with torch.no_grad():
            p = given.module(torch.from_numpy(x.reshape(given.x.shape))).softmax(1).numpy()
        curve.append(p[rows, given.y])
    return np.stack(curve, 1).astype(np.float64)


def of_the_map(name: str) -> Callable[[Given], tuple[Floats, int]]:
    """Return a metric of the map alone, by Quantus' name."""

    def call(given: Given) -> tuple[Floats, int]:
        if given.quantus is None:
            return np.zeros((0, 1)), 0
        metric = getattr(given.quantus, name)(abs=True, normalise=False, disable_warnings=True)
        found = metric(model=given.module, x_batch=given.x, y_batch=given.y, a_batch=given.a, device="cpu")
        values = np.asarray(found, dtype=np.float64)[:, None]
        return values / math.log(given.a[0].size) if name == "Complexity" else values, 0

    return call


# ---------------------------------------------------------------------- ours


def curve(order: str) -> Callable[[salience.Scores], Floats]:
    """Return what reads the stored curve (N, points), without the end that the peer leaves out."""

    def read(scores: salience.Scores) -> Floats:
        rows = [r for r in scores.curves.to_pylist() if r["method"] == "gradient" and r["curve"] == order]
        values = np.array([r["values"] for r in sorted(rows, key=lambda r: r["image_id"])], dtype=np.float64)
        return values[:, 1:] if order == "delete" else values[:, ::-1][:, 1:]

    return read


def both_curves(scores: salience.Scores) -> Floats:
    return np.concatenate([curve("delete")(scores), curve("keep")(scores)], 1)


def value(scores: salience.Scores) -> Floats:
    rows = [r for r in scores.table.to_pylist() if r["method"] == "gradient"]
    return np.array([[r["value"]] for r in sorted(rows, key=lambda r: r["image_id"])])


def ours(case: Case, classifier: Classifier, source: Any, maps: Maps, how: RunSettings) -> Ours:
    rows = 0

    def listen(event: object) -> None:
        nonlocal rows
        if isinstance(event, Finished):
            rows = event.forward_calls

    begin = time.perf_counter()
    scores = salience.evaluate(
        classifier, source, maps=maps, metrics=list(case.metrics), labels="predicted", settings=how, listen=listen
    )
    seconds = time.perf_counter() - begin
    return Ours(case.read(scores), seconds, len(scores.methods) * len(maps.image_ids), rows)


CASES = (
    Case("deletion (pixel flipping)", (f"deletion:points={POINTS}",), curve("delete"), flipping),
    Case("insertion", (f"insertion:points={POINTS}",), curve("keep"), insertion),
    Case(
        "both, and srg",
        (f"deletion:points={POINTS}", f"insertion:points={POINTS}", f"srg:points={POINTS}"),
        both_curves,
        both,
    ),
    Case("Gini index (sparseness)", ("gini",), value, of_the_map("Sparseness")),
    Case("entropy (complexity)", ("entropy",), value, of_the_map("Complexity")),
)


class Normalised(nn.Module):
    """The module as the peers want it: normalised images in, logits out."""

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self.net, self._classifier = classifier.module, classifier

    def forward(self, x: Tensor) -> Tensor:
        from salience.models.classifier import unpack_logits

        return unpack_logits(self.net(x), len(x))


def import_quantus() -> tuple[Any, str]:
    """Return Quantus and its version, or None and why there is none."""
    try:
        import quantus
    except Exception as error:  # broken builds raise anything
        return None, f"Quantus cannot be imported here ({type(error).__name__}): a plain loop as it does it"
    return quantus, f"Quantus {quantus.__version__}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images")
    parser.add_argument("--model", required=True)
    parser.add_argument("--limit", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch", type=int)
    given = parser.parse_args()

    keep_freed_memory()
    warnings.filterwarnings("ignore", module="quantus")
    peer, told = import_quantus()
    classifier = salience.load_model(given.model, device="cpu")
    source = open_images(given.images, limit=given.limit)
    maps = salience.explain(classifier, source, "gradient", batch_size=16)
    pixels = to_pixels([load(source, r, classifier.preprocessing).pixels for r in source.refs], classifier)
    data = Given(
        Normalised(classifier).eval(),
        classifier.normalise(pixels).numpy(),
        maps.targets,
        maps.values[:, None].astype(np.float32),
        peer,
    )
    plan = make_plan(classifier, gradients=False, batch=given.batch)
    how = RunSettings(batch=plan.batch, memory_format=plan.memory_format, threads=plan.threads)
    print(f"{told}; {len(source)} images, batch {plan.batch}, {plan.threads} threads, {given.rounds} rounds\n")
    print("| metric | salience, ms a map | peer, ms a map | ratio | efficiency | of the peer | difference |")
    print("|---|---|---|---|---|---|---|")
    for case in CASES:
        row = compare(case, classifier, source, maps, data, plan, how, given.rounds)
        if row is not None:
            print(row, flush=True)


def compare(
    case: Case,
    classifier: Classifier,
    source: Any,
    maps: Maps,
    data: Given,
    plan: Plan,
    how: RunSettings,
    rounds: int,
) -> str | None:
    """Return a row of the table; None where the peer has no such metric."""
    mine: list[Ours] = []
    bare, theirs = [], []
    for turn in range(rounds + 1):
        bare.append(seconds_per_row(classifier, plan, False))
        mine.append(ours(case, classifier, source, maps, how))
        with as_found(classifier.module):
            begin = time.perf_counter()
            found, asked = case.peer(data)
            theirs.append(time.perf_counter() - begin)
        if not len(found):
            return None
        if not turn:  # the first round warms up
            bare, mine, theirs = [], mine[:0], []
    row = statistics.median(bare)
    seconds, other = statistics.median(m.seconds for m in mine), statistics.median(theirs)
    each, peer_each = seconds / mine[0].maps, other / len(data.x)
    apart = float(np.abs(mine[0].values - found).max())
    shares = [f"{row * n / s:.2f}" if n > len(data.x) else "" for n, s in ((mine[0].rows, seconds), (asked, other))]
    cells = (f"{each * 1e3:.2f}", f"{peer_each * 1e3:.2f}", f"{peer_each / each:.1f}", *shares, f"{apart:.1e}")
    return f"| {case.name} | {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
