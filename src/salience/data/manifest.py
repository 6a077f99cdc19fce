"""Manifests: a CSV or Parquet table that lists image files with what is known about them."""

from __future__ import annotations

import csv
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from salience.data.base import Box, ImageRef, Label, label_names_of
from salience.data.files import FileSource, check_ids
from salience.data.labels import parse_labels
from salience.errors import ImagesError, nearest

_STEMS = ("labels", "metadata", "manifest")
MANIFEST_NAMES = tuple(stem + suffix for stem in _STEMS for suffix in (".csv", ".parquet"))

ROLES: Mapping[str, tuple[str, ...]] = {
    "file": ("file", "file_name", "filename", "path", "image"),
    "label": ("label", "class", "target", "y"),
    "name": ("name", "class_name"),
    "id": ("id", "image_id"),
    "group": ("group",),
    "boxes": ("boxes",),
}
_BOXES = re.compile(r"boxes_\d+")


@dataclass(frozen=True)
class _Table:
    """The columns of a manifest that have a meaning, by role; ``columns`` has their own names."""

    name: str
    columns: Mapping[str, str]
    values: Mapping[str, Sequence[Any]]
    rows: Sequence[int]

    def where(self, position: int, role: str) -> str:
        return f"{self.name}, row {self.rows[position]}, column {self.columns[role]!r}"

    def get(self, role: str) -> Sequence[Any]:
        return self.values.get(role) or [None] * len(self.rows)


def open_manifest(
    path: Path, *, columns: Mapping[str, str] | None = None, limit: int | None = None, location: str | None = None
) -> FileSource:
    """Open a manifest.

    Parameters
    ----------
    path
        A ``.csv`` (comma, semicolon or tab; UTF-8) or ``.parquet`` file with one row for each image. Recognised
        columns, whatever their case: ``file`` (or ``file_name``, ``filename``, ``path``, ``image``), relative to the
        manifest; ``label`` (``class``, ``target``, ``y``), a class index or a class name; ``name`` (``class_name``),
        the human name of the label, which is the label where there is no other; ``id`` (``image_id``), by default the
        file; ``group``; ``boxes`` or ``boxes_<N>``, a JSON list of [x0, y0, x1, y1] in pixels of the listed file.
        Others are passed over.
    columns
        Which column plays which of these roles, as ``{"label": "wnid"}``, before names are recognised.
    limit
        Take the first N rows. All are checked.
    location
        What the user gave, where it was the folder.

    Raises
    ------
    ImagesError
        When it cannot be parsed, has no file column, a mapped column does not exist, or a label or box cannot be
        understood; the message names file, row and column. Rows of a CSV file are counted with the header as row 1.
    """
    table = _read(path, columns or {})
    if not table.rows:
        raise ImagesError(f"{path} lists no images: it has a header but no rows.")
    files = [_text(table, i, "file", needed=True) or "" for i in range(len(table.rows))]
    ids = [_text(table, i, "id") or Path(file).as_posix() for i, file in enumerate(files)]
    check_ids(ids, [f"row {row} of {path.name}" for row in table.rows])
    names = parse_labels(table.get("name"), lambda i: table.where(i, "name"), names=True)
    labels = names
    if "label" in table.values:
        labels = parse_labels(table.values["label"], lambda i: table.where(i, "label"))
    boxes = [_boxes(table, i) for i in range(len(table.rows))]
    groups = [_text(table, i, "group") for i in range(len(table.rows))]
    folder = path.absolute().parent
    refs = [
        ImageRef(i, ids[i], labels[i], str(folder / files[i]), boxes[i], groups[i])
        for i in range(len(table.rows) if limit is None else min(limit, len(table.rows)))
    ]
    titles: dict[Label, str] = {}
    for label, name in zip(labels, names, strict=True):
        if label is not None and name is not None:
            titles.setdefault(label, str(name))
    return FileSource(
        kind="manifest",
        location=location or str(path),
        refs=refs,
        label_names=label_names_of(labels),
        titles=titles if "label" in table.values else {},
    )


# ------------------------------------------------------------------ tables


def _read(path: Path, mapping: Mapping[str, str]) -> _Table:
    if path.suffix.lower() == ".parquet":
        return _read_parquet(path, mapping)
    return _read_csv(path, mapping)


