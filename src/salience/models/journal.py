"""Answers that were paid for, on disk until the results made of them are safe.

    RUN/queries/MODEL/
      sent               rows ever sent, as text; raised before a request goes out, so a kill can only count too many
      probes.rows        answers to what is asked outside of all work units; kept
      8f3a90c1d2e4b567.rows   answers of a work unit, named by what is in it; deleted when the unit is committed
      evaluate.1c07...rows    the same of a unit of another stage

A file of answers is a header (magic, fingerprint of the model, number of classes) and records of one size: the key of
the row that was sent, its scores as little-endian float32, and the CRC-32 of both. A process that dies while it writes
leaves a record that is short or has a wrong sum; it and what follows do not count, and are written over.
"""

from __future__ import annotations

import errno
import os
import struct
import threading
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from salience.errors import RunError

Array = npt.NDArray[Any]
Scores = npt.NDArray[np.float32]

KEY_BYTES = 16
PROBES = "probes"
_MAGIC = b"salience rows 1\n"
_HEADER = struct.Struct("<16s32sI")
_SUM = struct.Struct("<I")


def row_keys(rows: Array) -> list[bytes]:
    """Return the key of each row of (N, ...): the 128-bit BLAKE2b of its bytes."""
    return [blake2b(np.ascontiguousarray(row).data, digest_size=KEY_BYTES).digest() for row in rows]


