from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from salience.data.preprocessing import Preprocessing
from salience.data.source import open_images
from salience.errors import ImagesError
from salience.training.human import centre_map, draw_boxes, human_maps, other_rows
from salience.training.samples import Decoded, choose_samples, decode_once

SEEN = Preprocessing(size=(16, 16))


@pytest.fixture
def faces(tmp_path: Path) -> Path:
    """Six images of 24 x 16 in two classes, of which the model sees the middle square."""
    for c in ("fake", "real"):
        (tmp_path / "faces" / c).mkdir(parents=True)
        for i in range(3):
            Image.effect_noise((24, 16), 80).save(tmp_path / "faces" / c / f"{i}.png")
    return tmp_path / "faces"


def decoded(folder: Path) -> Decoded:
    samples, _ = choose_samples(open_images(folder), None)
    return decode_once(samples, SEEN, folder.parent / "state")


def write_map(path: Path, left: int = 0, right: int = 255, size: tuple[int, int] = (24, 16)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.full(size[::-1], left, np.uint8)
    pixels[:, size[0] // 2 :] = right
    Image.fromarray(pixels).save(path)


def maps_of(
    faces: Path, human: str | Path, rows: tuple[int, ...] = (0, 1, 2, 3, 4, 5)
) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    found = human_maps(str(human), decoded(faces), np.array(rows), SEEN, faces.parent / "state")
    return np.asarray(found)


def test_a_map_goes_the_way_of_its_image(faces: Path) -> None:
    for c in ("fake", "real"):
        for i in range(3):
            write_map(faces.parent / "maps" / c / f"{i}.jpg")
    found = maps_of(faces, faces.parent / "maps")
    assert found.shape == (6, 16, 16)
    assert found.dtype == np.uint8
    assert (found[:, :, :6] < 30).all()  # 24 x 16: the middle square is seen, its left half is dark
    assert (found[:, :, 10:] > 225).all()


def test_maps_are_found_by_the_whole_name(faces: Path) -> None:
    for c in ("fake", "real"):
        for i in range(3):
            write_map(faces.parent / "maps" / c / f"{i}.png", *((0, 255) if c == "fake" else (255, 0)))
    found = maps_of(faces, faces.parent / "maps", (4, 1))
    assert found[0, 0, 0] > 225  # a real one
    assert found[1, 0, 0] < 30


def test_the_name_alone_does_where_it_is_one_image(faces: Path) -> None:
    for c in ("fake", "real"):
        for i in range(3):
            (faces / c / f"{i}.png").rename(faces / c / f"{c}{i}.png")
            write_map(faces.parent / "maps" / f"{c}{i}.png")
    assert len(maps_of(faces, faces.parent / "maps")) == 6


def test_a_name_of_two_images_is_nobodys(faces: Path) -> None:
    for i in range(3):
        write_map(faces.parent / "maps" / f"{i}.png")
    with pytest.raises(ImagesError, match=r"6 of 6 images to train with have no human map .*fake/0.png, fake/1.png"):
        maps_of(faces, faces.parent / "maps")


def test_only_images_to_train_with_need_maps(faces: Path) -> None:
    write_map(faces.parent / "maps" / "fake" / "1.png")
    assert len(maps_of(faces, faces.parent / "maps", (1,))) == 1
    with pytest.raises(ImagesError, match="1 of 2 images"):
        maps_of(faces, faces.parent / "maps", (1, 2))


def test_a_map_of_another_shape_is_refused(faces: Path) -> None:
    for c in ("fake", "real"):
        for i in range(3):
            write_map(faces.parent / "maps" / c / f"{i}.png", size=(16, 16) if (c, i) == ("real", 1) else (48, 32))
    assert len(maps_of(faces, faces.parent / "maps", (0, 1))) == 2  # another size is fine
    with pytest.raises(ImagesError, match="16x16 pixels, and its image 24x16"):
        maps_of(faces, faces.parent / "maps")


def test_a_map_without_contrast_is_refused(faces: Path) -> None:
    write_map(faces.parent / "maps" / "fake" / "1.png", 90, 90)
    with pytest.raises(ImagesError, match=r"1 of 1 human maps are the same everywhere .*fake/1.png"):
        maps_of(faces, faces.parent / "maps", (1,))


def test_a_folder_that_is_not_there_is_named(faces: Path) -> None:
    (faces.parent / "maps").mkdir()
    with pytest.raises(ImagesError, match="Did you mean 'maps'"):
        maps_of(faces, faces.parent / "map")


def test_boxes_come_from_the_manifest(faces: Path) -> None:
    rows = [
        f'{c}/{i}.png,{c},"[[4, 0, 12, 8]]"' for c in ("fake", "real") for i in range(3)
    ]  # the left upper quarter of what is seen
    (faces / "labels.csv").write_text("\n".join(["file,label,boxes", *rows]))
    found = maps_of(faces, "boxes")
    assert (found[:, :8, :8] == 255).all()
    assert found.sum() == 6 * 64 * 255


def test_images_without_boxes_are_named(faces: Path) -> None:
    with pytest.raises(ImagesError, match="needs a box for each image, and 6 of 6 have none"):
        maps_of(faces, "boxes")


def test_boxes_are_drawn_to_the_share_of_a_pixel() -> None:
    drawn = draw_boxes([(1.5, 0.0, 3.0, 1.25)], 3, 4)
    assert drawn.tolist() == [[0, 128, 255, 0], [0, 32, 64, 0], [0, 0, 0, 0]]
    assert (draw_boxes([(0, 0, 2, 2), (1, 1, 3, 3)], 3, 3) > 0).sum() == 7  # a union


def test_the_bell_is_in_the_middle() -> None:
    bell = centre_map(9, 15)
    assert bell.shape == (9, 15)
    assert bell[4, 7] == bell.max() == 255
    assert (bell == bell[::-1]).all()
    assert (bell == bell[:, ::-1]).all()


@pytest.mark.parametrize("count", [2, 3, 50])
def test_shuffled_maps_are_all_used_once_and_never_by_their_own_image(count: int) -> None:
    for run in range(1, 6):
        other = other_rows(count, 0, run)
        assert sorted(other) == list(range(count))
        assert (other != np.arange(count)).all()
    if count == 50:
        assert (other_rows(50, 0, 1) != other_rows(50, 0, 2)).any()
        assert (other_rows(50, 0, 1) == other_rows(50, 0, 1)).all()
