"""Runs in folders: files moved into their place, a locked file, memory maps."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, TypeVar

import numpy as np

from salience.errors import RunError

A = TypeVar("A")
B = TypeVar("B")


class LocalStorage:
    """The storage of folders; see :class:`~salience.store.place.Storage`."""

    @contextmanager
    def writing(self, path: Path) -> Iterator[IO[bytes]]:
        """Write a file beside ``path`` and move it there when it is complete."""
        partial = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.partial")
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

    def start(self, path: Path, data: bytes) -> None:
        """Write a file unless it is there."""
        if not path.exists():
            with self.writing(path) as file:
                file.write(data)

    def record(self, path: Path, data: bytes) -> None:
        """Write the file that makes a unit count; the lock keeps other commands away."""
        with self.writing(path) as file:
            file.write(data)

    def discard(self, paths: Sequence[Path]) -> None:
        """Remove files that may be there."""
        for path in paths:
            path.unlink(missing_ok=True)

    def source(self, path: Path, *, whole: bool) -> Path:
        """Return the path: Arrow opens it."""
        return path

    def shelf(self, folder: Path) -> _Shelf:
        """Return the files of a folder."""
        return _Shelf(folder)

    def pieces(self, path: Path) -> _Pieces:
        """Map a file into memory."""
        return _Pieces(path)

    def each(self, function: Callable[[A], B], items: Sequence[A]) -> Iterator[B]:
        """Call a function for each item."""
        return map(function, items)

    def size(self, folder: Path) -> int:
        """Return the bytes of all files of a folder."""
        return sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())

    def vacant(self, folder: Path) -> None:
        """Make sure that a run can begin here."""
        if folder.exists() and not folder.is_dir():
            raise RunError(f"{folder} is a file; --out needs a folder.")
        if folder.is_dir() and any(not p.name.startswith(".") for p in folder.iterdir()):
            raise RunError(f"{folder} is not empty and holds no run. Choose another --out, or empty it.")

    def claim(self, folder: Path) -> FileClaim:
        """Lock a run, and take away what was being written when a process died."""
        return FileClaim(folder)

    def under(self, folder: Path, token: str) -> Path:
        """Return the folder: its lock is enough."""
        return folder

    def held(self, folder: Path) -> bool:
        """Tell whether a process has the lock."""
        try:
            with (folder / ".lock").open("r") as lock:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except FileNotFoundError:
            return False
        except OSError:
            return True
        return False

    def holder(self, folder: Path) -> str:
        """Return the token of who holds a run."""
        return (folder / ".lock").read_text(encoding="utf-8")

    def free(self, folder: Path) -> None:
        """Do nothing: a lock dies with its process."""


LOCAL = LocalStorage()


class FileClaim:
    """A lock on the file ``.lock`` of a run; it dies with its process.

    Raises
    ------
    RunError
        When another process has it, or the place cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self.token = uuid.uuid4().hex
        self._folder = folder
        absent = [p for p in (folder, *folder.parents) if not p.exists()]
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._made = absent
            self._lock: IO[str] = (folder / ".lock").open("a")
        except OSError as error:
            raise RunError(f"Cannot write {folder}: {error.strerror}. Choose another --out.") from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not os.path.samestat(os.fstat(self._lock.fileno()), (folder / ".lock").stat()):
                raise FileNotFoundError  # its last holder has just taken it away
        except OSError as error:
            self._lock.close()
            raise RunError(f"Another process is writing {folder}. Wait for it, or choose another --out.") from error
        self._lock.truncate(0)
        self._lock.write(self.token)
        self._lock.flush()
        for partial in folder.rglob(".*.partial"):
            partial.unlink(missing_ok=True)

    def check(self) -> None:
        """Do nothing: the lock is held as long as this process lives."""

    def release(self, *, keep: bool) -> None:
        """Unlock the run; without ``keep``, take away the folders that were made for it."""
        if not keep:
            with contextlib.suppress(OSError):
                (self._folder / ".lock").unlink()
                for folder in self._made:
                    folder.rmdir()
        self._lock.close()


class _Shelf:
    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def source(self, name: str, *, whole: bool) -> Path | None:
        path = self._folder / name
        return path if path.exists() else None


class _Pieces:
    """A file mapped into memory: a piece is a view."""

    def __init__(self, path: Path) -> None:
        self._bytes = np.memmap(path, dtype=np.uint8, mode="r")
        self.size = len(self._bytes)

    def tail(self, size: int) -> bytes:
        return self._bytes[-size:].tobytes()

    def read(self, starts: Sequence[int], size: int) -> Iterator[Any]:
        return (self._bytes[start : start + size] for start in starts)


def _told(error: OSError, path: Path) -> RunError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return RunError(
            f"No space is left for {path}. Everything finished before is kept: free some space and run the same "
            "command again."
        )
    return RunError(
        f"Cannot write {path}: {error.strerror or error}. Check the folder's permissions, or choose another."
    )
