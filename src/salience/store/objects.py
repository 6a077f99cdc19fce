"""Runs on object stores: one put for a file, a claim in the place of a lock, ranges in the place of memory maps."""

from __future__ import annotations

import io
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from typing import IO, Any, TypeVar

import pyarrow as pa

from salience.errors import RunError
from salience.store.bucket import Bucket, Changed
from salience.store.claims import ObjectClaim, end_claims, is_held, read_holder
from salience.store.entry import CLAIM, Entry, claim_number
from salience.store.object_path import ObjectPath

A = TypeVar("A")
B = TypeVar("B")

_AT_ONCE = 16
"""Requests under way at a time: each waits for the store, not for this machine."""
_WHOLE_BYTES = 1 << 20
"""Up to this size a file is read whole, whatever is wanted of it."""
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
}


class ObjectStorage:
    """The storage of object stores; see :class:`~salience.store.place.Storage`."""

    @contextmanager
    def writing(self, path: ObjectPath) -> Iterator[IO[bytes]]:
        """Collect a file in memory and put it when it is complete."""
        with io.BytesIO() as file:
            yield file
            path.bucket.replace(path.key, file.getvalue(), _attributes(path))

    def start(self, path: ObjectPath, data: bytes) -> None:
        """Put an object unless there is one."""
        try:
            path.bucket.create(path.key, data, _attributes(path))
        except FileExistsError:
            return

    def record(self, path: ObjectPath, data: bytes) -> None:
        """Put the object that makes a unit count, only where there is none.

        Within one command a worker may have died between its record and telling so; the next one's takes its place.
        """
        attributes = _attributes(path)
        try:
            try:
                path.bucket.create(path.key, data, attributes)
            except FileExistsError:
                there = path.bucket.stat(path.key)
                if there is None or not path.claim or there.attributes.get(CLAIM) != path.claim:
                    raise Changed(path.key) from None
                path.bucket.update(path.key, data, there.version, attributes)
        except Changed:
            raise RunError(
                f"Another command has written {path}, so this unit does not count and nothing of the other one is "
                "changed. One command writes a run at a time: 'salience status' tells which; then run this one again."
            ) from None

    def discard(self, paths: Sequence[ObjectPath]) -> None:
        """Remove objects, asking first: a command that is late removes nothing of the next one's."""

        def discard(path: ObjectPath) -> None:
            there = path.bucket.stat(path.key)
            if there is not None and there.claim <= claim_number(_attributes(path)):
                path.unlink(missing_ok=True)

        deque(self.each(discard, paths), maxlen=0)

    def source(self, path: ObjectPath, *, whole: bool) -> Any:
        """Return an object as a file: read here, or in ranges as Arrow asks for them."""
        if whole:
            return pa.BufferReader(path.read_bytes())
        entry = path.bucket.stat(path.key)
        if entry is None:
            raise FileNotFoundError(str(path))
        return _opened(path.bucket, entry, whole=False)

    def shelf(self, folder: ObjectPath) -> _Shelf:
        """List a folder, once for all that is read of it."""
        return _Shelf(folder)

    def pieces(self, path: ObjectPath) -> _Pieces:
        """Return the object, to be read in ranges."""
        return _Pieces(path)

    def each(self, function: Callable[[A], B], items: Sequence[A]) -> Iterator[B]:
        """Call a function for each item in threads; results come in order."""
        if len(items) < 2:
            yield from map(function, items)
            return
        with ThreadPoolExecutor(min(_AT_ONCE, len(items)), thread_name_prefix="objects") as pool:
            yield from pool.map(function, items)

    def size(self, folder: ObjectPath) -> int:
        """Return the bytes of all objects of a folder."""
        return sum(entry.size for entry in folder.bucket.entries(folder.key))

    def vacant(self, folder: ObjectPath) -> None:
        """Make sure that a run can begin here."""
        folders, objects = folder.bucket.children(folder.key)
        names = [key.rpartition("/")[2] for key in (*folders, *(entry.key for entry in objects))]
        if any(not name.startswith(".") for name in names):
            raise RunError(f"{folder} is not empty and holds no run. Choose another --out, or empty it.")
        if folder.is_file():
            raise RunError(f"{folder} is a file; --out needs a folder.")

    def claim(self, folder: ObjectPath) -> ObjectClaim:
        """Claim a run."""
        return ObjectClaim(folder)

    def under(self, folder: ObjectPath, token: str) -> ObjectPath:
        """Return the folder, where all that is written says under which claim."""
        return replace(folder, claim=token)

    def held(self, folder: ObjectPath) -> bool:
        """Tell whether somebody has a claim that holds."""
        return is_held(folder)

    def holder(self, folder: ObjectPath) -> str:
        """Return the token of who holds a run."""
        found = read_holder(folder)
        return "" if found is None else found[0].token

    def free(self, folder: ObjectPath) -> None:
        """End the claims of a run and of those within it."""
        end_claims(folder)


OBJECTS = ObjectStorage()


class _Shelf:
    def __init__(self, folder: ObjectPath) -> None:
        self._folder = folder
        _, objects = folder.bucket.children(folder.key)
        self._entries = {entry.key: entry for entry in objects}

    def source(self, name: str, *, whole: bool) -> Any:
        entry = self._entries.get((self._folder / name).key)
        return None if entry is None else _opened(self._folder.bucket, entry, whole=whole)


class _Pieces:
    def __init__(self, path: ObjectPath) -> None:
        self._path = path
        self.size = 0

    def tail(self, size: int) -> bytes:
        data, self.size = self._path.bucket.tail(self._path.key, size)
        return data

    def read(self, starts: Sequence[int], size: int) -> list[Any]:
        return self._path.bucket.ranges(self._path.key, starts, size)


def _opened(bucket: Bucket, entry: Entry, *, whole: bool) -> Any:
    if whole or entry.size <= _WHOLE_BYTES:
        return pa.BufferReader(bucket.read_entry(entry))
    return pa.PythonFile(_Ranges(bucket, entry), mode="r")


class _Ranges(io.RawIOBase):
    """A large object as a file, read in ranges."""

    def __init__(self, bucket: Bucket, entry: Entry) -> None:
        self._bucket, self._entry, self._at = bucket, entry, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._entry.size}[whence]
        self._at = base + offset
        return self._at

    def read(self, size: int = -1) -> bytes:
        left = self._entry.size - self._at
        size = left if size < 0 else min(size, left)
        data = bytes(self._bucket.ranges(self._entry.key, [self._at], size)[0]) if size > 0 else b""
        self._at += len(data)
        return data


def _attributes(path: ObjectPath) -> dict[str, str]:
    """Return what the next writer and a browser want to know of an object."""
    found = {} if path.suffix not in _TYPES else {"Content-Type": _TYPES[path.suffix]}
    return found if not path.claim else {**found, CLAIM: path.claim}
