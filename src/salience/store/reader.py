"""Maps by image and class, from wherever they are: an array of a run, or arrays that somebody else computed."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc

from salience.errors import RunError, nearest
from salience.store.maps import Maps
from salience.store.run import Run
from salience.store.shards import MapArray

Array = npt.NDArray[np.float32]


class MapReader(Protocol):
    """Maps of one method and model.

    Attributes
    ----------
    method
        Its name.
    identity
        Names all that decides the maps but for the image; for arrays, their content.
    """

    method: str
    signed: bool
    identity: str

    def read(self, image_id: str, targets: Sequence[int]) -> Array | None:
        """Return the raw maps (len(targets), h, w) of an image, None where one of them is missing."""
        ...


class StoredMaps:
    """The maps of one recipe of a run."""

    def __init__(self, run: Run, recipe: str) -> None:
        description = run.info["recipes"][recipe]
        self.method: str = description["method"]
        self.signed: bool = description["signed"]
        self.identity: str = description["identity"]
        table = run.table("maps")
        rows = table.filter(pc.equal(table["recipe"], recipe))
        self._where = {
            (image_id, target): (row, scale)
            for image_id, target, row, scale in zip(
                *(rows[c].to_pylist() for c in ("image_id", "target", "row", "scale")), strict=True
            )
        }
        self._array = MapArray(run.folder / "maps" / recipe) if self._where else None

    def read(self, image_id: str, targets: Sequence[int]) -> Array | None:
        """Return the raw maps (len(targets), h, w) of an image, None where one of them is missing."""
        found = [self._where.get((image_id, t)) for t in targets]
        if self._array is None or not found:
            return None
        rows, scales = [], []
        for item in found:
            if item is None:
                return None
            rows.append(item[0])
            scales.append(item[1])
        values = self._array.read(np.asarray(rows, dtype=np.int64))
        return values * np.asarray(scales, dtype=np.float32)[:, None, None]

    def read_block(self, image_ids: Sequence[str], targets: Sequence[int]) -> Array:
        """Return the raw maps (N, h, w) of N images and a class each; each file is opened once.

        Raises
        ------
        RunError
            When one of them is missing.
        """
        found = []
        for image_id, target in zip(image_ids, targets, strict=True):
            place = self._where.get((image_id, target))
            if place is None:
                raise RunError(f"There is no map of {self.method!r} for image {image_id!r} and class {target}.")
            found.append(place)
        if self._array is None:
            return np.zeros((0, 0, 0), dtype=np.float32)
        values = self._array.read(np.array([row for row, _ in found], dtype=np.int64))
        return values * np.array([scale for _, scale in found], dtype=np.float32)[:, None, None]


class ArrayMaps:
    """Maps in memory: values (N, h, w), and whose and which class's each is."""

    def __init__(
        self, values: Array, image_ids: Sequence[str], targets: Sequence[int], *, method: str, signed: bool
    ) -> None:
        self.method = method
        self.signed = signed
        self._values = np.ascontiguousarray(values, dtype=np.float32)
        self._where = {(i, int(t)): row for row, (i, t) in enumerate(zip(image_ids, targets, strict=True))}
        digest = hashlib.sha256(self._values.data)
        digest.update(repr((self._values.shape, list(self._where))).encode())
        self.identity = digest.hexdigest()

    @classmethod
    def of(cls, maps: Maps) -> ArrayMaps:
        """Return a reader of what ``salience.explain`` returned."""
        return cls(maps.values, maps.image_ids, maps.targets.tolist(), method=maps.method, signed=maps.signed)

    def read(self, image_id: str, targets: Sequence[int]) -> Array | None:
        """Return the raw maps (len(targets), h, w) of an image, None where one of them is missing."""
        rows = [self._where[image_id, t] for t in targets if (image_id, t) in self._where]
        if not rows or len(rows) < len(targets):
            return None
        found: Array = self._values[rows]
        return found


def read_npz(path: str | Path) -> ArrayMaps:
    """Open maps from elsewhere: an ``.npz`` file.

    It holds ``values``, floats (N, h, w) or (N, 1, h, w); ``image_ids``, N names, or N positions in an array of images;
    ``targets``, N class indices; and perhaps ``method`` (its name, else that of the file) and ``signed`` (else whether
    a value is negative).

    Raises
    ------
    RunError
        When it cannot be read, or does not hold these.
    """
    path = Path(path)
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays: dict[str, Any] = {name: archive[name] for name in archive.files}
    except Exception as error:  # zipfile, zlib and NumPy raise all kinds of errors on broken archives
        raise RunError(f"{path} cannot be read as an .npz file of plain arrays: {error}.") from error
    for name in ("values", "image_ids", "targets"):
        if name not in arrays:
            raise RunError(
                f"{path} has no array {name!r}; maps are given as 'values' (N, h, w), 'image_ids' and 'targets'. "
                f"It holds {', '.join(map(repr, arrays)) or 'nothing'}.{nearest(name, arrays)}"
            )
    values, ids, targets = arrays["values"], arrays["image_ids"], arrays["targets"]
    if values.ndim == 4 and values.shape[1] == 1:
        values = values[:, 0]
    if values.ndim != 3 or not np.issubdtype(values.dtype, np.floating):
        raise RunError(f"{path}: 'values' are {values.dtype} of shape {values.shape}; floats (N, h, w) are needed.")
    if ids.shape != values.shape[:1] or targets.shape != ids.shape or not np.issubdtype(targets.dtype, np.integer):
        raise RunError(
            f"{path}: {len(values)} maps have 'image_ids' {ids.shape} and 'targets' {targets.shape} ({targets.dtype}); "
            "one name and one class index for each map are needed."
        )
    names = [f"{int(i):06d}" for i in ids] if np.issubdtype(ids.dtype, np.integer) else [str(i) for i in ids]
    signed = bool(arrays["signed"]) if "signed" in arrays else bool((values < 0).any())
    method = str(arrays["method"]) if "method" in arrays else path.stem
    return ArrayMaps(values, names, targets.tolist(), method=method, signed=signed)
