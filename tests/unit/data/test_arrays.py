from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pictures import make_pixels
from PIL import Image

from salience.data.decode import load
from salience.data.preprocessing import Preprocessing
from salience.data.source import ImageSource, open_images
from salience.errors import ImagesError

SMALL = Preprocessing((8, 8))


class FakeTensor:
    """What this room knows about tensors: three methods."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array
        self.shape = array.shape
        self.dtype = array.dtype

    def detach(self) -> FakeTensor:
        return self

    def cpu(self) -> FakeTensor:
        return self

    def numpy(self) -> np.ndarray:
        return self.array


def pixels_of(source: ImageSource, preprocessing: Preprocessing = SMALL) -> np.ndarray:
    return np.stack([load(source, ref, preprocessing).pixels for ref in source.refs])


def batch(count: int = 3, height: int = 8, width: int = 8) -> np.ndarray:
    return np.stack([make_pixels(height, width, seed) for seed in range(count)])


def test_uint8_array() -> None:
    images = batch()
    source = open_images(images, labels=[2, None, np.int64(1)])
    assert (source.kind, source.location, source.note) == ("array", "uint8 array (3, 8, 8, 3)", "")
    assert [r.image_id for r in source.refs] == ["000000", "000001", "000002"]
    assert [r.label for r in source.refs] == [2, None, 1]
    assert np.array_equal(pixels_of(source), images)
    assert source.stamp(source.refs[0]) == (8 * 8 * 3, 0)
    assert [r.image_id for r in open_images(images, limit=2).refs] == ["000000", "000001"]


def test_hash_depends_on_pixels_shape_and_type_only() -> None:
    flat = np.arange(48, dtype=np.uint8)
    a, b = (open_images(flat.reshape(shape)) for shape in ((1, 4, 4, 3), (1, 2, 8, 3)))
    assert a.content_hash(a.refs[0]) != b.content_hash(b.refs[0])
    images = batch()
    whole, turned = open_images(images), open_images(images[::-1])
    assert whole.content_hash(whole.refs[0]) == turned.content_hash(turned.refs[2])
    assert whole.content_hash(whole.refs[0]) == open_images([images[0]]).content_hash(whole.refs[0])
    assert whole.content_hash(whole.refs[0]) != whole.content_hash(whole.refs[1])


def test_uint8_is_resized_like_files() -> None:
    source = open_images(batch(2, 20, 30))
    loaded = load(source, source.refs[0], SMALL)
    assert (loaded.pixels.shape, loaded.width, loaded.height) == ((8, 8, 3), 30, 20)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("wrap", [np.asarray, FakeTensor])
def test_floats_are_taken_as_they_are(dtype: type, wrap: Any) -> None:
    images = (batch() / 255).astype(dtype)
    source = open_images(wrap(np.moveaxis(images, -1, 1)))
    assert source.note == ""
    pixels = pixels_of(source)
    assert pixels.dtype == np.float32
    assert np.array_equal(pixels, images.astype(np.float32))
    assert source.content_hash(source.refs[0]) == load(source, source.refs[0], SMALL).content_hash


def test_real_tensor() -> None:
    torch = pytest.importorskip("torch")
    images = torch.rand(2, 3, 8, 8, requires_grad=True)
    assert np.array_equal(pixels_of(open_images(images)), images.detach().permute(0, 2, 3, 1).numpy())
    with pytest.raises(ImagesError, match="bfloat16"):
        open_images(images.bfloat16())


def test_floats_of_another_size_are_refused_with_a_cure() -> None:
    for images in (np.zeros((2, 3, 9, 8), np.float32), [np.zeros((3, 9, 8), np.float32)]):
        source = open_images(images)
        for call in (lambda s=source: s.check(SMALL), lambda s=source: load(s, s.refs[0], SMALL)):
            with pytest.raises(ImagesError, match=r"must be 8x8 \(height x width\).* not 9x8. Give uint8"):
                call()
        source.check(Preprocessing((9, 8)))
    open_images(batch(1, 20, 30)).check(SMALL)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.nan, r"000001 holds values that are not numbers"),
        (np.inf, r"000001 has float values"),
        (-0.1, r"000001 has float values from -0\.1 to 0: .*before normalisation"),
        (255.0, r"000001 has float values from 0 to 255: .*divide by 255"),
    ],
)
def test_bad_floats_name_the_first_bad_image(value: float, message: str) -> None:
    images = np.zeros((3, 3, 8, 8), np.float32)
    images[1:, 0, 0, 0] = value
    with pytest.raises(ImagesError, match=message):
        open_images(images)
    with pytest.raises(ImagesError, match=message):
        open_images(list(images))


def test_other_layouts_are_recognised_and_told() -> None:
    images = batch(2, 9, 8)
    first = open_images(np.moveaxis(images, -1, 1))
    assert "channels first" in first.note
    assert np.array_equal(pixels_of(first, Preprocessing((9, 8))), images)
    last = open_images((images / 255).astype(np.float32))
    assert "channels last" in last.note
    for grey in (images[..., 0], images[..., :1], images[:, None, :, :, 0]):
        source = open_images(grey)
        assert "grey" in source.note
        assert np.array_equal(pixels_of(source, Preprocessing((9, 8))), np.repeat(images[..., :1], 3, axis=-1))


def test_where_both_layouts_fit_the_documented_one_is_meant() -> None:
    images = batch(2, 3, 5)  # (2, 3, 5, 3)
    assert np.array_equal(pixels_of(open_images(images), Preprocessing((3, 5))), images)
    floats = np.moveaxis((batch(2, 5, 3) / 255).astype(np.float32), -1, 1)  # (2, 3, 5, 3) too
    assert np.array_equal(pixels_of(open_images(floats), Preprocessing((5, 3))), np.moveaxis(floats, 1, -1))


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((2, 8, 8, 5), np.uint8), "no side of which can be 3 colour channels"),
        (np.zeros((8, 8, 3), np.uint8), r"may be one image or several grey ones"),
        (np.zeros((8, 8), np.uint8), "give uint8"),
        (np.zeros((2, 8, 8, 3), np.int64), "type int64"),
        (np.zeros((2, 8, 8, 3), np.uint16), "type uint16"),
        (np.zeros((2, 8, 8, 3), bool), "type bool"),
        (np.zeros((0, 8, 8, 3), np.uint8), "is empty"),
        (np.zeros((2, 0, 8, 3), np.uint8), "no pixels"),
        ([np.zeros((8, 8, 3), np.uint8), np.zeros((2, 8, 8, 3), np.uint8)], "Image 000001 has the shape"),
        ([Image.new("RGB", (8, 8)), "a.jpg"], "mixes"),
        ([Image.new("RGB", (8, 8)), 7], "Image 000001 is int"),
    ],
)
def test_what_is_no_image_is_refused(images: Any, message: str) -> None:
    with pytest.raises(ImagesError, match=message):
        open_images(images)


def test_list_of_arrays_and_pil_images_of_any_size() -> None:
    items = [make_pixels(8, 8), Image.fromarray(make_pixels(20, 9)), FakeTensor(make_pixels(8, 8)[..., 0])]
    source = open_images(items, labels=["a", "b", None])
    assert (source.kind, source.location) == ("array", "list of 3 images")
    assert source.label_names == ("a", "b")
    pixels = pixels_of(source)
    assert pixels.shape == (3, 8, 8, 3)
    assert np.array_equal(pixels[0], make_pixels(8, 8))
    assert source.stamp(source.refs[1]) == (20 * 9 * 3, 0)
    assert open_images(Image.new("RGB", (4, 4))).refs[0].image_id == "000000"


def test_broken_pil_image_fails_when_it_is_read(tmp_path: Path) -> None:
    Image.fromarray(make_pixels(40, 40)).save(tmp_path / "a.png")
    (tmp_path / "a.png").write_bytes((tmp_path / "a.png").read_bytes()[:500])
    source = open_images([Image.open(tmp_path / "a.png")])
    with pytest.raises(ImagesError, match="image 000000: the image is broken"):
        source.read(source.refs[0])


def test_npz(tmp_path: Path) -> None:
    path = tmp_path / "images.npz"
    np.savez(path, images=batch(), labels=np.array([1, 0, 1], np.uint8), classes=np.array(["cat", "dog"]))
    source = open_images(path, limit=2)
    assert (source.kind, source.location) == ("npz", str(path))
    assert [(r.image_id, r.label) for r in source.refs] == [("000000", 1), ("000001", 0)]
    assert source.titles == {0: "cat", 1: "dog"}
    assert source.stamp(source.refs[0]) == (8 * 8 * 3, path.stat().st_mtime_ns)
    assert np.array_equal(pixels_of(source), batch()[:2])


def test_npz_is_never_unpickled(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", images=np.array([{"a": 1}], dtype=object))
    with pytest.raises(ImagesError, match=r"cannot be read as an \.npz file of plain arrays"):
        open_images(tmp_path / "a.npz")


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"image": np.zeros((1, 8, 8, 3), np.uint8)}, r"no array 'images'. It holds 'image'. Did you mean 'image'"),
        ({"images": np.zeros((1, 8, 8, 5), np.uint8)}, r"'images' of .*a\.npz has the shape"),
        ({"images": np.zeros((2, 8, 8, 3), np.uint8), "labels": np.zeros(3, int)}, "3 labels for 2 images"),
        ({"images": np.zeros((2, 8, 8, 3), np.uint8), "labels": np.zeros((2, 2))}, "one value for each"),
        ({"images": np.zeros((2, 8, 8, 3), np.uint8), "labels": np.array([0.5, 1])}, r"labels\[0\] of .* is 0\.5"),
    ],
)
def test_bad_npz(tmp_path: Path, arrays: dict[str, np.ndarray], message: str) -> None:
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(ImagesError, match=message):
        open_images(tmp_path / "a.npz")


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04 damaged", b"\x93NUMPY"])
def test_damaged_npz(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a.npz").write_bytes(data)
    with pytest.raises(ImagesError, match=r"a\.npz cannot be read"):
        open_images(tmp_path / "a.npz")


def test_plain_npy_under_a_wrong_name(tmp_path: Path) -> None:
    with (tmp_path / "a.npz").open("wb") as stream:
        np.save(stream, batch())
    with pytest.raises(ImagesError, match=r"a\.npz"):
        open_images(tmp_path / "a.npz")


def test_real_npz(assets: Path) -> None:
    source = open_images(assets / "images" / "cifar10_test_2000.npz")
    assert len(source) == 2000
    assert {r.label for r in source.refs} == set(range(10))
    loaded = load(source, source.refs[7], Preprocessing((32, 32), crop=1.0))
    with np.load(assets / "images" / "cifar10_test_2000.npz") as archive:
        assert np.array_equal(loaded.pixels, archive["images"][7])


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 5), st.integers(1, 40), st.integers(1, 40), st.booleans())
def test_every_shape_gives_the_input_size(count: int, height: int, width: int, grey: bool) -> None:
    rng = np.random.default_rng(count)
    images = rng.integers(0, 256, (count, height, width, 3), dtype=np.uint8)
    if grey and 3 not in (count, width):
        images = images[..., 0]
    pixels = pixels_of(open_images(images), Preprocessing((7, 5), crop=0.9))
    assert pixels.shape == (count, 7, 5, 3)
    assert pixels.dtype == np.uint8
