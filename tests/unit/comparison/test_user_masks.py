"""Masks of the user: how they are found, what they mean, and what is wrong with them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from salience.comparison.segments import parse_partition
from salience.comparison.user_masks import UserMasks
from salience.errors import ImagesError, SettingsError

PIXELS = np.zeros((20, 30, 3), dtype=np.uint8)


def save(path: Path, values: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)
    return path


def halves(shape: tuple[int, int] = (20, 30)) -> np.ndarray:
    """0 above, 3 below left, 7 below right."""
    values = np.zeros(shape, dtype=np.uint8)
    values[shape[0] // 2 :, : shape[1] // 2] = 3
    values[shape[0] // 2 :, shape[1] // 2 :] = 7
    return values


def called(masks: UserMasks, image_id: str) -> np.ndarray:
    """The name of every pixel's segment."""
    labels = masks.label_map(PIXELS, image_id)
    names = masks.names(image_id)
    np.testing.assert_array_equal(np.unique(labels), np.arange(len(names)))
    assert labels.dtype == np.int32
    return np.array(names, dtype=object)[labels]


def words(values: np.ndarray, names: dict[int, str]) -> np.ndarray:
    return np.vectorize(lambda v: names.get(int(v), "rest"), otypes=[object])(values)


# ---------------------------------------------------------------------- pictures of labels


def test_values_are_segments(tmp_path: Path) -> None:
    save(tmp_path / "wren.png", halves())
    masks = parse_partition(f"masks:{tmp_path}")
    assert isinstance(masks, UserMasks)
    assert masks.names("wren.jpg") == ("3", "7", "rest")
    np.testing.assert_array_equal(called(masks, "wren.jpg"), words(halves(), {3: "3", 7: "7"}))


def test_names_of_values(tmp_path: Path) -> None:
    save(tmp_path / "wren.png", halves())
    (tmp_path / "names.csv").write_text("value,name\n0,sky\n3,bird\n9,tree\n", encoding="utf-8-sig")
    masks = UserMasks(tmp_path)
    assert masks.names("wren.jpg") == ("sky", "bird", "rest")
    np.testing.assert_array_equal(called(masks, "wren.jpg"), words(halves(), {0: "sky", 3: "bird"}))


def test_values_of_one_name_are_one_segment(tmp_path: Path) -> None:
    save(tmp_path / "wren.png", halves())
    (tmp_path / "names.csv").write_text("value,name\n3,ground\n7,ground\n")
    assert UserMasks(tmp_path).names("wren.jpg") == ("ground", "rest")
    called(UserMasks(tmp_path), "wren.jpg")


def test_palettes_and_sixteen_bits_keep_their_numbers(tmp_path: Path) -> None:
    picture = Image.fromarray(halves()).convert("P")
    picture.putdata(halves().ravel().tolist())
    picture.putpalette([255, 0, 0] * 256)
    picture.save(tmp_path / "a.png")
    save(tmp_path / "b.png", halves().astype(np.uint16) * 1000)
    assert UserMasks(tmp_path).names("a") == ("3", "7", "rest")
    assert UserMasks(tmp_path).names("b") == ("3000", "7000", "rest")


def test_without_rest(tmp_path: Path) -> None:
    save(tmp_path / "wren.png", halves() + 1)
    assert UserMasks(tmp_path).names("wren.jpg") == ("1", "4", "8")


# ---------------------------------------------------------------------- folders of masks


def test_named_masks(tmp_path: Path) -> None:
    save(tmp_path / "wren" / "tail.png", (halves() == 7).astype(np.uint8))  # 1 is inside as 255 is
    save(tmp_path / "wren" / "head.png", (halves() == 3).astype(np.uint8) * 255)
    save(tmp_path / "wren" / "other.png", np.zeros((20, 30), dtype=np.uint8))  # it is not in the picture
    masks = UserMasks(tmp_path)
    assert masks.names("wren.jpg") == ("head", "tail", "rest")
    np.testing.assert_array_equal(called(masks, "wren.jpg"), words(halves(), {3: "head", 7: "tail"}))


def test_a_mask_of_the_rest_is_the_rest(tmp_path: Path) -> None:
    save(tmp_path / "wren" / "rest.png", halves() == 3)
    save(tmp_path / "wren" / "tail.png", halves() == 7)
    np.testing.assert_array_equal(called(UserMasks(tmp_path), "wren.jpg"), words(halves(), {7: "tail"}))


def test_overlaps_name_both_files(tmp_path: Path) -> None:
    save(tmp_path / "wren" / "head.png", halves() == 3)
    wide = halves() == 7
    wide[15, 10:15] = True
    save(tmp_path / "wren" / "tail.png", wide)
    with pytest.raises(ImagesError, match=r"wren.tail\.png overlaps head\.png in 5 pixels"):
        UserMasks(tmp_path).label_map(PIXELS, "wren.jpg")


def test_masks_of_different_sizes_name_both_files(tmp_path: Path) -> None:
    save(tmp_path / "wren" / "head.png", np.ones((20, 30), dtype=np.uint8))
    save(tmp_path / "wren" / "tail.png", np.ones((20, 31), dtype=np.uint8))
    with pytest.raises(ImagesError, match=r"tail\.png is 31x20 pixels .*head\.png beside it 30x20"):
        UserMasks(tmp_path).label_map(PIXELS, "wren.jpg")


