"""Writing the page of a run."""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from pathlib import Path

import numpy as np
import numpy.typing as npt
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from salience.errors import RunError
from salience.report import words
from salience.report.bundles import INLINE_BYTES, Bundles
from salience.report.colour import css_gradient
from salience.report.gather import Entry, Lost, Material, Part, gather
from salience.report.payload import geometries, map_key, payload, photo_key, safe_json
from salience.report.pictures import Missing, Photographs, draw_map
from salience.report.view import context
from salience.store.files import whole_file
from salience.store.run import open_run
from salience.store.shards import MapArray

STYLES = ("tokens.css", "components.css", "page.css")
SCRIPTS = ("types.js", "pictures.js", "filters.js", "grid.js", "large.js", "main.js")

_CHUNK_BYTES = 64 << 20


def write_report(run_folder: str | Path, *, inline_bytes: int = INLINE_BYTES) -> Path:
    """Write ``report/index.html`` into a run directory, and its sidecars where there are many pictures.

    Parameters
    ----------
    run_folder
        A run directory; it may be unfinished.
    inline_bytes
        Up to this many bytes of pictures, all of them are inside the page. Beyond it the page keeps the first screen
        and loads the others from ``data-*.js`` beside it as they come into view.

    Returns
    -------
    Path
        The page.

    Raises
    ------
    RunError
        When there is no run, or the page cannot be written.
    """
    run = open_run(run_folder)
    folder = run.folder / "report"
    material = gather(run)
    drawing = _Drawing(material, Bundles(folder, inline_bytes))
    drawing.draw()
    text = render(material, drawing)
    page = folder / "index.html"
    with whole_file(page) as file:
        file.write(text.encode())
    for old in folder.glob("data-*.js"):
        if old.name not in drawing.bundles.files:
            old.unlink(missing_ok=True)
    return page


@dataclass
class _Drawing:
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
        with ThreadPoolExecutor(_workers(), thread_name_prefix="draw") as pool:
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
        size += sum(4 * len(cells) * part.columns[j].grid[0] * part.columns[j].grid[1] for j, cells in entry.cells.items())
        chunk.append(entry)
        if size >= _CHUNK_BYTES:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def _workers() -> int:
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 2
    return max(1, min(8, available))


# ---------------------------------------------------------------------- putting it together


def render(material: Material, drawing: _Drawing) -> str:
    """Return the HTML of the page."""
    data = payload(
        material, drawing.ranges, drawing.missing, drawing.damaged, drawing.bundles.places, drawing.bundles.files
    )
    return str(
        environment()
        .get_template("page.html.j2")
        .render(
            **context(material),
            style=style(STYLES),
            script=script(SCRIPTS),
            icon=_icon(),
            files=drawing.bundles.files,
            payload=safe_json(data),
            pictures=safe_json(drawing.bundles.inline),
        )
    )


@cache
def environment() -> Environment:
    """Return the Jinja environment that all pages share: everything is escaped, nothing undefined is accepted."""
    env = Environment(
        loader=PackageLoader("salience.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    env.filters.update(percent=words.percent, count=words.count, kind_of_failure=words.kind_of_failure)
    env.globals.update(script_sources=_script_sources)
    return env


def style(names: tuple[str, ...]) -> Markup:
    """Return style sheets joined, with the two colour scales as custom properties."""
    scales = "".join(f"--scale-{name}:{css_gradient(name)};" for name in ("sequential", "diverging"))
    return Markup(f":root{{{scales}}}\n" + "\n".join(_asset(name) for name in names))  # noqa: S704  # our own files


def script(names: tuple[str, ...]) -> Markup:
    """Return scripts joined into one strict function, so that they share their names and add none to the page."""
    body = "\n".join(_asset(name) for name in names)
    return Markup(f'(() => {{\n"use strict";\n{body}\n}})();')  # noqa: S704  # our own files


def _asset(name: str) -> str:
    return (files("salience.report") / "assets" / name).read_text(encoding="utf-8")


def _script_sources(text: str) -> Markup:
    """Allow this very script and the sidecars beside the page, and no other."""
    digest = base64.b64encode(hashlib.sha256(str(text).encode()).digest()).decode()
    return Markup(f"'sha256-{digest}' 'self' file:")  # noqa: S704  # base64 has no quotes


def _icon() -> Markup:
    svg = (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 16 16"><defs><linearGradient id="g" x2="1" y2="1">'
        '<stop stop-color="#2a0a5e"/><stop offset=".55" stop-color="#b81f6a"/><stop offset="1" stop-color="#ffb347"/>'
        '</linearGradient></defs><rect width="16" height="16" rx="4" fill="url(#g)"/></svg>'
    )
    return Markup("data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode())  # noqa: S704
