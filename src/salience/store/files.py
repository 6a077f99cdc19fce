"""Files that are either whole or not there."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from salience.errors import RunError


@contextmanager
def whole_file(path: Path) -> Iterator[IO[bytes]]:
    """Write a file beside ``path`` and move it there when it is complete.

    Raises
    ------
    RunError
        When the disk is full or the place cannot be written; nothing half-written stays behind.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        with suppress(OSError):  # its folder may be what is wrong
            partial.unlink(missing_ok=True)
        raise _told(error, path) from error
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def _told(error: OSError, path: Path) -> RunError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return RunError(
            f"No space is left for {path}. Everything finished before is kept: free some space and run the same "
            "command again."
        )
    return RunError(
        f"Cannot write {path}: {error.strerror or error}. Check the folder's permissions, or choose another."
    )


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as indented JSON, atomically."""
    with whole_file(path) as file:
        file.write((json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode())


def read_json(path: Path) -> Any:
    """Read a JSON file of a run; a broken one is named."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(
            f"{path} cannot be read: {error}. The run directory is damaged; restore it or start another."
        ) from error


def read_table(path: Path, schema: pa.Schema, columns: Sequence[str] | None = None) -> pa.Table:
    """Read a Parquet file of a run, with the columns of its table (those named, or all) in their types.

    Raises
    ------
    RunError
        When it cannot be read, or is not that table.
    """
    wanted = schema if columns is None else pa.schema([schema.field(name) for name in columns])
    try:
        table = pq.read_table(path, columns=wanted.names)
        table.validate(full=True)
        return table.select(wanted.names).cast(wanted)
    except (OSError, ValueError, KeyError, pa.ArrowException) as error:
        what = str(error).strip().split("\n")[0] or type(error).__name__
        raise RunError(
            f"{path} cannot be read: {what}. The run directory is damaged; restore it or start another."
        ) from error


def write_table(path: Path, table: pa.Table) -> None:
    """Write a Parquet file, atomically."""
    with whole_file(path) as file:
        pq.write_table(table, file, compression="zstd")