# ---------------------------------------------------------------------- sizes


@pytest.mark.parametrize("factor", [2, 3])
def test_larger_masks_are_resized_to_the_nearest_pixel(tmp_path: Path, factor: int) -> None:
    large = np.repeat(np.repeat(halves(), factor, 0), factor, 1)
    save(tmp_path / "wren.png", large)
    np.testing.assert_array_equal(called(UserMasks(tmp_path), "wren.jpg"), words(halves(), {3: "3", 7: "7"}))


def test_smaller_masks_are_resized_to_the_nearest_pixel(tmp_path: Path) -> None:
    save(tmp_path / "wren.png", halves((4, 6)))
    np.testing.assert_array_equal(called(UserMasks(tmp_path), "wren.jpg"), words(halves(), {3: "3", 7: "7"}))


def test_small_masks_are_never_lost(tmp_path: Path) -> None:
    large = np.ones((200, 300), dtype=np.uint8)
    large[101, 51] = 2  # between the pixels that are taken
    save(tmp_path / "wren.png", large)
    found = called(UserMasks(tmp_path), "wren.jpg")
    assert np.argwhere(found == "2").tolist() == [[10, 5]]


def test_more_segments_than_pixels_are_refused(tmp_path: Path) -> None:
    save(tmp_path / "wren.png", np.arange(1, 1201, dtype=np.uint16).reshape(30, 40))
    with pytest.raises(ImagesError, match=r"wren\.png has 1200 segments.*20x30"):
        UserMasks(tmp_path).label_map(PIXELS, "wren.jpg")


# ---------------------------------------------------------------------- places


def test_folders_of_classes_are_mirrored(tmp_path: Path) -> None:
    save(tmp_path / "birds" / "1.png", halves())
    save(tmp_path / "cats" / "1.png", np.full((20, 30), 5, dtype=np.uint8))
    masks = UserMasks(tmp_path)
    assert masks.names("birds/1.jpg") == ("3", "7", "rest")
    assert masks.names("cats/1.JPEG") == ("5",)
    masks.check(["birds/1.jpg", "cats/1.JPEG"])
    with pytest.raises(ImagesError, match=r"Image birds/2\.jpg has no masks.*birds.2\.png"):
        masks.label_map(PIXELS, "birds/2.jpg")


def test_flat_masks_serve_images_in_folders(tmp_path: Path) -> None:
    save(tmp_path / "wren.png", halves())
    masks = UserMasks(tmp_path)
    for image_id in ("wren", "wren.png", "images/wren.jpg", "/data/images/wren.tiff", "../images/wren.webp"):
        assert masks.names(image_id) == ("3", "7", "rest")


def test_dots_in_names_are_no_suffixes(tmp_path: Path) -> None:
    save(tmp_path / "scan.0012.png", halves())
    for image_id in ("scan.0012", "scan.0012.jpg"):
        assert len(UserMasks(tmp_path).names(image_id)) == 3


def test_one_mask_for_two_images_is_found_at_once(tmp_path: Path) -> None:
    save(tmp_path / "1.png", halves())
    with pytest.raises(ImagesError, match=r"birds/1\.jpg and cats/1\.jpg would both get .*1\.png"):
        UserMasks(tmp_path).check(["birds/1.jpg", "cats/1.jpg"])


def test_no_masks_at_all_are_found_at_once(tmp_path: Path) -> None:
    save(tmp_path / "wren.png", halves())
    UserMasks(tmp_path).check(["wren.jpg", "tit.jpg"])  # some images are without: each is told of by itself
    with pytest.raises(ImagesError, match=r"None of 2 images has masks.*owl\.png"):
        UserMasks(tmp_path).check(["owl.jpg", "tit.jpg"])


# ---------------------------------------------------------------------- files


def test_broken_files_are_errors_of_their_image(tmp_path: Path) -> None:
    (tmp_path / "wren.png").write_bytes(b"no picture")
    save(tmp_path / "tit.png", np.zeros((20, 30, 3), dtype=np.uint8))
    (tmp_path / "owl").mkdir()
    masks = UserMasks(tmp_path)
    for image_id, message in (("wren", "cannot be read as a mask"), ("tit", "in colours"), ("owl", "has no PNG files")):
        with pytest.raises(ImagesError, match=message):
            masks.label_map(PIXELS, image_id)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "header 'value,name'"),
        ("value;name\n1;a\n", "header"),
        ("value,name\n1\n", "row 2"),
        ("value,name\n1,a\nx,b\n", "row 3"),
        ("value,name\n1,\n", "row 2"),
        ("value,name\n1,a\n1,b\n", "row 3: pixel value 1 has a name already"),
    ],
)
def test_broken_names_are_found_at_once(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "names.csv").write_text(text)
    with pytest.raises(SettingsError, match=message):
        parse_partition(f"masks:{tmp_path}")


def test_identity_is_that_of_the_masks(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    for folder in (first, second):
        save(folder / "wren.png", halves())
    assert UserMasks(first).identity == UserMasks(second).identity
    before = UserMasks(first).identity
    save(first / "wren.png", halves().T)
    after = UserMasks(first).identity
    (first / "names.csv").write_text("value,name\n1,a\n")
    assert len({str(i) for i in (before, after, UserMasks(first).identity)}) == 3
