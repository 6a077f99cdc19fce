"""Model-call efficiency of whole verbs: what `evaluate`, `audit` and `compare` take beside the bare model.

    python benchmarks/stages.py photos/ --model card.toml --limit 32 [--verb evaluate,audit,compare] [--json]

Each verb is run once into a fresh directory, and every stage of it that calls a model tells how many rows it gave it
and how long it took, decoding, scoring and storing included. Those rows are then priced at the bare calls of the same
model, as `salience bench` measures them (the fastest batch and memory format, one call or several side by side), before
and after; the mean of both counts. Stages that explain are priced by the method's own passes, all others by forward
passes.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import salience
from salience.benchmark import bench
from salience.engine.allocator import keep_freed_memory
from salience.engine.events import Event, Finished
from salience.models.classifier import Classifier

BARE_IMAGES = 32
GRADCAM, IG, FORWARD = "gradcam", "ig:steps=32", "rise:budget=64"


@dataclass(frozen=True)
class Stage:
    """What a stage took, and what its rows cost the bare model."""

    verb: str
    stage: str
    images: int
    forward: int
    seconds: float
    bare_seconds: float
    efficiency: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images")
    parser.add_argument("--model", required=True)
    parser.add_argument("--limit", type=int, default=32)
    parser.add_argument("--verb", default="evaluate,audit,compare")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    keep_freed_memory()
    classifier = salience.load_model(given.model)
    rows = [row for verb in given.verb.split(",") for row in measured(classifier, given.images, verb, given.limit)]
    print(json.dumps([asdict(row) for row in rows], indent=2) if given.json else markdown(rows))


def measured(classifier: Classifier, images: str, verb: str, limit: int) -> list[Stage]:
    """Return the stages of one verb, and their sum."""
    method = IG if verb == "compare" else GRADCAM
    finished: list[Finished] = []

    def listen(event: Event) -> None:
        if (
            isinstance(event, Finished) and event.forward_calls and event.verb != "audit"
        ):  # that is the sum of the others
            finished.append(event)

    before = bare(classifier, images, method)
    with tempfile.TemporaryDirectory() as folder:
        VERBS[verb](classifier, images, method, limit, Path(folder) / "run", listen)
    after = bare(classifier, images, method)
    explaining, forward = ((a + b) / 2 for a, b in zip(before, after, strict=True))
    rows = []
    for event in finished:
        ask = event.computed * explaining if event.backward_calls else event.forward_calls * forward
        what = f"{event.model}, {event.verb}"
        rows.append(
            Stage(verb, what, event.computed, event.forward_calls, event.seconds, ask, ask / max(1e-9, event.seconds))
        )
    seconds, ask = sum(r.seconds for r in rows), sum(r.bare_seconds for r in rows)
    return [*rows, Stage(verb, "all", limit, sum(r.forward for r in rows), seconds, ask, ask / max(1e-9, seconds))]


def bare(classifier: Classifier, images: str, method: str) -> tuple[float, float]:
    """Return the bare seconds of an image's maps, and of a forward pass."""
    (maps,) = bench(classifier, images, [method], limit=BARE_IMAGES, rounds=1, seconds=1)
    (passes,) = bench(classifier, images, [FORWARD], limit=2, rounds=1, seconds=1)
    return maps.bare_ms / 1e3, passes.bare_ms / 1e3 / passes.forward_calls


def _evaluate(model: Classifier, images: str, method: str, limit: int, out: Path, listen: Any) -> None:
    salience.evaluate(model, images, [method], limit=limit, out=out, listen=listen)


def _audit(model: Classifier, images: str, method: str, limit: int, out: Path, listen: Any) -> None:
    salience.audit({"model": [model]}, images, method=method, limit=limit, out=out, listen=listen)


def _compare(model: Classifier, images: str, method: str, limit: int, out: Path, listen: Any) -> None:
    salience.compare(model, None, images, method=method, limit=limit, out=out, listen=listen)


VERBS: dict[str, Callable[..., None]] = {"evaluate": _evaluate, "audit": _audit, "compare": _compare}


def markdown(rows: Sequence[Stage]) -> str:
    """Return the stages as a table."""
    lines = [
        "| verb | stage | images | forward passes | seconds | bare | efficiency |",
        "|---|---|---|---|---|---|---|",
    ]
    for r in rows:
        figures = f"{r.images} | {r.forward} | {r.seconds:.1f} | {r.bare_seconds:.1f} | {r.efficiency:.2f}"
        lines.append(f"| {r.verb} | {r.stage} | {figures} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
