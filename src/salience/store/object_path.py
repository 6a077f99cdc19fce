"""Paths into object stores: what the rest of the system asks of a ``pathlib.Path``, answered by a bucket."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath

from salience.store.bucket import Bucket
from salience.store.connections import bucket_of


@dataclass(frozen=True, order=True)
class ObjectPath:
    """An object or a folder in a bucket; folders are there when something is in them.

    It can be pickled; the process that opens it connects with its own credentials.

    Attributes
    ----------
    root
        The bucket: ``s3://bucket``.
    key
        Where in it, parts joined by slashes; empty for the bucket itself.
    claim
        The claim under which is written here and below; empty for what is no part of a run's results.
    """

    root: str
    key: str = ""
    claim: str = field(default="", compare=False)

    def __str__(self) -> str:
        return f"{self.root}/{self.key}" if self.key else self.root

    def __truediv__(self, part: str) -> ObjectPath:
        return replace(self, key=posixpath.join(self.key, part))

    # ------------------------------------------------------------------ names

    def absolute(self) -> ObjectPath:
        """Return the path: a URL is complete."""
        return self

    @property
    def name(self) -> str:
        """The last part."""
        return posixpath.basename(self.key)

    @property
    def stem(self) -> str:
        """The last part without its suffix."""
        return PurePosixPath(self.name).stem

    @property
    def suffix(self) -> str:
        """The suffix of the last part."""
        return PurePosixPath(self.name).suffix

    @property
    def parent(self) -> ObjectPath:
        """The folder that it is in."""
        return replace(self, key=posixpath.dirname(self.key))

    def resolve(self, strict: bool = False) -> ObjectPath:
        """Return the path without dots; with ``strict`` there must be something.

        Raises
        ------
        FileNotFoundError
            When there must, and is not.
        """
        found = replace(self, key=posixpath.normpath(f"/{self.key}").lstrip("/"))
        if strict and not found.exists():
            raise FileNotFoundError(str(self))
        return found

    def is_relative_to(self, other: Path | ObjectPath) -> bool:
        """Tell whether it is ``other`` or within it."""
        if not isinstance(other, ObjectPath):
            return False
        return self == other or (self.root == other.root and self.key.startswith(f"{other.key}/"))

    # ------------------------------------------------------------------ what is there

    @property
    def bucket(self) -> Bucket:
        """The bucket, opened."""
        return bucket_of(self.root)

    def is_file(self) -> bool:
        """Tell whether there is an object."""
        return bool(self.key) and self.bucket.stat(self.key) is not None

    def is_dir(self) -> bool:
        """Tell whether there is something within."""
        return self.bucket.holds(self.key)

    def exists(self) -> bool:
        """Tell whether there is an object, or something within."""
        return self.is_file() or self.is_dir()

    def glob(self, pattern: str) -> Iterator[ObjectPath]:
        """Yield the objects and folders directly within whose names match."""
        folders, objects = self.bucket.children(self.key)
        for key in sorted([*folders, *(entry.key for entry in objects)]):
            if fnmatchcase(posixpath.basename(key), pattern):
                yield replace(self, key=key)

    def read_bytes(self) -> bytes:
        """Return the bytes of the object.

        Raises
        ------
        FileNotFoundError
            When there is none.
        """
        return self.bucket.read(self.key)

    def read_text(self, encoding: str = "utf-8") -> str:
        """Return the text of the object."""
        return self.read_bytes().decode(encoding)

    def unlink(self, missing_ok: bool = False) -> None:
        """Take the object away.

        Raises
        ------
        FileNotFoundError
            When there is none, unless that is allowed.
        """
        if not missing_ok and not self.is_file():
            raise FileNotFoundError(str(self))
        self.bucket.delete([self.key])
