"""Noisy linear imputation beside the direct sparse solution and beside the model that reads it.

    python benchmarks/road.py --size 224 --rows 16 --rounds 7

Images are scikit-image's photographs. Masks remove 10 % to 90 % of the pixels in the order of a 7x7 map that is
enlarged, as maps of classifiers are, and of noise. *ours* are the compiled loops, *tensors* the same method as other
devices run it, here on the processor, *direct* is ``scipy.sparse.linalg.spsolve`` as the authors of ROAD use it, in
double precision; *model* is a forward pass of ``--model`` (a card or spec), where one is named. Milliseconds an image
on ``--threads`` threads, medians of rounds in turns (*direct* once); *error* is the largest difference from *direct*.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from scipy import sparse
from scipy.sparse.linalg import spsolve
from skimage import data
from torch.nn import functional as F

from salience.engine import road
from salience.engine.passes import call_model
from salience.engine.plan import Plan
from salience.engine.road import tensors
from salience.engine.tune import running
from salience.models.loading import load_model

PHOTOGRAPHS = ("astronaut", "chelsea", "coffee", "rocket")
SHARES = (0.1, 0.3, 0.5, 0.7, 0.9)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--size", type=int, default=224, help="height and width of the images")
    parser.add_argument("--rows", type=int, default=16, help="masked images at a time")
    parser.add_argument("--rounds", type=int, default=7, help="of which medians are taken")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--model", help="whose forward pass is timed beside")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    images, keep = scene(given.size, given.rows)
    begin = time.perf_counter()
    wanted = np.stack([direct(i, k) for i, k in zip(images.double().numpy(), keep.numpy(), strict=True)])
    peer = time.perf_counter() - begin
    found = {"ours": road.impute(images, keep), "tensors": tensors.impute(images, keep, road.CYCLES)}
    works: dict[str, Callable[[], object]] = {
        "ours": lambda: road.impute(images, keep),
        "tensors": lambda: tensors.impute(images, keep, road.CYCLES),
    }
    if given.model:
        works["model"] = forward(given.model, images, given.threads)
    seconds = {**dict(zip(works, alternated(list(works.values()), given.rounds), strict=True)), "direct": peer}
    print(f"{given.rows} images of {given.size}x{given.size}, {given.threads} threads, milliseconds an image\n")
    print(f"{'':10}{'ms':>10}{'ratio to ours':>16}{'error':>11}")
    for name, taken in seconds.items():
        off = f"{np.abs(found[name].numpy() - wanted).max():11.1e}" if name in found else ""
        print(f"{name:10}{1000 * taken / given.rows:10.2f}{taken / seconds['ours']:16.1f}{off}")


def scene(size: int, rows: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return images (R, 3, size, size) in [0, 1], and the pixels that stay."""
    pictures = [Image.fromarray(getattr(data, name)()).convert("RGB") for name in PHOTOGRAPHS]
    arrays = [np.asarray(p.resize((size, size), Image.Resampling.BICUBIC)) for p in pictures]
    images = torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).float() / 255
    rng = np.random.default_rng(0)
    keep = []
    for row in range(rows):
        coarse = torch.from_numpy(rng.random((1, 1, 7, 7)))
        values = (
            F.interpolate(coarse, (size, size), mode="bilinear")
            if row % 2
            else torch.from_numpy(rng.random((size, size)))
        )
        order = values.flatten().argsort().argsort().view(size, size)
        keep.append(order >= SHARES[row % len(SHARES)] * size**2)
    return images[[row % len(images) for row in range(rows)]].contiguous(), torch.stack(keep)


def direct(image: npt.NDArray[np.float64], keep: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
    """Solve for the removed pixels of (3, H, W), one equation a pixel."""
    place = np.arange(keep.size).reshape(keep.shape)
    h, w = keep.shape
    rows, columns, values = [], [], []
    for dy, dx, weight in ((0, 1, 1 / 6), (1, 0, 1 / 6), (1, 1, 1 / 12), (1, -1, 1 / 12)):
        here = place[: h - dy, max(0, -dx) : w - max(0, dx)].ravel()
        there = place[dy:, max(0, dx) : w + min(0, dx)].ravel()
        rows += [here, there]
        columns += [there, here]
        values.append(np.full(2 * here.size, weight))
    ends = (np.concatenate(rows), np.concatenate(columns))
    weights = sparse.csr_matrix((np.concatenate(values), ends), (keep.size, keep.size))
    system = (sparse.diags(np.asarray(weights.sum(1)).ravel()) - weights).tocsr()
    gone, kept = np.flatnonzero(~keep), np.flatnonzero(keep)
    out = image.reshape(len(image), -1).copy()
    out[:, gone] = spsolve(system[gone][:, gone].tocsc(), -system[gone][:, kept] @ out[:, kept].T).T
    return out.reshape(image.shape)


def forward(model: str, images: torch.Tensor, threads: int) -> Callable[[], object]:
    """Return a forward pass of as many images, at the model's own size."""
    classifier = load_model(model, device="cpu")
    plan = Plan(len(images), threads=threads)
    pixels = F.interpolate(images, classifier.preprocessing.size, mode="bilinear")
    pixels = pixels.contiguous(memory_format=plan.torch_format)

    def call() -> None:
        with running(classifier, plan), torch.no_grad():
            call_model(classifier, pixels, plan)

    return call


def alternated(works: list[Callable[[], object]], rounds: int) -> list[float]:
    """Return the median seconds of each, taken in turns: what slows the machine down slows all of them down."""
    taken: list[list[float]] = [[] for _ in works]
    for _ in range(rounds):
        for seconds, work in zip(taken, works, strict=True):
            begin = time.perf_counter()
            work()
            seconds.append(time.perf_counter() - begin)
    return [statistics.median(s) for s in taken]


if __name__ == "__main__":
    main()
