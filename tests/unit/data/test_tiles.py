"""Two images in one, and what they are for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from salience.data.decode import load
from salience.data.preprocessing import Preprocessing
from salience.data.source import open_images
from salience.data.tiles import is_across, tile_images
from salience.errors import ImagesError
from salience.evaluating import evaluate
from salience.explaining import RunSettings
from salience.models.classifier import Classifier
from salience.store.maps import Maps

LEVELS = (40, 90, 150, 220)


def source(labels: list[int] | None = None):
    images = np.stack([np.full((12, 12, 3), level, dtype=np.uint8) for level in LEVELS])
    return open_images(images, labels=labels)


def test_halves_are_the_two_images() -> None:
    tiles = tile_images(source([0, 0, 1, 1]), Preprocessing((8, 10), crop=0.8))
    assert len(tiles) == 4
    shapes = set()
    for ref in tiles.refs:
        first, second = (LEVELS[part.index] / 255 for part in tiles.pairs[ref.index])
        pixels = load(tiles, ref, Preprocessing((8, 10), crop=0.8)).pixels
        assert pixels.shape == (8, 10, 3)
        halves = (pixels[:, :5], pixels[:, 5:]) if is_across(ref.image_id) else (pixels[:4], pixels[4:])
        shapes.add(is_across(ref.image_id))
        assert np.allclose(halves[0], first, atol=1 / 255)
        assert np.allclose(halves[1], second, atol=1 / 255)
    assert shapes  # side by side, one above the other, or both


def test_partners_have_another_label_and_do_not_depend_on_the_order() -> None:
    tiles = tile_images(source([0, 0, 1, 1]), Preprocessing((8, 8)), seed=3)
    for a, b in tiles.pairs:
        assert a.label != b.label
    assert [ref.label for ref in tiles.refs] == [0, 0, 1, 1]
    unlabelled = tile_images(source(), Preprocessing((8, 8)), seed=3)
    assert all(a.index != b.index for a, b in unlabelled.pairs)
    assert [r.image_id for r in tile_images(source(), Preprocessing((8, 8)), seed=3).refs] == [
        r.image_id for r in unlabelled.refs
    ]


def test_a_tile_changes_with_either_image(tmp_path: Path) -> None:
    for i, level in enumerate(LEVELS[:2]):
        Image.new("RGB", (12, 12), (level,) * 3).save(tmp_path / f"{i}.png")
    tiles = tile_images(open_images(tmp_path), Preprocessing((8, 8)))
    before = [tiles.stamp(r) for r in tiles.refs], [tiles.content_hash(r) for r in tiles.refs]
    Image.new("RGB", (20, 20), (7, 7, 7)).save(tmp_path / "1.png")
    after = [tiles.stamp(r) for r in tiles.refs], [tiles.content_hash(r) for r in tiles.refs]
    assert all(a != b for a, b in zip(before[0], after[0], strict=True))
    assert all(a != b for a, b in zip(before[1], after[1], strict=True))


def test_one_image_makes_no_tile() -> None:
    with pytest.raises(ImagesError, match="made of two images"):
        tile_images(open_images(np.zeros((1, 8, 8, 3), dtype=np.uint8)), Preprocessing((8, 8)))


class Colours(nn.Module):
    """Red, green or blue: the share of the image that is so."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 10 * x.mean((2, 3))


def colour_maps(image_ids: list[str], images: np.ndarray) -> Maps:
    """Every label's map shows the pixels of its colour: the truth."""
    values = np.moveaxis(images, -1, 1).reshape(-1, *images.shape[1:3]).astype(np.float32)
    ids = tuple(i for i in image_ids for _ in range(3))
    none = np.zeros(len(ids), np.float32)
    targets = np.tile(np.arange(3), len(image_ids))
    return Maps(values, ids, targets, none[:, None], none, targets, "colours", "truth", False, images.shape[1:3])


def test_the_class_agnostic_cheat_loses_completeness_on_tiles() -> None:
    """With one right label it costs nothing to hand its map to all; on tiles a second label is right."""
    classifier = Classifier(Colours(), size=12, name="colours", capabilities=frozenset({"gradients"}))
    plain = np.zeros((6, 12, 12, 3), dtype=np.uint8)
    for i in range(6):
        plain[i, ..., i % 3] = 255
    single = open_images(plain, labels=[i % 3 for i in range(6)])
    found = {}
    for name, data in (("single", single), ("tiles", tile_images(single, classifier.preprocessing))):
        images = np.stack([load(data, r, classifier.preprocessing).pixels for r in data.refs])
        maps = colour_maps([r.image_id for r in data.refs], images)
        scores = evaluate(
            classifier,
            data,
            maps=maps,
            metrics=["complete-sound:points=12"],
            background="black",
            labels="all",
            settings=RunSettings(batch=16, memory_format="contiguous", threads=1),
        )
        found[name] = {r["method"]: r["mean"] for r in scores.ranking("worst-completeness:points=12")}
    cheat = "class-agnostic:truth"
    assert found["single"][cheat] >= found["single"]["truth"] - 1e-9
    assert found["tiles"][cheat] < found["tiles"]["truth"] - 0.1
