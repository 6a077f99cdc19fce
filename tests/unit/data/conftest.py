from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from pictures import make_pixels
from PIL import Image


@pytest.fixture
def write_image() -> Callable[..., Path]:
    def write(path: Path, seed: int = 0, size: tuple[int, int] = (12, 16)) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(make_pixels(*size, seed)).save(path)
        return path

    return write


@pytest.fixture
def class_folder(tmp_path: Path, write_image: Callable[..., Path]) -> Path:
    """Three classes, one with nested folders, with what a real folder also holds."""
    root = tmp_path / "photos"
    for seed, name in enumerate(
        ["cat/a.jpg", "cat/b.PNG", "cat/deep/er/c.jpg", "dog/a.jpg", "dog/b.jpg", "owl/a.webp", "owl/b.jpg"]
    ):
        write_image(root / name, seed)
    (root / "cat" / "notes.txt").write_text("not an image")
    write_image(root / "cat" / ".hidden.jpg")
    write_image(root / ".cache" / "a.jpg")
    (root / "empty").mkdir()
    return root
