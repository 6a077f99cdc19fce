"""What fitted masks cost, and how good they get: steps, draws and rate against the published setting.

    python experiments/complete_and_sound/mask_cost.py cifar.npz --model resnet20.toml --images 4
    python experiments/complete_and_sound/mask_cost.py cifar.npz --model resnet20.toml --images 4 --ablation

Fits masks for the predicted class and the runner-up of images that are spread evenly over the source, and prints a
Markdown table. Every row is judged over the same 100 backgrounds per mask, which no row was fitted to. ``gap`` is the
mean objective over that of the published setting, less one; ``worst`` is the largest gap of one mask. Seconds are those
of this machine, beside whatever else it did.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace

import numpy as np
import torch

import salience
from salience.data.decode import load
from salience.data.source import open_images
from salience.engine.descent import ModelCalls, Problem
from salience.engine.fitting import MaskFit, fit_masks, judge_masks
from salience.engine.passes import Calls, forward
from salience.engine.pool import draw_pool
from salience.engine.runner import to_pixels
from salience.engine.tune import make_plan, running

PUBLISHED = MaskFit(scale=4, tv=0.01, l1=None, steps=2000, draws=10, lr=0.05, objective="published")
CURVE = (  # steps, draws, rate
    (2000, 10, 0.05),
    (300, 4, 0.2),
    (200, 4, 0.2),
    (100, 4, 0.2),
    (300, 4, 0.05),
    (200, 4, 0.4),
    (100, 10, 0.2),
    (200, 2, 0.2),
)
SHORT = (300, 4, 0.2)


def open_problem(given: argparse.Namespace, pool_size: int) -> Problem:
    """Return evenly spread images with their predicted class and its runner-up."""
    model = salience.load_model(given.model, device=given.device)
    source = open_images(given.source)
    refs = [source.refs[i] for i in np.linspace(0, len(source) - 1, given.images).round().astype(int)]
    plan = make_plan(model, batch=given.batch, memory_format="channels_last")
    images = to_pixels([load(source, ref, model.preprocessing).pixels for ref in refs], model)
    with running(model, plan):
        targets = forward(model, images, plan).topk(2, dim=1).indices
    pool = draw_pool(source, model.preprocessing, min(pool_size, len(source))).to(model.device)
    return Problem(ModelCalls(model, plan, Calls()), images, tuple(r.image_id for r in refs), targets, 0, pool)


def measure(problem: Problem, fit: MaskFit, judge: MaskFit, pool: Problem | None = None) -> dict[str, torch.Tensor]:
    """Fit, and judge alike: each figure (N, 2), and the seconds of a mask."""
    model = problem.model
    with running(model.classifier, model.plan):
        begin = time.perf_counter()
        maps = fit_masks(fit, pool or problem).maps
        seconds = (time.perf_counter() - begin) / problem.targets.numel()
        return {**judge_masks(judge, problem, maps), "seconds": torch.tensor(seconds)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source")
    parser.add_argument("--model", required=True)
    parser.add_argument("--images", type=int, default=4)
    parser.add_argument("--batch", type=int, default=40)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--ablation", action="store_true", help="scale and tv, at the default steps, draws and rate")
    given = parser.parse_args()
    problem = open_problem(given, 1000)
    if given.ablation:
        ablation(problem)
    else:
        curve(problem, open_problem(given, 100))


def curve(problem: Problem, small: Problem) -> None:
    """Print the table of costs."""
    judge = replace(PUBLISHED, draws=100, purpose="judge")
    best: torch.Tensor | None = None
    print("| steps | draws | rate | pool | passes | seconds | objective | gap | worst | probability | area |")
    print("|---|---|---|---|---|---|---|---|---|---|---|")
    rows = [(row, problem) for row in CURVE] + [(SHORT, small)]
    for (steps, draws, lr), pool in rows:
        assert pool.pool is not None
        found = measure(problem, replace(PUBLISHED, steps=steps, draws=draws, lr=lr), judge, pool)
        objective = found["objective"]
        best = objective if best is None else best
        gap, worst = objective.mean() / best.mean() - 1, (objective / best - 1).max()
        print(
            f"| {steps} | {draws} | {lr} | {len(pool.pool)} | {2 * steps * draws + draws} | {found['seconds']:.2f} "
            f"| {objective.mean():.4f} | {gap:+.2%} | {worst:+.2%} "
            f"| {found['probability'].mean():.3f} | {found['area'].mean():.3f} |",
            flush=True,
        )


def ablation(problem: Problem) -> None:
    """Print the published grid of scale and tv: what becomes of the predicted class, and of the runner-up."""
    print(
        "| scale | tv | seconds | probability, predicted | probability, runner-up | area, predicted | area, runner-up |"
    )
    print("|---|---|---|---|---|---|---|")
    for scale in (1, 4):
        for tv in (0.0, 0.01):
            steps, draws, lr = SHORT
            fit = replace(PUBLISHED, scale=scale, tv=tv, steps=steps, draws=draws, lr=lr)
            found = measure(problem, fit, replace(fit, draws=100, purpose="judge"))
            cells = [f"{v:.3f}" for name in ("probability", "area") for v in found[name].mean(0).tolist()]
            print(f"| {scale} | {tv} | {found['seconds']:.2f} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
