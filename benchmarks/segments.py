"""Felzenszwalb's segments beside scikit-image's: six scales of one image, one process, alternated rounds, medians.

    python benchmarks/segments.py [FOLDER] --rounds 15

Images are those of FOLDER, or scikit-image's own photographs, squashed to 224x224. *Six scales* are XRAI's display pool
(50, 100, 150, 250, 500, 1200; sigma 0.8, smallest segment 150 pixels); *one scale* is that of the ledger (250). Every
label is compared first; *other labels* counts pixels where the two disagree. Then the frame: a map laid over an image,
its sums over segments, their geometry and an area-matched control, in milliseconds an image.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image
from skimage import data, segmentation

from salience.comparison.felzenszwalb import felzenszwalb
from salience.comparison.frame import to_frame
from salience.comparison.partition import SCALES
from salience.comparison.segments import area_matched, geometry, sums
from salience.data.files import SUFFIXES
from salience.data.preprocessing import Preprocessing

Pixels = npt.NDArray[np.uint8]
SIGMA, MIN_SIZE, ONE = 0.8, 150, 250.0
PHOTOGRAPHS = ("astronaut", "camera", "chelsea", "coffee", "coins", "hubble_deep_field", "page", "rocket")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", nargs="?", type=Path, help="of images; scikit-image's photographs where left out")
    parser.add_argument("--rounds", type=int, default=15, help="of which medians are taken")
    parser.add_argument("--limit", type=int, default=16, help="images")
    given = parser.parse_args()
    images = photographs(given.folder)[: given.limit]
    print(f"{len(images)} images of 224x224, {given.rounds} rounds, median milliseconds an image\n")
    print(f"{'':14}{'ours':>9}{'scikit-image':>15}{'ratio':>8}{'other labels':>15}")
    for name, scales in (("six scales", SCALES), ("one scale", (ONE,))):
        wrong = sum(
            int((a != b).sum()) for i in images for a, b in zip(ours(i, scales), theirs(i, scales), strict=True)
        )
        mine, peer = alternated(
            [lambda s=scales: [ours(i, s) for i in images], lambda s=scales: [theirs(i, s) for i in images]],
            given.rounds,
        )
        scale = 1000 / len(images)
        print(f"{name:14}{mine * scale:9.1f}{peer * scale:15.1f}{peer / mine:8.1f}{wrong:15}")
    print()
    for name, seconds in parts(images[0], given.rounds).items():
        print(f"{name:36}{seconds * 1000:9.3f}")


def photographs(folder: Path | None) -> list[Pixels]:
    if folder is None:
        found = [Image.fromarray(getattr(data, name)()) for name in PHOTOGRAPHS]
    else:
        found = [Image.open(p) for p in sorted(folder.rglob("*")) if p.suffix.lower() in SUFFIXES]
    return [np.asarray(i.convert("RGB").resize((224, 224), Image.Resampling.BICUBIC)) for i in found]


def ours(image: Pixels, scales: tuple[float, ...]) -> list[npt.NDArray[np.int32]]:
    return felzenszwalb(image, scales, SIGMA, MIN_SIZE)


def theirs(image: Pixels, scales: tuple[float, ...]) -> list[npt.NDArray[np.int64]]:
    return [segmentation.felzenszwalb(image, scale=s, sigma=SIGMA, min_size=MIN_SIZE) for s in scales]


def alternated(works: list[Callable[[], object]], rounds: int) -> list[float]:
    """Return the median seconds of each, taken in turns: what slows the machine down slows all of them down."""
    taken: list[list[float]] = [[] for _ in works]
    for _ in range(rounds):
        for seconds, work in zip(taken, works, strict=True):
            begin = time.perf_counter()
            work()
            seconds.append(time.perf_counter() - begin)
    return [statistics.median(s) for s in taken]


def parts(image: Pixels, rounds: int) -> dict[str, float]:
    """Return the seconds of what else is done for an image and a model, once the matrices of its window are made."""
    (labels,) = ours(image, (ONE,))
    values = np.random.default_rng(0).standard_normal((224, 224)).astype(np.float32)
    view, area = Preprocessing(size=(224, 224), crop=0.875), geometry(labels).area
    works: dict[str, Callable[[], object]] = {
        "a map laid over the image": lambda: to_frame(values, view, (400, 511)),
        "its sums over segments": lambda: sums(values, labels),
        "geometry": lambda: geometry(labels),
        "an area-matched control": lambda: area_matched(labels, area, [0, 1], [0, 1], 1),
    }
    return dict(zip(works, alternated(list(works.values()), 10 * rounds), strict=True))


if __name__ == "__main__":
    main()