def _read_csv(path: Path, mapping: Mapping[str, str]) -> _Table:
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            head = stream.readline()
            stream.seek(0)
            delimiter = max(",;\t", key=head.count)
            records = list(csv.reader(stream, delimiter=delimiter, strict=True))
    except UnicodeDecodeError as error:
        raise ImagesError(f"{path} is not UTF-8 text: save it as UTF-8.") from error
    except (OSError, csv.Error) as error:
        raise ImagesError(f"{path} cannot be read as CSV: {error}.") from error
    if not records:
        raise ImagesError(f"{path} is empty: a header and one row for each image are needed.")
    header = [cell.strip() for cell in records[0]]
    roles = _roles(path, header, mapping)
    lines = [(row, cells) for row, cells in enumerate(records[1:], start=2) if cells]
    for row, cells in lines:
        if len(cells) != len(header):
            raise ImagesError(
                f"{path}, row {row}: {len(cells)} cells where the header has {len(header)}. "
                "Put cells that hold the separator into double quotes."
            )
    at = {role: header.index(column) for role, column in roles.items()}
    values = {role: [cells[k] for _, cells in lines] for role, k in at.items()}
    return _Table(str(path), roles, values, [row for row, _ in lines])


def _read_parquet(path: Path, mapping: Mapping[str, str]) -> _Table:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            roles = _roles(path, file.schema_arrow.names, mapping)
            table = file.read(columns=sorted(set(roles.values())))
    except (OSError, pa.ArrowException) as error:
        raise ImagesError(f"{path} cannot be read as Parquet: {error}.") from error
    values = {role: table[column].to_pylist() for role, column in roles.items()}
    return _Table(str(path), roles, values, range(1, table.num_rows + 1))


def _roles(path: Path, header: Sequence[str], mapping: Mapping[str, str]) -> dict[str, str]:
    """Return which column plays which role: as mapped, else by its name."""
    listed = f"Its columns are {', '.join(header)}."
    for role, column in mapping.items():
        if role not in ROLES:
            raise ImagesError(f"Manifests have no {role!r}: map {', '.join(ROLES)}.{nearest(role, ROLES)}")
        if column not in header:
            near = nearest(column, header)
            raise ImagesError(f"{path} has no column {column!r}, to be used as {role}. {listed}{near}")
    roles = dict(mapping)
    free = {column.lower(): column for column in reversed(header) if column not in mapping.values()}  # first wins
    for role, names in ROLES.items():
        known = [free[name] for name in names if name in free]
        if known:
            roles.setdefault(role, known[0])
    if "boxes" not in roles:
        sized = [column for name, column in free.items() if _BOXES.fullmatch(name)]
        if len(sized) > 1:
            raise ImagesError(
                f"{path} has several columns of boxes ({', '.join(sorted(sized))}): map the one whose numbers are "
                "pixels of the listed files, as boxes=NAME."
            )
        if sized:
            roles["boxes"] = sized[0]
    if "file" not in roles:
        raise ImagesError(
            f"{path} has no column of file names (looked for {', '.join(ROLES['file'])}). {listed} Map the right one "
            "as file=NAME, or rename the table if it does not list images."
        )
    for column in roles.values():
        if list(header).count(column) > 1:
            raise ImagesError(f"{path} has two columns named {column!r}: rename one.")
    return roles


# ------------------------------------------------------------------ cells


def _text(table: _Table, position: int, role: str, *, needed: bool = False) -> str | None:
    value = table.get(role)[position]
    if isinstance(value, float) and math.isnan(value):
        value = None
    if isinstance(value, (bool, float, bytes, Mapping, list)):
        raise ImagesError(f"{table.where(position, role)} is {type(value).__name__}: text is needed.")
    text = None if value is None else str(value).strip()
    if needed and not text:
        raise ImagesError(f"{table.where(position, role)} is empty: each row needs a file.")
    return text or None


def _boxes(table: _Table, position: int) -> tuple[Box, ...]:
    value = table.get("boxes")[position]
    if value is None or (isinstance(value, str) and not value.strip()):
        return ()
    place = table.where(position, "boxes")
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError as error:
            raise ImagesError(f"{place} is no valid JSON ({error}): {value[:60]!r}.") from error
    if not isinstance(value, (list, tuple)) or not all(_is_box(box) for box in value):
        raise ImagesError(
            f"{place} is {str(value)[:60]}: a list of [x0, y0, x1, y1] with x0 < x1 and "
            "y0 < y1 is needed, as [[10, 20, 110, 220]]."
        )
    return tuple((float(x0), float(y0), float(x1), float(y1)) for x0, y0, x1, y1 in value)


def _is_box(box: Any) -> bool:
    if not isinstance(box, (list, tuple)) or len(box) != 4:
        return False
    if not all(isinstance(v, (int, float)) and not isinstance(v, bool) and math.isfinite(v) for v in box):
        return False
    return bool(box[0] < box[2] and box[1] < box[3])
