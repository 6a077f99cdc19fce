"""Does a smooth, coarse mask buy soundness, and does that outlast equal smoothing? The ablation, with a control.

    python experiments/complete_and_sound/replication.py cifar.npz --model resnet20.toml --images 100 --out runs/grid

Masks are fitted for every label on the published grid, scale 1 and 4 by tv 0 and 0.01, and scored by completeness and
soundness with all maps blurred alike by 0, 2, 4 and 8 pixels. Images are spread evenly over the source; backgrounds
come from all of it. The directory is a run: a killed command carries on, and other settings add to it. Prints a
Markdown table with 95 % intervals, and the paired differences of the smooth, coarse mask to the plain one.
"""

from __future__ import annotations

import argparse
import csv
import shlex
import sys
from pathlib import Path
from typing import Any

import numpy as np

import salience
from salience.data.source import open_images
from salience.explaining import RunSettings

GRID = ((1, 0.0), (1, 0.01), (4, 0.0), (4, 0.01))
COLUMNS = ("complete-and-sound", "completeness", "worst-completeness", "soundness", "worst-soundness")
TV, COARSE = ("tv 0.01, not 0, at scale 4", 3, 2), ("scale 4, not 1, at tv 0", 2, 0)
BOTH = ("both, not neither", 3, 0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source")
    parser.add_argument("--model", required=True)
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--labels", default="all")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--draws", type=int, default=4)
    parser.add_argument("--smooth", default="0,2,4,8")
    parser.add_argument("--points", type=int, default=28)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--pool-size", type=int, default=100)
    parser.add_argument("--batch", type=int)
    parser.add_argument("--device", default="auto")
    given = parser.parse_args()

    methods = [f"mask:scale={s}:tv={tv:g}:steps={given.steps}:draws={given.draws}" for s, tv in GRID]
    smooths = [float(s) for s in given.smooth.split(",")]
    metric = f"complete-sound:points={given.points}"
    scores = salience.evaluate(
        given.model,
        some_images(given.source, given.images, given.out),
        methods,
        metrics=[metric],
        labels=given.labels,
        smooth=smooths,
        pool=given.source,
        pool_size=given.pool_size,
        seeds=given.seeds,
        out=given.out,
        device=given.device,
        settings=RunSettings(batch=given.batch),
        command=sys.argv,
    )
    print(f"`python {shlex.join(sys.argv)}`\n")
    print(table(scores, smooths, f":points={given.points}"))
    print()
    print(differences(scores, methods, smooths, f":points={given.points}"))
    for failure in scores.failures:
        print(f"failed: {failure['image_id']}, {failure['method']}: {failure['message']}", file=sys.stderr)


def some_images(source: str, count: int, out: Path) -> Path:
    """Write the images that are taken, spread evenly over the source, beside the run: an array or a manifest."""
    whole = open_images(source)
    chosen = np.linspace(0, len(whole) - 1, min(count, len(whole))).round().astype(int)
    out.parent.mkdir(parents=True, exist_ok=True)
    if whole.refs[0].path is None:
        path = out.parent / f"{out.name}-{len(chosen)}.npz"
        held = np.load(source)
        name = next(k for k in held if held[k].ndim == 4)
        np.savez(path, images=held[name][chosen])
        return path
    path = out.parent / f"{out.name}-{len(chosen)}.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["file_name"])
        writer.writerows([str(whole.refs[i].path)] for i in chosen)
    return path


def table(scores: salience.Scores, smooths: list[float], suffix: str) -> str:
    """Return every line's means with intervals, for each blur."""
    lines = [f"| blur | maps | {' | '.join(COLUMNS)} | images |", "|---|---|" + "---|" * (len(COLUMNS) + 1)]
    for smooth in smooths:
        found: dict[str, dict[str, dict[str, Any]]] = {}
        for column in COLUMNS:
            for row in scores.ranking(column + suffix, smooth=smooth):
                found.setdefault(row["method"], {})[column] = row
        for method, by_column in found.items():
            cells = [_cell(by_column[c]) if c in by_column else "" for c in COLUMNS]
            n = max(row["n"] for row in by_column.values())
            lines.append(f"| {smooth:g} px | {_short(method)} | {' | '.join(cells)} | {n} |")
    return "\n".join(lines)


def differences(scores: salience.Scores, methods: list[str], smooths: list[float], suffix: str) -> str:
    """Return the paired differences that the questions are about."""
    lines = ["| blur | change | worst-soundness | worst-completeness | completeness |", "|---|---|---|---|---|"]
    for smooth in smooths:
        for title, a, b in (TV, COARSE, BOTH):
            cells = []
            for column in ("worst-soundness", "worst-completeness", "completeness"):
                rows = scores.compare(column + suffix, smooth=smooth)
                (row,) = [r for r in rows if {r["first"], r["second"]} == {methods[a], methods[b]}]
                sign = 1 if row["first"] == methods[a] else -1
                low, high = sorted((sign * row["low"], sign * row["high"]))
                cells.append(f"{sign * row['difference']:+.3f} [{low:+.3f}, {high:+.3f}]")
            lines.append(f"| {smooth:g} px | {title} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(row: dict[str, Any]) -> str:
    between = "" if row["between_seeds"] is None else f" ± {row['between_seeds']:.3f}"
    return f"{row['mean']:.3f} [{row['low']:.3f}, {row['high']:.3f}]{between}"


def _short(method: str) -> str:
    kept = [p for p in method.split(":") if not p.startswith(("steps=", "draws="))]
    return ":".join(kept)


if __name__ == "__main__":
    main()
