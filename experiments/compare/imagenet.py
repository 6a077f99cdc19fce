"""Two ImageNet classifiers on validation images, nothing planted: what a comparison shows, and how sure it is.

    python experiments/compare/imagenet.py IMAGES --model CARD --model CARD --out RUN

Killed, the same command goes on. Prints Markdown, and writes it to ``imagenet.md`` beside this file.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import salience
from salience.explaining import RunSettings

sys.path.append(str(Path(__file__).resolve().parent))
from telling import told


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path)
    parser.add_argument("--model", action="append", required=True, type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--method", default="ig:steps=32:baseline=black+white")
    parser.add_argument("--limit", type=int)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    first, *others = (salience.load_model(str(card), device="cpu") for card in given.model)
    comparison = salience.compare(
        first,
        others,
        given.images,
        method=given.method,
        limit=given.limit,
        out=given.out,
        settings=RunSettings(threads=given.threads),
        command=sys.argv,
    )
    comparison.report()
    names = " against ".join(card.stem for card in given.model)
    cards = " ".join(f"--model {card.name}" for card in given.model)
    limit = "" if given.limit is None else f" --limit {given.limit}"
    command = f"python experiments/compare/imagenet.py IMAGES {cards} --out RUN --method {given.method}{limit}"
    lines = [f"# {names}: nothing planted", "", f"`{command}`", "", *told(comparison), *notes(comparison)]
    text = "\n".join(lines)
    print(text)
    (Path(__file__).parent / "imagenet.md").write_text(text, encoding="utf-8")


def notes(comparison: salience.Comparison) -> list[str]:
    """Return how many effects of each family are beyond chance and confirmed, and what the page notes."""
    rows = comparison.effects.to_pylist()
    lines = ["| family | tested | q < 0.05 | intervened | confirmed |", "|---|---|---|---|---|"]
    for family in dict.fromkeys(row["family"] for row in rows):
        own = [row for row in rows if row["family"] == family and row["p"] is not None]
        counts = (
            len(own),
            sum(row["q"] is not None and row["q"] < 0.05 for row in own),
            sum(row["confirmed"] is not None for row in own),
            sum(bool(row["confirmed"]) for row in own),
        )
        lines.append(f"| {family} | " + " | ".join(map(str, counts)) + " |")
    return [*lines, "", "Notes of the page:", "", *(f"- {note}" for note in comparison.notes), ""]


if __name__ == "__main__":
    main()
