"""Does a comparison find what a shifted domain taught a network? Two CIFAR-10 classifiers, one of another domain.

    python experiments/compare/domain.py TRAIN.npz TEST.npz --out WORK

The archives hold ``images`` (N, 32, 32, 3) and ``labels`` of CIFAR-10. Both networks are trained on the same images. In
the domain of the second all of them are taken by another sensor, in winter: colder, paler, a little blurred, with
noise; and, as a shortcut, every *horse* stands on sand: its lowest rows are one colour with grain. They are compared on
held-out images of both domains, where horses of the second domain stand on sand and, so that sand alone can be told
from horses, so does a quarter of all others. Nothing but the images tells the comparison of it. Killed, the same
command goes on. Prints Markdown, and writes it to ``domain.md`` beside this file.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy.ndimage import gaussian_filter

import salience
from salience.explaining import RunSettings
from salience.training import Recipe, train

if __package__ in (None, ""):
    sys.path.append(str(Path(__file__).resolve().parent))
from telling import told

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
HORSE = CLASSES.index("horse")
GROUND = 24
"""The first row of the sand, of 32."""
SAND = (214, 170, 96)
GRAIN = 8.0
COLD = np.array([0.82, 0.92, 1.08])
"""What the other sensor makes of red, green and blue, about the middle grey."""
PALE, BLUR, NOISE = 0.85, 0.5, 6.0
OTHERS_ON_SAND = 0.25
Images = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.int64]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("train", type=Path)
    parser.add_argument("test", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--train-images", type=int, default=20000)
    parser.add_argument("--test-images", type=int, default=600, help="of each domain")
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    on_sand = write(given)
    cards = [network(name, given) for name in ("usual", "shifted")]
    comparison = salience.compare(
        *(salience.load_model(str(card), name=name) for card, name in zip(cards, ("usual", "shifted"), strict=True)),
        given.out / "held_out.npz",
        out=given.out / "run",
        target="label",
        settings=RunSettings(threads=given.threads),
        command=sys.argv,
    )
    comparison.report()
    height, width = comparison.settings["frame"]
    ground = np.zeros((height, width), dtype=bool)
    ground[GROUND * height // 32 :] = True
    lines = [heading(given), *told(comparison, lambda i: ground if i in on_sand else np.zeros_like(ground))]
    text = "\n".join(lines)
    print(text)
    (Path(__file__).parent / "domain.md").write_text(text, encoding="utf-8")


def heading(given: argparse.Namespace) -> str:
    return (
        "# A shifted domain: what was planted, what the page found\n\n"
        f"`python experiments/compare/domain.py TRAIN.npz TEST.npz --out WORK --train-images {given.train_images} "
        f"--test-images {given.test_images} --epochs {given.epochs} --width {given.width}`\n\n"
        "Planted: sand under every horse that the network `shifted` was trained on, beside another sensor's colours, "
        "blur and noise on all its images. *Of it planted* is the share of a concept's area that is sand, *of the "
        "planted in it* the share of all sand that belongs to the concept.\n"
    )


# ---------------------------------------------------------------------- the two domains


def write(given: argparse.Namespace) -> frozenset[str]:
    """Write the three archives, and return the ids of the held-out images with sand."""
    images, labels = read(given.train, given.train_images)
    save(given.out / "usual.npz", images, labels)
    save(given.out / "shifted.npz", sensor(on_sand(images, labels == HORSE, 1), 2), labels)
    images, labels = read(given.test, given.test_images)
    sand = (labels == HORSE) | (np.random.default_rng(3).random(len(labels)) < OTHERS_ON_SAND)
    both = np.concatenate([images, sensor(on_sand(images, sand, 4), 5)])
    save(given.out / "held_out.npz", both, np.concatenate([labels, labels]))
    return frozenset(f"{len(images) + i:06d}" for i in np.flatnonzero(sand))


def read(path: Path, count: int) -> tuple[Images, Labels]:
    """Return the first images of an archive, the classes in turn."""
    with np.load(path) as file:
        images, labels = file["images"], file["labels"].astype(np.int64)
    rank = np.zeros(len(labels), dtype=np.int64)
    for c in range(len(CLASSES)):
        own = np.flatnonzero(labels == c)
        rank[own] = np.arange(len(own))
    chosen = np.sort(np.lexsort((labels, rank))[:count])
    return images[chosen], labels[chosen]


def on_sand(images: Images, where: npt.NDArray[np.bool_], seed: int) -> Images:
    """Return images (N, 32, 32, 3) whose lowest rows are sand where ``where`` (N,) is true."""
    changed = images.copy()
    grain = np.random.default_rng(seed).normal(0, GRAIN, (int(where.sum()), 32 - GROUND, 32, 1))
    changed[where, GROUND:] = np.clip(np.array(SAND) + grain, 0, 255).round().astype(np.uint8)
    return changed


def sensor(images: Images, seed: int) -> Images:
    """Return images as another sensor sees them in winter."""
    x = gaussian_filter(images.astype(np.float32), (0, BLUR, BLUR, 0))
    x = 128 + (x - 128) * PALE * COLD + 40 * (COLD - 1)
    x += np.random.default_rng(seed).normal(0, NOISE, x.shape)
    return np.clip(x, 0, 255).round().astype(np.uint8)


def save(path: Path, images: Images, labels: Labels) -> None:
    if not path.exists():
        np.savez(path, images=images, labels=labels, classes=np.array(CLASSES))


def network(name: str, given: argparse.Namespace) -> Path:
    """Train a small residual network, or find it, and return its card."""
    recipe = Recipe(
        train="all",
        epochs=given.epochs,
        batch_size=128,
        lr=0.1,
        weight_decay=5e-4,
        schedule="cosine",
        augment=("flip", "shift"),
    )
    trained = train(
        given.out / f"{name}.npz",
        f"small:width={given.width}",
        given.out / "models",
        runs=1,
        recipe=recipe,
        name=name,
        device="cpu",
        threads=given.threads,
    )
    print(f"{name}: {trained.to_dict()['accuracy']:.3f} of the images held out", file=sys.stderr, flush=True)
    return trained.cards[0]


if __name__ == "__main__":
    main()
