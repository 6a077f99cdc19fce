"""Which maps can be trusted on several models? The leaderboards of finished evaluations as Markdown.

    salience evaluate IMAGES --model CARD --method ... --metric complete-sound,... --background ... --out runs/resnet20
    python experiments/complete_and_sound/models.py runs/resnet20 runs/vit ...

A table a run: the smaller of worst-case completeness and worst-case soundness under each background, with its 95 %
interval where there are images enough; methods in the order of their mean over backgrounds; then how well backgrounds
agree on the order, and what the evaluation warns of but the baselines, which the table shows.
"""

from __future__ import annotations

import statistics
import sys
from collections import defaultdict
from pathlib import Path

from salience.scores import FEWEST, Scores, read_scores

HEADLINE = "complete-and-sound"


def main() -> None:
    for folder in sys.argv[1:]:
        print("\n".join(leaderboard(Path(folder).name, read_scores(folder))))


def leaderboard(name: str, scores: Scores) -> list[str]:
    """Return the section of one run."""
    (metric,) = {s.metric for s in scores.settings if s.metric.startswith(HEADLINE)}
    cells: dict[str, dict[str, str]] = defaultdict(dict)
    means: dict[str, list[float]] = defaultdict(list)
    for row in scores.ranking(metric=metric):
        interval = f" [{row['low']:.2f}, {row['high']:.2f}]" if row["n"] >= FEWEST else ""
        cells[row["method"]][row["background"]] = f"{row['mean']:.2f}{interval}"
        means[row["method"]].append(row["mean"])
    backgrounds = list(next(iter(cells.values())))
    images = len(scores.table["image_id"].unique())
    lines = [f"## {name}, {images} images", "", "| method | " + " | ".join(backgrounds) + " |"]
    lines.append("|---|" + "---|" * len(backgrounds))
    for method in sorted(cells, key=lambda m: -statistics.mean(means[m])):
        shown = method if scores.methods[method]["kind"] == "baseline" else f"`{method}`"
        lines.append(f"| {shown} | " + " | ".join(cells[method].get(b, "") for b in backgrounds) + " |")
    taus = [
        f"{row['first']} and {row['second']} {row['tau']:.2f}"
        for row in scores.agreement()
        if row["metric"] == metric and row["tau"] is not None
    ]
    told = [w for about, texts in scores.findings().items() if about != "baselines" for w in texts]
    return [*lines, "", f"Kendall's tau of the orders: {'; '.join(taus)}.", "", *(f"- {w}" for w in told), ""]


if __name__ == "__main__":
    main()