@contextmanager
def told(path: Path) -> Iterator[None]:
    """Turn errors of the disk into a message for people."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        cause = "no space is left" if full else error.strerror or str(error)
        raise RunError(
            f"The answers of a paid model cannot be kept in {path}: {cause}. Mend that, then run the same command "
            "again: what was kept before is not asked again."
        ) from error


@dataclass(frozen=True)
class Place:
    """Where an answer lies: in which section, at which byte."""

    section: Section
    offset: int


class Section:
    """One file of answers. What is whole in it can be read; what is added goes behind that."""

    def __init__(self, path: Path, fingerprint: str) -> None:
        self.path = path
        self._fingerprint = fingerprint.encode().ljust(32, b"\0")[:32]
        self._file: int | None = None
        self._classes = 0
        self._end = 0

    def load(self) -> dict[bytes, Place]:
        """Find the answers that are whole; of another model there are none."""
        with told(self.path):
            content = self.path.read_bytes() if self.path.exists() else b""
        self._classes, self._end = 0, 0
        if len(content) < _HEADER.size:
            return {}
        magic, fingerprint, classes = _HEADER.unpack_from(content)
        if magic != _MAGIC or fingerprint != self._fingerprint or not classes:
            return {}
        self._classes, self._end = classes, _HEADER.size
        found: dict[bytes, Place] = {}
        size = KEY_BYTES + 4 * classes + _SUM.size
        while self._end + size <= len(content):
            body = content[self._end : self._end + size - _SUM.size]
            if _SUM.unpack_from(content, self._end + len(body))[0] != zlib.crc32(body):
                break
            found[body[:KEY_BYTES]] = Place(self, self._end + KEY_BYTES)
            self._end += size
        return found

    def append(self, keys: Sequence[bytes], scores: Scores) -> list[Place]:
        """Write answers (N, C) behind what is there; they are on the disk when this returns."""
        if self._classes not in (0, scores.shape[1]):
            raise RunError(f"{self.path} holds answers of {self._classes} classes, not of {scores.shape[1]}.")
        start = self._end
        content = b"" if start else _HEADER.pack(_MAGIC, self._fingerprint, scores.shape[1])
        places = []
        for key, row in zip(keys, scores, strict=True):
            body = key + row.astype("<f4").tobytes()
            places.append(Place(self, start + len(content) + KEY_BYTES))
            content += body + _SUM.pack(zlib.crc32(body))
        with told(self.path):
            file = self._open()
            os.ftruncate(file, start)  # what a torn write left behind
            os.pwrite(file, content, start)
            os.fsync(file)
        self._classes, self._end = scores.shape[1], start + len(content)
        return places

    def read(self, offset: int) -> Scores:
        """Return the scores (C,) at ``offset``."""
        with told(self.path):
            content = os.pread(self._open(), 4 * self._classes, offset)
        return np.frombuffer(content, dtype="<f4").astype(np.float32)

    def _open(self) -> int:
        if self._file is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
        return self._file

    def close(self, *, delete: bool = False) -> None:
        """Close the file, and take it away where its answers are needed no more."""
        if self._file is not None:
            os.close(self._file)
            self._file = None
        if delete:
            with told(self.path):
                self.path.unlink(missing_ok=True)


class Journal:
    """The answers of one model in one run directory.

    Only the keys are held in memory; scores are read back where they are needed. Sections are deleted by the thread
    that commits units while another one adds answers.

    Parameters
    ----------
    folder
        ``RUN/queries/MODEL``; made with the first answer.
    fingerprint
        Of the model: answers under another one are not served.
    """

    def __init__(self, folder: Path, fingerprint: str) -> None:
        self.folder = folder
        self._fingerprint = fingerprint
        self._lock = threading.Lock()
        self._index: dict[bytes, Place] = {}
        self._sections: dict[str, Section] = {}
        for path in sorted(folder.glob("*.rows")):
            section = self._sections[path.stem] = Section(path, fingerprint)
            self._index.update(section.load())
        self._current = self._section(PROBES)

    def __len__(self) -> int:
        return len(self._index)

    def _section(self, name: str) -> Section:
        if name not in self._sections:
            self._sections[name] = Section(self.folder / f"{name}.rows", self._fingerprint)
        return self._sections[name]

    # ------------------------------------------------------------------ answers

    def find(self, keys: Iterable[bytes]) -> dict[bytes, Scores]:
        """Return the scores of those rows that were answered before."""
        with self._lock:
            places = {key: self._index[key] for key in keys if key in self._index}
            return {key: place.section.read(place.offset) for key, place in places.items()}

    def add(self, answers: Mapping[bytes, Scores]) -> None:
        """Keep the scores of rows."""
        with self._lock:
            places = self._current.append(list(answers), np.stack(list(answers.values())))
            self._index.update(zip(answers, places, strict=True))

    # ------------------------------------------------------------------ units

    def begin(self, unit: str) -> None:
        """Put what comes into the section of ``unit``, which a process may have begun before."""
        with self._lock:
            self._current = self._section(unit)

    def committed(self, unit: str) -> None:
        """Let go of the answers of ``unit``: the results made of them are safe."""
        with self._lock:
            self._drop([unit])

    def finish(self, stage: str = "") -> None:
        """Let go of all units of a stage: none of its work is left that could ask for their answers.

        A stage's units are called ``STAGE.NAME``; those of the first one, the maps, have no dot.
        """
        with self._lock:
            self._current = self._section(PROBES)
            self._drop([n for n in self._sections if n != PROBES and n.rpartition(".")[0] == stage])

    def close(self) -> None:
        """Close all files."""
        with self._lock:
            for section in self._sections.values():
                section.close()

    def _drop(self, names: Iterable[str]) -> None:
        gone = [self._sections.pop(name) for name in names if name in self._sections]
        for section in gone:
            section.close(delete=True)
        self._index = {key: place for key, place in self._index.items() if place.section not in gone}

    # ------------------------------------------------------------------ the count

    def sent(self) -> int:
        """Return the rows ever sent."""
        path = self.folder / "sent"
        with told(path):
            text = path.read_text(encoding="ascii") if path.exists() else "0"
        if not text.strip().isdecimal():
            raise RunError(f"{path} holds {text[:40]!r}, not a number of rows. Write into it how many were sent.")
        return int(text)

    def write_sent(self, rows: int) -> None:
        """Set the rows ever sent; the number is on the disk when this returns."""
        path = self.folder / "sent"
        with told(path):
            self.folder.mkdir(parents=True, exist_ok=True)
            file = os.open(path, os.O_WRONLY | os.O_CREAT, 0o644)
            try:
                os.pwrite(file, f"{rows:020d}\n".encode(), 0)  # one size: never torn, nothing left behind
                os.fsync(file)
            finally:
                os.close(file)
