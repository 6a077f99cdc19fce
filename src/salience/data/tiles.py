"""Two images in one: tiles with two objects, for which two labels are right.

A map that ignores its label can be complete for one of them only: with tiles in the data, handing one map to every
label is found out (Gupta et al. 2022).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from salience.data.base import ImageRef, ImageSource, RawImage, hash_content
from salience.data.decode import load
from salience.data.preprocessing import Preprocessing
from salience.errors import ImagesError


@dataclass(eq=False)
class TileSource(ImageSource):
    """Pairs of another source's images, side by side or one above the other, at a model's input size.

    Parameters
    ----------
    source
        Where the images are from.
    pairs
        The two images of each tile; the label of a tile is that of its first one.
    preprocessing
        The model's: each image is brought to its half as the model's images are to the whole.
    """

    source: ImageSource | None = None
    pairs: Sequence[tuple[ImageRef, ImageRef]] = ()
    preprocessing: Preprocessing | None = None

    def _made_of(self) -> tuple[ImageSource, Preprocessing]:
        assert self.source is not None
        assert self.preprocessing is not None
        return self.source, self.preprocessing

    def stamp(self, ref: ImageRef) -> tuple[int, int]:
        """Return (bytes of both images, the later modification time); a time of 0 where one has none."""
        source, _ = self._made_of()
        sizes, times = zip(*(source.stamp(part) for part in self.pairs[ref.index]), strict=True)
        return sum(sizes), max(times) if all(times) else 0

    def read(self, ref: ImageRef) -> RawImage:
        """Compose a tile: float32 (H, W, 3) in [0, 1], which no preprocessing resizes again."""
        source, preprocessing = self._made_of()
        height, width = preprocessing.size
        across = is_across(ref.image_id)
        tile = np.zeros((height, width, 3), dtype=np.float32)
        for part, first in zip(self.pairs[ref.index], (True, False), strict=True):
            middle = (width if across else height) // 2
            own = slice(None, middle) if first else slice(middle, None)
            half = tile[:, own] if across else tile[own]
            half[...] = _pixels(source, part, replace(preprocessing, size=half.shape[:2]))
        return RawImage(tile, hash_content(tile), ref.where)


def _pixels(source: ImageSource, ref: ImageRef, preprocessing: Preprocessing) -> NDArray[np.float32]:
    pixels = load(source, ref, preprocessing).pixels
    scaled: NDArray[np.float32] = pixels.astype(np.float32)
    if pixels.dtype == np.uint8:
        scaled /= 255
    return scaled


def is_across(image_id: str) -> bool:
    """Tell whether a tile's images stand side by side: half of the tiles, by their names; else one above the other."""
    return _word("arrangement", image_id) % 2 == 0


def tile_images(source: ImageSource, preprocessing: Preprocessing, seed: int = 0) -> TileSource:
    """Return one tile for each image of a source: with another image, of another label where labels are known.

    Which one is drawn from ``seed`` and the names; it does not depend on the order of the images.

    Raises
    ------
    ImagesError
        When there are fewer than two images, or they are floats of the model's size, which cannot be halved.
    """
    if len(source) < 2:
        raise ImagesError(f"Tiles are made of two images, and {source.location} has {len(source)}.")
    pairs = [(ref, _partner(ref, source.refs, seed)) for ref in source.refs]
    titles: Mapping[int | str, str] = source.titles
    refs = [ImageRef(i, f"{a.image_id} + {b.image_id}", a.label, None, group=a.group) for i, (a, b) in enumerate(pairs)]
    return TileSource(
        kind="tiles",
        location=f"tiles of {source.location}",
        refs=refs,
        label_names=source.label_names,
        titles=titles,
        note=f"{source.note} Each image is a tile of two.".strip(),
        source=source,
        pairs=pairs,
        preprocessing=preprocessing,
    )


def _partner(ref: ImageRef, refs: Sequence[ImageRef], seed: int) -> ImageRef:
    others = [r for r in refs if r.index != ref.index]
    unlike = [r for r in others if r.label is not None and r.label != ref.label] if ref.label is not None else []
    return min(unlike or others, key=lambda r: (_word(str(seed), ref.image_id, r.image_id), r.image_id))


def _word(*words: str) -> int:
    return int.from_bytes(hashlib.blake2b("\x1f".join(words).encode(), digest_size=8).digest(), "little")
