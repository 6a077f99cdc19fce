"""Where pictures go: into the page while they are few, into scripts beside it when they are many.

A page that was opened as a file may not fetch other files, but it may load scripts. Every sidecar is one call that
hands the pictures of some neighbouring images to the page.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from salience.store.files import whole_file
from salience.store.place import Place

INLINE_BYTES = 8_000_000
FIRST_BYTES = 1_000_000
SIDECAR_BYTES = 1_000_000


@dataclass
class Bundles:
    """Takes the pictures of one image after the other and decides where they go.

    Parameters
    ----------
    folder
        Where the page will be.
    inline_bytes
        Up to this many bytes of pictures stay in the page, and there are no sidecars.
    """

    folder: Place
    inline_bytes: int = INLINE_BYTES
    inline: dict[str, str] = field(default_factory=dict)
    files: list[str] = field(default_factory=list)
    places: list[int] = field(default_factory=list)
    """For each image in turn: 0 where its pictures are in the page, else the number of its sidecar from 1."""
    total: int = 0
    _waiting: list[tuple[dict[str, bytes], int]] = field(default_factory=list)
    _size: int = 0
    _spilt: bool = False

    def add(self, pictures: Mapping[str, bytes]) -> None:
        """Take the pictures of the next image."""
        size = sum(map(len, pictures.values()))
        self.total += size
        self._waiting.append((dict(pictures), size))
        self._size += size
        if not self._spilt and self._size > self.inline_bytes:
            self._spill()
        elif self._spilt and self._size >= SIDECAR_BYTES:
            self._write()

    def _spill(self) -> None:
        """Keep the first screen in the page, and move the others out."""
        self._spilt = True
        waiting, self._waiting, self._size = self._waiting, [], 0
        kept = 0
        first = min(FIRST_BYTES, self.inline_bytes)
        for place, (pictures, size) in enumerate(waiting):
            if place == 0 or (kept + size <= first and not self._waiting and not self.files):
                kept += size
                self._keep(pictures)
            else:
                self._waiting.append((pictures, size))
                self._size += size
                if self._size >= SIDECAR_BYTES:
                    self._write()

    def _keep(self, pictures: Mapping[str, bytes]) -> None:
        self.inline.update({key: base64.b64encode(data).decode() for key, data in pictures.items()})
        self.places.append(0)

    def _write(self) -> None:
        number = len(self.files) + 1
        joined = {key: base64.b64encode(v).decode() for pictures, _ in self._waiting for key, v in pictures.items()}
        body = json.dumps(joined, separators=(",", ":"))
        name = f"data-{number:04d}-{hashlib.sha256(body.encode()).hexdigest()[:8]}.js"
        with whole_file(self.folder / name) as file:
            file.write(f'"use strict";salienceTake({number},{body});\n'.encode())
        self.files.append(name)
        self.places.extend([number] * len(self._waiting))
        self._waiting, self._size = [], 0

    def close(self) -> None:
        """Place what is left."""
        if self._spilt:
            if self._waiting:
                self._write()
        else:
            for pictures, _ in self._waiting:
                self._keep(pictures)
            self._waiting, self._size = [], 0
