"""Cards of models behind a URL, for several tests."""

from __future__ import annotations

from pathlib import Path

CARD = 'size = 12\nmean = [0.4, 0.4, 0.4]\nstd = [0.2, 0.2, 0.2]\nclasses = ["a", "b", "c", "d", "e"]\n'


def write_card(folder: Path, more: str = "", *, text: str = CARD, name: str = "preprocessing.toml") -> Path:
    path = folder / name
    path.write_text(text + more)
    return path
