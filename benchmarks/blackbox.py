"""Black-box methods at equal budgets: insertion, deletion, average drop, pointing game, IoU, and agreement of seeds.

    python benchmarks/blackbox.py IMAGES --model CARD --budget 64,256 --limit 200 --out results/lite0 [--json]
    python benchmarks/blackbox.py IMAGES --model CARD --method rise@4096,evolve@512 --against rise@4096 --out few

The search fills hidden pixels with one thing (``--fill``), the scores with others (the image's mean for deletion, a
blur for insertion). Localisation counts images whose boxes cover less than a quarter. Differences to the first method
of a budget, or to one method for all (``--against``), are paired, with bootstrap intervals over images: ▲ better than
it, ▼ worse, = not to be told apart. It writes into run directories, so a benchmark that is stopped carries on, and
prints a table in Markdown.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from salience.data.base import ImageRef, ImageSource
from salience.data.decode import decode
from salience.data.geometry import box_to_input
from salience.data.source import open_images
from salience.engine.allocator import keep_freed_memory
from salience.engine.events import Event, Progress
from salience.evaluating import evaluate
from salience.explaining import RunSettings, explain_run
from salience.metrics.localisation import box_mask
from salience.models.classifier import LAYERS, Classifier
from salience.models.loading import load_model
from salience.scores import Scores

METHODS = "evolve,rise,hsic,sobol,ridge,kernel_shap,occlusion,decam"
UNDER = 0.25
SHOWN = (
    ("insertion:points=14", "blur", "insertion ↑"),
    ("deletion:points=14", "mean", "deletion ↓"),
    ("average-drop", "", "average drop ↓"),
    (f"pointing:under={UNDER}", "", "pointing ↑"),
    (f"iou:under={UNDER}", "", "IoU ↑"),
)


def main() -> None:
    args = arguments()
    keep_freed_memory()
    model = load_model(args.model, device=args.device)
    names = methods(args.method.split(","), args.budget, args.fill, model)
    settings = RunSettings(batch=args.batch, threads=args.threads)
    boxes = args.boxes or args.small_boxes
    metrics = [metric for metric, _, _ in (SHOWN if boxes else SHOWN[:3])]
    scores = evaluate(
        model,
        pictures(args, model, args.limit),
        [n for _, _, n in names],
        metrics=metrics,
        background=["blur", "mean"],
        labels="predicted",
        seed=0,
        settings=settings,
        out=args.out,
        listen=told("seed 0"),
        command=sys.argv,
    )
    agreement = seeds(scores, model, args, [n for _, _, n in names], settings) if args.seeds else {}
    rows = table(scores, names, agreement, boxes, args.against)
    print(json.dumps(rows, indent=2) if args.json else markdown(rows))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("images")
    parser.add_argument("--model", required=True)
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--method", default=METHODS, help="NAME for every budget, NAME@BUDGET for one")
    parser.add_argument("--against", help="NAME@BUDGET that all are compared to; default: the first of each budget")
    parser.add_argument("--budget", default="64,256", type=lambda s: [int(v) for v in s.split(",")])
    parser.add_argument("--fill", default="grey", help="what the search puts in the place of hidden pixels")
    parser.add_argument("--limit", type=int, default=200)
    parser.add_argument("--boxes", action="store_true", help="score localisation: the manifest has boxes")
    parser.add_argument("--small-boxes", action="store_true", help="so too, and leave out images without a small box")
    parser.add_argument("--seeds", type=int, default=0, help="explain so many images with another seed, and correlate")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--batch", type=int)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


def pictures(args: argparse.Namespace, model: Classifier, limit: int) -> ImageSource:
    """Return the first images, or the first of those whose boxes cover less than a quarter of what the model sees."""
    source = open_images(args.images)
    refs = (ref for ref in source.refs if not args.small_boxes or 0 < _boxed(source, ref, model) < UNDER)
    chosen = copy.copy(source)
    chosen.refs = list(itertools.islice(refs, limit))
    return chosen


def _boxed(source: ImageSource, ref: ImageRef, model: Classifier) -> float:
    if not ref.boxes:
        return 0.0
    image, how = decode(source.read(ref), model.preprocessing), model.preprocessing
    placed = torch.tensor([box_to_input(box, image.width, image.height, how) for box in ref.boxes])
    return float(box_mask(placed, how.size).double().mean())


def methods(asked: Sequence[str], budgets: Sequence[int], fill: str, model: Classifier) -> list[tuple[str, int, str]]:
    """Return (name, budget, text) of everything that is scored; Grad-CAM as the white-box reference."""
    alike = [(name, b) for b in budgets for name in asked if "@" not in name]
    pairs = [(name, int(b)) for name, _, b in (text.partition("@") for text in asked) if b]
    found = [(name, b, f"{name}:budget={b}:fill={fill}") for name, b in alike + pairs]
    return found + ([("gradcam", 0, "gradcam")] if LAYERS in model.capabilities else [])


def told(what: str) -> Any:
    last = [-1]

    def listen(event: Event) -> None:
        if isinstance(event, Progress) and event.images and int(20 * event.share) != last[0]:
            last[0] = int(20 * event.share)
            print(f"{what}: {event.share:.0%}, {event.eta_s / 60:.1f} min left", file=sys.stderr, flush=True)

    return listen


def seeds(
    scores: Scores, model: Classifier, args: argparse.Namespace, names: Sequence[str], settings: RunSettings
) -> dict[str, float]:
    """Return the mean rank correlation of the maps that were scored with maps of another seed, of the first images."""
    assert scores.run is not None
    other = explain_run(
        [model],
        pictures(args, model, args.seeds),
        [n for n in names if n != "gradcam"],
        args.out.with_name(f"{args.out.name}.seed1"),
        seed=1,
        settings=settings,
        listen=told("seed 1, for agreement"),
    ).run
    found = {}
    for name in names:
        if name == "gradcam":
            continue
        again = other.maps(method=name, model=model.name)
        first = scores.run.maps(method=name, model=model.name, images=again.image_ids)
        found[name] = float(np.mean([_correlation(a, b) for a, b in zip(first.values, again.values, strict=True)]))
    return found


def _correlation(a: Any, b: Any) -> float:
    ranks = np.stack([np.argsort(np.argsort(v.ravel())) for v in (a, b)]).astype(np.float64)
    return float(np.corrcoef(ranks)[0, 1])


def table(
    scores: Scores,
    names: Sequence[tuple[str, int, str]],
    agreement: dict[str, float],
    boxes: bool,
    against: str | None,
) -> list[dict[str, Any]]:
    """Return a row for each method and budget, with the paired difference to one method or the first of its budget."""
    rows = [{"method": name, "budget": budget, "text": text} for name, budget, text in names]
    for metric, background, _ in SHOWN if boxes else SHOWN[:3]:
        if not any(s.metric == metric for s in scores.settings):  # no image has what it needs: boxes that are small
            continue
        ranking = scores.ranking(metric, background or None)
        pairs = scores.compare(metric, background or None)
        values = {r["method"]: r for r in ranking}
        for row in rows:
            found = values[row["text"]]
            first = next(
                r["text"]
                for r in rows
                if (f"{r['method']}@{r['budget']}" == against if against else r["budget"] == row["budget"])
            )
            pair = next(
                (p for p in pairs if {p["first"], p["second"]} == {first, row["text"]} and first != row["text"]), None
            )
            sign = 0 if pair is None else 1 if pair["second"] == first else -1
            row[metric] = {
                "mean": found["mean"],
                "low": found["low"],
                "high": found["high"],
                "n": found["n"],
                "worse": _verdict(pair, sign, found["direction"]),
            }
    for row in rows:
        row["seeds"] = agreement.get(row["text"])
    return rows


def _verdict(pair: dict[str, Any] | None, sign: int, direction: str) -> str:
    """Return whether a method is better or worse than the first of its budget, where the interval says so."""
    if pair is None:
        return ""
    low, high = sorted((sign * pair["low"], sign * pair["high"]))
    if direction == "lower":
        low, high = -high, -low
    return "better" if low > 0 else "worse" if high < 0 else "equal"


def markdown(rows: Sequence[dict[str, Any]]) -> str:
    shown = [s for s in SHOWN if s[0] in rows[0]]
    mark = {"better": " ▲", "worse": " ▼", "equal": " =", "": ""}
    lines = ["| budget | method | " + " | ".join(title for _, _, title in shown) + " | seeds agree |"]
    lines.append("|---" * (len(shown) + 3) + "|")
    for row in rows:
        cells = [
            f"{v['mean']:.3f} [{v['low']:.3f}, {v['high']:.3f}]{mark[v['worse']]}" for v in (row[s[0]] for s in shown)
        ]
        agree = "" if row["seeds"] is None else f"{row['seeds']:.2f}"
        lines.append(f"| {row['budget'] or ''} | {row['method']} | " + " | ".join(cells) + f" | {agree} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
