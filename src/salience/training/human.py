"""Human maps: where people look, one grey image for each image or boxes, and the controls that stand in for them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import numpy as np
import numpy.typing as npt
import torch

from salience.data.base import Box, ImageRef, ImageSource
from salience.data.decode import load
from salience.data.geometry import box_to_input
from salience.data.preprocessing import Preprocessing
from salience.data.source import open_images
from salience.errors import ImagesError, nearest
from salience.training.recipe import generator
from salience.training.samples import Decoded, array_file, digest

BOXES = "boxes"
"""The word that takes the human maps from the boxes of the manifest."""
_SHOWN = 3
_BELL = 4
"""The bell of the control ``centre`` has a standard deviation of the side over this."""

Maps = npt.NDArray[np.uint8]


def human_maps(
    human: str | Path, decoded: Decoded, rows: npt.NDArray[np.int64], preprocessing: Preprocessing, folder: Path
) -> Maps:
    """Return the human maps of some images at the model's input size, uint8 (len(rows), H, W), mapped from a file.

    Parameters
    ----------
    human
        A folder of grey images with the names of the images (their suffix may be another), brighter where people
        look; or ``boxes``, for the boxes of the manifest.
    decoded
        The images.
    rows
        Which of them need a map.
    preprocessing
        The model's: a map goes the way of its image.
    folder
        Where the arrays are kept.

    Raises
    ------
    ImagesError
        When an image has no map, a map cannot be read, has another shape than its image, or is the same everywhere.
    """
    samples = decoded.samples
    height, width = preprocessing.size
    if str(human) == BOXES:
        _check_boxes([samples.refs[i] for i in rows])
        sizes = decoded.sizes[rows].tolist()
        boxes = [samples.refs[i].boxes for i in rows]
        key = digest("boxes 1", preprocessing.to_dict(), boxes, sizes)

        def fill(array: Maps) -> None:
            for i, (found, (w, h)) in enumerate(zip(boxes, sizes, strict=True)):
                array[i] = draw_boxes([box_to_input(box, w, h, preprocessing) for box in found], height, width)

    else:
        maps, refs = _matching(Path(human), [samples.refs[i] for i in rows])
        key = digest("maps 1", preprocessing.to_dict(), [(ref.image_id, *maps.stamp(ref)) for ref in refs])

        def fill(array: Maps) -> None:
            for i, ref in enumerate(refs):
                array[i] = _read_map(maps, ref, tuple(decoded.sizes[rows[i]]), preprocessing)

    found: Maps = array_file(folder / f"human-{key}.npy", (len(rows), height, width), np.uint8, fill)
    flat = np.flatnonzero(found.min((1, 2)) == found.max((1, 2)))
    if len(flat):
        raise ImagesError(
            f"{len(flat)} of {len(rows)} human maps are the same everywhere within what the model sees, so they say "
            f"nothing of where to look: {_some([samples.refs[rows[i]].image_id for i in flat])}. Give maps with some "
            "contrast, or leave these images out."
        )
    return found


def draw_boxes(boxes: Sequence[Box], height: int, width: int) -> Maps:
    """Return a map (height, width), 255 inside of any box; pixels that an edge cuts get the share that is covered."""
    empty = np.ones((height, width))
    for x0, y0, x1, y1 in boxes:
        across = np.clip(np.minimum(np.arange(1, width + 1), x1) - np.maximum(np.arange(width), x0), 0, 1)
        down = np.clip(np.minimum(np.arange(1, height + 1), y1) - np.maximum(np.arange(height), y0), 0, 1)
        empty = np.minimum(empty, 1 - np.outer(down, across))
    covered: Maps = np.rint(255 * (1 - empty)).astype(np.uint8)
    return covered


def centre_map(height: int, width: int) -> Maps:
    """Return the map of the control ``centre``: a bell in the middle, a quarter of each side wide; ours."""
    y = np.exp(-(((np.arange(height) + 0.5) / height - 0.5) ** 2) * _BELL**2 / 2)
    x = np.exp(-(((np.arange(width) + 0.5) / width - 0.5) ** 2) * _BELL**2 / 2)
    bell: Maps = np.rint(255 * np.outer(y, x)).astype(np.uint8)
    return bell


def other_rows(count: int, seed: int, run: int) -> npt.NDArray[np.int64]:
    """Return, for each of ``count`` images, another one: the control ``shuffled`` of one run.

    A random cycle through all images: nobody keeps the own map, and each map is used once.
    """
    order = torch.randperm(count, generator=generator(seed, run, "shuffled maps")).numpy()
    other = np.empty(count, dtype=np.int64)
    other[order] = np.roll(order, 1)
    return other


def _check_boxes(refs: Sequence[ImageRef]) -> None:
    without = [ref.image_id for ref in refs if not ref.boxes]
    if without:
        raise ImagesError(
            f"--human boxes needs a box for each image, and {len(without)} of {len(refs)} have none: {_some(without)}. "
            "Give a manifest with a column 'boxes', a JSON list of [x0, y0, x1, y1], or a folder of maps."
        )


def _matching(folder: Path, refs: Sequence[ImageRef]) -> tuple[ImageSource, list[ImageRef]]:
    """Return the source of the maps and the map of each image, found by name."""
    if not folder.is_dir():
        near = nearest(folder.name, [p.name for p in folder.parent.iterdir()]) if folder.parent.is_dir() else ""
        raise ImagesError(
            f"There is no folder of human maps {str(folder)!r}.{near} Give a folder of grey images with the names of "
            "the images, or 'boxes'."
        )
    maps = open_images(folder)
    by_path = {_stem(ref.image_id): ref for ref in maps.refs}
    # the name alone will do where it names one image and one map: "0.png" is not that of "fake/0" and "real/0"
    alone = Counter(_name(ref.image_id) for ref in refs)
    by_name = {_name(ref.image_id): ref for ref in maps.refs}
    several = {name for name, count in Counter(_name(ref.image_id) for ref in maps.refs).items() if count > 1}
    by_name = {name: ref for name, ref in by_name.items() if alone[name] == 1 and name not in several}
    found = [by_path.get(_stem(ref.image_id)) or by_name.get(_name(ref.image_id)) for ref in refs]
    missing = [ref.image_id for ref, map_ in zip(refs, found, strict=True) if map_ is None]
    if missing:
        raise ImagesError(
            f"{len(missing)} of {len(refs)} images to train with have no human map in {folder}: {_some(missing)}. It "
            "is looked for by the image's name with any suffix; the folder holds "
            f"{_some([ref.image_id for ref in maps.refs])}."
        )
    return maps, [ref for ref in found if ref is not None]


def _stem(image_id: str) -> str:
    return str(PurePosixPath(image_id).with_suffix(""))


def _name(image_id: str) -> str:
    return PurePosixPath(_stem(image_id)).name


def _read_map(maps: ImageSource, ref: ImageRef, size: tuple[int, int], preprocessing: Preprocessing) -> Maps:
    loaded = load(maps, ref, preprocessing)
    width, height = size
    if abs(loaded.width * height - loaded.height * width) > max(loaded.width + width, loaded.height + height):
        raise ImagesError(
            f"{ref.where}: the human map has {loaded.width}x{loaded.height} pixels, and its image {width}x{height}: "
            "the proportions must be the same, as the map lies on the image."
        )
    grey: Maps = np.rint(loaded.pixels.mean(axis=2)).astype(np.uint8)
    return grey


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
