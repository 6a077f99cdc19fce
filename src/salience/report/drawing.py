"""Drawing all pictures of a run, in threads, a piece at a time."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from salience.cores import threads
from salience.errors import RunError
from salience.report.bundles import Bundles
from salience.report.gather import Entry, Lost, Material, Part
from salience.report.payload import geometries, map_key, photo_key
from salience.report.pictures import Missing, Photographs, draw_map
from salience.store.shards import MapArray

_CHUNK_BYTES = 64 << 20


@dataclass
class Drawing:
    """All pictures of a run on their way to the page."""

    material: Material
    bundles: Bundles
    ranges: dict[tuple[int, int, int, int], tuple[float, float]] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    damaged: dict[tuple[int, int], str] = field(default_factory=dict)

    def draw(self) -> None:
        """Draw everything, a chunk of images at a time; pictures leave memory as they go into sidecars."""
        photographs = Photographs(self.material.run.info.get("images", {}), self.material.images)
        of = geometries(self.material.parts)
        with ThreadPoolExecutor(threads(), thread_name_prefix="draw") as pool:
            for number, part in enumerate(self.material.parts):
                with_photo = of[number] == number
                for entries in _chunks(part):
                    maps = self._read(number, part, entries)
                    jobs = [
                        pool.submit(self._image, number, part, e, maps, photographs if with_photo else None)
                        for e in entries
                    ]
                    for job in jobs:
                        self.bundles.add(job.result())
        self.bundles.close()

    def _read(
        self, number: int, part: Part, entries: list[Entry]
    ) -> dict[tuple[int, int, int], npt.NDArray[np.float32]]:
        """Return the raw maps of some images by (image, column, target)."""
        found: dict[tuple[int, int, int], npt.NDArray[np.float32]] = {}
        for j, column in enumerate(part.columns):
            cells = [(e.image, cell) for e in entries for cell in e.cells.get(j, ())]
            if not cells:
                continue
            try:
                array = MapArray(self.material.run.folder / "maps" / column.recipe)
                values = array.read(np.array([cell.row for _, cell in cells], dtype=np.int64))
            except (RunError, OSError, ValueError, KeyError) as error:
                self._damage(number, j, part, error)
                continue
            for (image, cell), raw in zip(cells, values, strict=True):
                found[image, j, cell.target] = raw * np.float32(cell.factor)
        return found

    def _damage(self, number: int, column: int, part: Part, error: Exception) -> None:
        """Show maps that cannot be read as one failure."""
        if (number, column) in self.damaged:
            return
        message = str(error).replace(f"{self.material.run.folder}{os.sep}", "")
        self.damaged[number, column] = message
        first = next((e.image for e in part.entries if e.cells.get(column)), 0)
        lost = Lost(first, part.name, part.columns[column].method, "damaged", message)
        self.material.failures.append(lost)
        part.entries[first].failures.append(lost)

    def _image(
        self,
        number: int,
        part: Part,
        entry: Entry,
        maps: dict[tuple[int, int, int], npt.NDArray[np.float32]],
        photographs: Photographs | None,
    ) -> dict[str, bytes]:
        """Return all pictures of one image."""
        out: dict[str, bytes] = {}
        if photographs is not None:
            key = photo_key(number, entry.image)
            try:
                out[key] = photographs.draw(self.material.images[entry.image], part.preprocessing)
            except Missing as error:
                self.missing[key] = str(error)
        for j, cells in entry.cells.items():
            for cell in cells:
                raw = maps.get((entry.image, j, cell.target))
                if raw is not None:
                    out[map_key(number, entry.image, j, cell.target)] = draw_map(raw, part.size, part.columns[j].scale)
                    self.ranges[number, entry.image, j, cell.target] = (float(raw.min()), float(raw.max()))
        return out


def _chunks(part: Part) -> Iterator[list[Entry]]:
    """Split the images of a part so that the raw maps of one piece stay near 64 MiB."""
    chunk: list[Entry] = []
    size = 0
    for entry in part.entries:
        size += sum(
            4 * len(cells) * part.columns[j].grid[0] * part.columns[j].grid[1] for j, cells in entry.cells.items()
        )
        chunk.append(entry)
        if size >= _CHUNK_BYTES:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk
