from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from training_nets import write_backbone, write_images

from salience.data.source import open_images
from salience.errors import ModelError
from salience.models import load_model
from salience.training.inputs import Pixels, keep_stem, move
from salience.training.parts import choose_part, cut_at
from salience.training.samples import choose_samples, decode_once


def pictures(n: int = 64, size: int = 16) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    drawn = torch.Generator().manual_seed(0)
    images = torch.rand(n, 3, size, size, generator=drawn)
    return images, images[:, 0].clone(), torch.rand(n, 3, generator=drawn)


def test_nothing_moves_unless_asked() -> None:
    images, human, draws = pictures()
    moved, maps = move(images, human, draws, ())
    assert moved is images
    assert maps is human


@pytest.mark.parametrize("names", [("flip",), ("shift",), ("flip", "shift")])
def test_maps_move_with_their_images(names: tuple[str, ...]) -> None:
    images, human, draws = pictures()
    moved, maps = move(images, human, draws, names)
    assert maps is not None
    assert torch.equal(moved[:, 0], maps)
    assert torch.equal(move(images, None, draws, names)[0], moved)


def test_a_flip_is_a_flip_one_time_in_two() -> None:
    images, _, draws = pictures()
    moved, _ = move(images, None, draws, ("flip",))
    flipped = draws[:, 0] < 0.5
    assert 20 < int(flipped.sum()) < 44
    assert torch.equal(moved[flipped], images[flipped].flip(3))
    assert torch.equal(moved[~flipped], images[~flipped])


def test_a_shift_goes_up_to_an_eighth_and_repeats_the_edge() -> None:
    images, _, draws = pictures(400)
    moved, _ = move(images, None, draws, ("shift",))
    seen = set()
    for image, was in zip(moved, images, strict=True):
        found = [
            (y, x)
            for y in range(-2, 3)
            for x in range(-2, 3)
            if torch.equal(image[:, 4:-4, 4:-4], was[:, 4 - y : 12 - y, 4 - x : 12 - x])
        ]
        assert len(found) == 1
        seen.add(found[0])
        y, x = found[0]
        if y > 0:
            assert torch.equal(image[:, :y], image[:, y : y + 1].expand(-1, y, -1))
        if x < 0:
            assert torch.equal(image[:, :, x:], image[:, :, x - 1 : x].expand(-1, -1, -x))
    assert len(seen) == 25


def test_an_image_moves_the_same_in_any_company() -> None:
    images, human, draws = pictures(8)
    moved, _ = move(images, human, draws, ("flip", "shift"))
    alone, _ = move(images[5:6], human[5:6], draws[5:6], ("flip", "shift"))
    assert torch.equal(alone[0], moved[5])


def test_the_stem_is_computed_once_for_every_image(tmp_path: Path) -> None:
    model = load_model(write_backbone(tmp_path / "net"), device="cpu")
    samples, _ = choose_samples(open_images(write_images(tmp_path / "i", 40)), None)
    decoded = decode_once(samples, model.preprocessing, tmp_path / "state")
    part = choose_part(model, "last", "fc")
    cut = cut_at(model, part, "fc", None)
    assert cut is not None
    told: list[int] = []
    kept = keep_stem(model, cut, part, decoded, tmp_path / "state", "f", told.append)
    assert told == [64, 80]
    rows = np.array([70, 2, 33])
    with torch.no_grad():
        wanted = model.logits(Pixels(decoded, model).batch(rows))
        assert torch.allclose(cut.tail(kept.batch(rows)), wanted, atol=1e-5)
    again = keep_stem(model, cut, part, decoded, tmp_path / "state", "f", told.append)
    assert told == [64, 80]
    assert torch.equal(again.batch(rows), kept.batch(rows))
    keep_stem(model, cut, part, decoded, tmp_path / "state", "another backbone", told.append)
    assert told == [64, 80] * 2


def test_a_stem_that_gives_no_numbers_is_refused(tmp_path: Path) -> None:
    model = load_model(write_backbone(tmp_path / "net"), device="cpu")
    samples, _ = choose_samples(open_images(write_images(tmp_path / "i", 3)), None)
    decoded = decode_once(samples, model.preprocessing, tmp_path / "state")
    part = choose_part(model, "last", "fc")
    cut = cut_at(model, part, "fc", None)
    assert cut is not None
    with torch.no_grad():
        model.module.get_parameter("stem.0.weight")[0, 0, 0, 0] = float("nan")
    with pytest.raises(ModelError, match="not finite"):
        keep_stem(model, cut, part, decoded, tmp_path / "state", "f")
