"""Where runs are: folders of this machine, or URLs of object stores; and what is done differently in the two."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO, Any, Protocol, TypeVar
from urllib.parse import unquote, urlsplit

from salience.errors import RunError, nearest
from salience.store.connections import SCHEMES
from salience.store.object_path import ObjectPath

Place = Path | ObjectPath
"""A file or a folder, wherever it is. Both kinds are joined with ``/``, looked at, read and removed alike."""

P = TypeVar("P")
A = TypeVar("A")
B = TypeVar("B")
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://")
_SQUASHED = re.compile(rf"({'|'.join(SCHEMES)}|file):/[^/]")


class Claim(Protocol):
    """The right to write a run, while nobody else has it."""

    @property
    def token(self) -> str:
        """What tells other processes who holds the run."""
        ...

    def check(self) -> None:
        """Make sure that the run is still held.

        Raises
        ------
        RunError
            When it is not.
        """
        ...

    def release(self, *, keep: bool) -> None:
        """Let go of the run; without ``keep``, leave the place as it was before."""
        ...


class Pieces(Protocol):
    """The bytes of one file, read where they are wanted."""

    size: int

    def tail(self, size: int) -> bytes:
        """Return the last bytes."""
        ...

    def read(self, starts: Sequence[int], size: int) -> Iterable[Any]:
        """Return pieces of one size, as buffers."""
        ...


class Shelf(Protocol):
    """The files of one folder, for reading many of them."""

    def source(self, name: str, *, whole: bool) -> Any:
        """Return what pyarrow reads a file from, None where there is none; ``whole``: all of it will be read."""
        ...


class Storage(Protocol[P]):
    """What folders and object stores do differently. Each has one implementation, and nobody else asks which it is."""

    def writing(self, path: P) -> AbstractContextManager[IO[bytes]]:
        """Write a file that is whole or not there; it takes the place of an earlier one."""
        ...

    def start(self, path: P, data: bytes) -> None:
        """Write a file unless it is there: of several processes that begin it, one does."""
        ...

    def record(self, path: P, data: bytes) -> None:
        """Write the file that makes a unit count, which no other command may have done."""
        ...

    def discard(self, paths: Sequence[P]) -> None:
        """Remove files that should not be there, of which most are not."""
        ...

    def source(self, path: P, *, whole: bool) -> Any:
        """Return what pyarrow reads a file from."""
        ...

    def shelf(self, folder: P) -> Shelf:
        """Return the files of a folder."""
        ...

    def pieces(self, path: P) -> Pieces:
        """Return the bytes of a file, to be read in pieces."""
        ...

    def each(self, function: Callable[[A], B], items: Sequence[A]) -> Iterator[B]:
        """Call a function that reads for each item, in order; side by side where the way is long."""
        ...

    def size(self, folder: P) -> int:
        """Return the bytes of all files of a folder."""
        ...

    def vacant(self, folder: P) -> None:
        """Make sure that a run can begin here.

        Raises
        ------
        RunError
            When something else is there.
        """
        ...

    def claim(self, folder: P) -> Claim:
        """Take the right to write a run.

        Raises
        ------
        RunError
            When another process has it, or the place cannot be written.
        """
        ...

    def under(self, folder: P, token: str) -> P:
        """Return the folder, to be written by who has the token of its claim, or in that one's name."""
        ...

    def held(self, folder: P) -> bool:
        """Tell whether a process writes a run now."""
        ...

    def holder(self, folder: P) -> str:
        """Return the token of who holds a run."""
        ...

    def free(self, folder: P) -> None:
        """Take a run, and those within it, from whoever holds it and is dead."""
        ...


def place_of(given: str | Place) -> Place:
    """Return the place that a path or a URL names; nothing is looked up.

    Raises
    ------
    RunError
        When it is a URL of a kind that runs cannot be on.
    """
    if isinstance(given, ObjectPath):
        return given
    if squashed := _SQUASHED.match(str(given)):
        raise RunError(f"{given} is no folder: a URL is given as text, {squashed[1]}://..., and not as a pathlib.Path.")
    url = None if isinstance(given, Path) else _URL.match(given)
    if isinstance(given, Path) or url is None:
        return Path(given)
    scheme = url[1].lower()
    if scheme == "file":
        return Path(unquote(urlsplit(given).path))
    if scheme not in SCHEMES:
        known = ("file", *SCHEMES)
        raise RunError(
            f"Runs cannot be on {scheme}://; they can be in a folder or on {', '.join(f'{s}://' for s in known)}."
            f"{nearest(scheme, known)}"
        )
    bucket, _, key = given[url.end() :].partition("/")
    if not bucket:
        raise RunError(f"{given!r} names no bucket; write {scheme}://BUCKET/FOLDER.")
    parts = [part for part in key.split("/") if part]
    if any(part in (".", "..") for part in parts):
        raise RunError(f"{given!r} has dots for a folder; write the URL without them.")
    if not parts:
        raise RunError(f"{given!r} names a bucket and no folder in it; write {scheme}://{bucket}/FOLDER.")
    return ObjectPath(f"{scheme}://{bucket}", "/".join(parts))


def storage(path: Place) -> Storage[Any]:
    """Return how files are written, claimed and read where ``path`` is."""
    if isinstance(path, Path):
        from salience.store.local import LOCAL

        return LOCAL
    from salience.store.objects import OBJECTS

    return OBJECTS


def folder_for(path: Place, what: str) -> Path:
    """Return a folder of this machine, for what needs one.

    Raises
    ------
    RunError
        When the place is a URL.
    """
    if isinstance(path, Path):
        return path
    raise RunError(f"{what}, and {path} is on an object store. Give a folder as --out, and copy the run there after.")
