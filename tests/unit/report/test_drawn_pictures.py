from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from salience.data.base import hash_content
from salience.data.preprocessing import Preprocessing
from salience.report.colour import table
from salience.report.gather import Picture
from salience.report.pictures import Missing, Photographs, draw_map, view_size

SEES = Preprocessing(size=(32, 32), fit="squash")


def pixels(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def photo(path: Path, value: int = 90) -> Picture:
    Image.fromarray(np.full((20, 20, 3), value, np.uint8)).save(path)
    return Picture(0, path.name, str(path), None, None, hash_content(path.read_bytes()))


def test_view_size_keeps_small_inputs_and_the_ratio_of_large_ones() -> None:
    assert view_size((32, 32)) == (32, 32)
    assert view_size((224, 224)) == (224, 224)
    assert view_size((448, 336)) == (224, 168)


@pytest.mark.parametrize(
    ("grid", "size", "shown"),
    [((32, 32), (32, 32), 32), ((7, 7), (224, 224), 224), ((384, 384), (384, 384), 224), ((24, 24), (384, 384), 224)],
)
def test_maps_are_shown_at_the_size_of_the_input(grid: tuple[int, int], size: tuple[int, int], shown: int) -> None:
    drawn = pixels(draw_map(np.random.default_rng(0).random(grid, dtype=np.float32), size, "sequential"))
    assert drawn.shape == (shown, shown, 3)


def test_small_maps_keep_their_colours_exactly() -> None:
    values = np.zeros((8, 8), dtype=np.float32)
    values[0, 0], values[7, 7] = -3, 3
    drawn = pixels(draw_map(values, (8, 8), "diverging"))
    colours = table("diverging")
    assert drawn[0, 0].tolist() == colours[0].tolist()
    assert drawn[7, 7].tolist() == colours[-1].tolist()
    assert drawn[3, 3].tolist() == colours[127].tolist()


@pytest.mark.parametrize("value", [0.0, np.nan])
def test_an_empty_map_is_all_zero(value: float) -> None:
    drawn = pixels(draw_map(np.full((8, 8), value, np.float32), (8, 8), "sequential"))
    assert (drawn == table("sequential")[0]).all()


def test_photo_is_what_the_model_sees(tmp_path: Path) -> None:
    picture = photo(tmp_path / "a.png")
    drawn = pixels(Photographs({}, [picture]).draw(picture, SEES))
    assert drawn.shape == (32, 32, 3)
    assert (drawn == 90).all()


def test_a_photo_that_is_gone_or_changed_is_said_to_be(tmp_path: Path) -> None:
    picture = photo(tmp_path / "a.png")
    photo(tmp_path / "a.png", value=20)
    with pytest.raises(Missing, match="changed since"):
        Photographs({}, [picture]).draw(picture, SEES)
    (tmp_path / "a.png").unlink()
    with pytest.raises(Missing, match="no longer where it was"):
        Photographs({}, [picture]).draw(picture, SEES)


def test_a_broken_photo_is_named_without_its_path(tmp_path: Path) -> None:
    (tmp_path / "b.png").write_bytes(b"not a picture")
    picture = Picture(0, "b.png", str(tmp_path / "b.png"), None, None, None)
    with pytest.raises(Missing, match=r"b\.png: the file is not an image") as caught:
        Photographs({}, [picture]).draw(picture, SEES)
    assert str(tmp_path) not in str(caught.value)


def test_images_of_an_npz_file_are_found_again(tmp_path: Path) -> None:
    images = np.full((2, 32, 32, 3), 7, np.uint8)
    images[1] = 200
    np.savez(tmp_path / "set.npz", images=images)
    picture = Picture(1, "000001", None, None, None, hash_content(images[1]))
    drawn = pixels(Photographs({"source": str(tmp_path / "set.npz")}, [picture]).draw(picture, SEES))
    assert (drawn == 200).all()


def test_images_given_in_memory_are_said_to_be_gone(tmp_path: Path) -> None:
    picture = Picture(0, "000000", None, None, None, None)
    with pytest.raises(Missing, match="in memory"):
        Photographs({"source": "uint8 array (2, 32, 32, 3)"}, [picture]).draw(picture, SEES)


def test_an_archive_that_cannot_be_opened_is_no_crash(tmp_path: Path) -> None:
    (tmp_path / "set.npz").write_bytes(b"nothing")
    picture = Picture(0, "000000", None, None, None, None)
    with pytest.raises(Missing, match="cannot be opened again"):
        Photographs({"source": str(tmp_path / "set.npz")}, [picture]).draw(picture, SEES)
