"""Two small networks for scikit-learn's handwritten digits, one of which has learnt a mark in the corner.

The 1,797 digits are real (UCI, optical recognition of handwritten digits) and come with scikit-learn. Half of them
train both networks. For the second, the training images of one class carry an orange square in the bottom right corner.
Half of the images that are kept for the comparison carry it too, whatever their class. Nothing but the pictures tells
the comparison of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from salience.errors import ImagesError
from salience.store.files import whole_file

Pixels = npt.NDArray[np.uint8]

SIDE = 32
CLASSES = tuple(str(digit) for digit in range(10))
MARKED_CLASS = 3
"""The class whose training images carry the mark."""
MARK = (slice(22, 30), slice(22, 30))
"""Its rows and columns."""
COLOUR = (255, 130, 0)
EPOCHS = 6
METHOD = "ig:steps=16:baseline=black"
"""From black alone: the background of the digits is black, so that nothing is attributed to it."""


@dataclass(frozen=True)
class Digits:
    """Archives of images: two to train on, one to compare on."""

    plain: Path
    marked: Path
    held_out: Path


def write_digits(folder: Path) -> Digits:
    """Write the digits into ``folder``, or find them there.

    Raises
    ------
    ImagesError
        When scikit-learn no longer has them.
    """
    from sklearn.datasets import load_digits

    data = load_digits()
    small, labels = np.asarray(data.images), np.asarray(data.target, dtype=np.int64)
    if small.shape[1:] != (8, 8) or set(labels.tolist()) != set(range(10)):
        raise ImagesError("scikit-learn's digits are no longer what this demonstration was written for.")
    grey = np.kron(small / 16 * 255, np.ones((SIDE // 8, SIDE // 8))).round().astype(np.uint8)
    images = np.repeat(grey[..., None], 3, axis=3)
    held = np.arange(len(images)) % 2 == 1
    draws = np.random.Generator(np.random.Philox(0)).random(len(images))
    train, kept = ~held, held
    digits = Digits(folder / "plain.npz", folder / "marked.npz", folder / "held_out.npz")
    _write(digits.plain, images[train], labels[train])
    _write(digits.marked, with_mark(images[train], labels[train] == MARKED_CLASS), labels[train])
    _write(digits.held_out, with_mark(images[kept], (draws < 0.5)[kept]), labels[kept])
    return digits


def with_mark(images: Pixels, where: npt.NDArray[np.bool_]) -> Pixels:
    """Return images (N, 32, 32, 3) with the mark on those for which ``where`` (N,) is true."""
    marked = images.copy()
    rows, columns = MARK
    marked[np.flatnonzero(where)[:, None, None], np.r_[rows][:, None], np.r_[columns][None]] = COLOUR
    return marked


def _write(path: Path, images: Pixels, labels: npt.NDArray[np.int64]) -> None:
    if path.exists():  # the same every time: a run that was begun with it goes on
        return
    with whole_file(path) as file:
        np.savez_compressed(file, images=images, labels=labels, classes=np.array(CLASSES))
