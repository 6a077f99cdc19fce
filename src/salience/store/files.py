"""Files that are either whole or not there."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from salience.errors import RunError
from salience.store.place import Place, storage

_MANY = 10_000
"""Rows from which Arrow's threads gain more than they cost."""


def whole_file(path: Place) -> AbstractContextManager[IO[bytes]]:
    """Write a file that takes the place of ``path`` when it is complete.

    Raises
    ------
    RunError
        When the disk is full or the place cannot be written; nothing half-written stays behind.
    """
    return storage(path).writing(path)


def json_bytes(value: Any) -> bytes:
    """Return ``value`` as indented JSON."""
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()


def write_json(path: Place, value: Any) -> None:
    """Write ``value`` as indented JSON, atomically."""
    with whole_file(path) as file:
        file.write(json_bytes(value))


def read_json(path: Place) -> Any:
    """Read a JSON file of a run; a broken one is named."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise _damaged(path, str(error)) from error


def read_jsons(folder: Place, names: Sequence[str]) -> Iterator[Any]:
    """Read JSON files of a folder, in the order of their names.

    Raises
    ------
    RunError
        When one of them is not there, or broken.
    """
    shelf = storage(folder).shelf(folder)

    def read(name: str) -> Any:
        source = shelf.source(name, whole=True)
        if source is None or isinstance(source, Path):
            return read_json(folder / name)
        try:
            return json.loads(source.read().decode("utf-8"))
        except ValueError as error:
            raise _damaged(folder / name, str(error)) from error

    return storage(folder).each(read, names)


def read_table(path: Place, schema: pa.Schema, columns: Sequence[str] | None = None) -> pa.Table:
    """Read a Parquet file of a run, with the columns of its table (those named, or all) in their types.

    Raises
    ------
    RunError
        When it cannot be read, or is not that table.
    """
    try:
        return _table(path, storage(path).source(path, whole=columns is None), schema, columns)
    except OSError as error:
        raise _damaged(path, str(error)) from error


def read_tables(
    folder: Place, names: Sequence[str], schema: pa.Schema, columns: Sequence[str] | None = None
) -> Iterator[pa.Table | None]:
    """Read Parquet files of a folder as :func:`read_table` does, in the order of their names; None where one is not.

    Raises
    ------
    RunError
        When one of them cannot be read, or is not that table.
    """
    shelf = storage(folder).shelf(folder)

    def read(name: str) -> pa.Table | None:
        source = shelf.source(name, whole=columns is None)
        return None if source is None else _table(folder / name, source, schema, columns)

    return storage(folder).each(read, names)


def _table(path: Place, source: Any, schema: pa.Schema, columns: Sequence[str] | None) -> pa.Table:
    wanted = schema if columns is None else pa.schema([schema.field(name) for name in columns])
    try:
        # Not pq.read_table, which takes twice as long to open a small file; and a run has one of each table in a unit.
        with pq.ParquetFile(source) as file:
            table = file.read(columns=wanted.names, use_threads=file.metadata.num_rows > _MANY)
        table.validate(full=True)
        return table if table.schema.equals(wanted) else table.select(wanted.names).cast(wanted)
    except (OSError, ValueError, KeyError, pa.ArrowException) as error:
        raise _damaged(path, str(error).strip().split("\n")[0] or type(error).__name__) from error


def write_table(path: Place, table: pa.Table) -> None:
    """Write a Parquet file, atomically."""
    with whole_file(path) as file:
        pq.write_table(table, file, compression="zstd")


def _damaged(path: Place, what: str) -> RunError:
    return RunError(f"{path} cannot be read: {what}. The run directory is damaged; restore it or start another.")
