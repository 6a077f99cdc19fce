"""Resident memory over thousands of images: it must not grow.

python benchmarks/memory.py cifar.npz --model resnet20.toml --images 2000
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import psutil

from salience.engine.events import Committed, Event
from salience.explaining import RunSettings, explain_run
from salience.models.loading import load_model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images")
    parser.add_argument("--model", required=True)
    parser.add_argument("--method", default="gradient,positive,negative,contrast,gradcam")
    parser.add_argument("--images", dest="count", type=int, default=2000)
    given = parser.parse_args()
    process = psutil.Process()
    done = 0
    seen: list[tuple[int, float]] = []

    def listen(event: Event) -> None:
        nonlocal done
        if isinstance(event, Committed):
            done += event.images
            seen.append((done, process.memory_info().rss / 2**20))

    with tempfile.TemporaryDirectory() as folder:
        explain_run(
            [load_model(given.model)],
            given.images,
            given.method.split(","),
            Path(folder) / "run",
            limit=given.count,
            settings=RunSettings(unit_images=128),
            listen=listen,
        )
    for count, megabytes in seen:
        print(f"{count:6} images {megabytes:8.1f} MiB")
    middle = len(seen) // 2
    print(f"second half: {seen[-1][1] - seen[middle][1]:+.1f} MiB")


if __name__ == "__main__":
    main()
