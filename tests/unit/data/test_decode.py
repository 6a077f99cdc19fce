from __future__ import annotations

import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pictures import encode, make_pixels
from PIL import Image

from salience.data.base import RawImage
from salience.data.decode import decode, load
from salience.data.geometry import place
from salience.data.preprocessing import Interpolation, Preprocessing
from salience.data.source import open_images
from salience.errors import ImagesError

SMALL = Preprocessing((8, 8))
FILTERS = {name: getattr(Image.Resampling, name.upper()) for name in get_args(Interpolation)}


def raw(data: bytes) -> RawImage:
    return RawImage(data, "hash", "cat.jpg")


def reference(image: Image.Image, preprocessing: Preprocessing) -> np.ndarray:
    """Resize everything, then cut out the centre: what torchvision's two transforms do with a PIL image.

    Across and then down in two calls, as Pillow's own choice of the first pass depends on sizes and version.
    """
    frame = place(image.width, image.height, preprocessing)
    rows, columns = preprocessing.size
    resample = FILTERS[preprocessing.interpolation]
    whole = image.resize((frame.width, image.height), resample).resize((frame.width, frame.height), resample)
    return np.asarray(whole.crop((frame.left, frame.top, frame.left + columns, frame.top + rows)))


def test_load_tells_hash_and_original_size(tmp_path: Path, write_image: Callable[..., Path]) -> None:
    source = open_images(write_image(tmp_path / "a.jpg", size=(20, 30)))
    loaded = load(source, source.refs[0], SMALL)
    assert loaded.content_hash == source.content_hash(source.refs[0])
    assert (loaded.width, loaded.height) == (30, 20)
    assert loaded.pixels.shape == (8, 8, 3)
    assert loaded.pixels.dtype == np.uint8
    assert loaded.pixels.flags.writeable
    assert loaded.pixels.flags.c_contiguous


def test_an_image_of_the_right_size_is_left_alone() -> None:
    pixels = make_pixels(8, 8)
    for data in (encode(Image.fromarray(pixels), "PNG"), pixels):
        for fit in ("crop", "squash"):
            assert np.array_equal(decode(RawImage(data, ""), Preprocessing((8, 8), fit=fit)).pixels, pixels)


@settings(deadline=None, max_examples=60)
@given(
    st.integers(1, 120),
    st.integers(1, 120),
    st.tuples(st.integers(1, 64), st.integers(1, 64)),
    st.sampled_from(sorted(FILTERS)),
    st.sampled_from(["crop", "squash"]),
    st.sampled_from([0.875, 0.9, 1.0]),
)
def test_resampling_the_window_equals_resizing_and_cropping(
    height: int, width: int, size: tuple[int, int], interpolation: Interpolation, fit: str, crop: float
) -> None:
    preprocessing = Preprocessing(size, interpolation=interpolation, fit=fit, crop=crop)
    pixels = make_pixels(height, width)
    result = decode(RawImage(pixels, ""), preprocessing).pixels
    assert result.shape == (*size, 3)
    difference = np.abs(result.astype(int) - reference(Image.fromarray(pixels), preprocessing))
    # The weights of the two are equal but for their last bit. A rounding of the first pass may fall to the other side,
    # by one grey level; the second pass adds such levels with weights whose absolute values sum to less than 2, and may
    # itself round to the other side.
    if interpolation in ("bilinear", "bicubic", "lanczos"):
        assert difference.max() <= 2
        assert np.mean(difference > 1) < 0.01


@pytest.mark.parametrize("interpolation", ["nearest", "box"])
@pytest.mark.parametrize("size", [(224, 224), (64, 48)])
def test_filters_that_jump_differ_only_where_two_pixels_are_equally_near(
    interpolation: Interpolation, size: tuple[int, int]
) -> None:
    preprocessing = Preprocessing(size, interpolation=interpolation, crop=0.875)
    for height, width in ((375, 500), (333, 287), (256, 256), (90, 70)):
        pixels = make_pixels(height, width)
        result = decode(RawImage(pixels, ""), preprocessing).pixels
        assert np.mean(result != reference(Image.fromarray(pixels), preprocessing)) < 0.05


@pytest.mark.parametrize("crop", [0.875, 1.0, 224 / 232])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_equals_torchvision_steps_on_photographs(interpolation: Interpolation, crop: float) -> None:
    datasets = pytest.importorskip("sklearn.datasets")
    preprocessing = Preprocessing((224, 224), interpolation=interpolation, crop=crop)
    photographs = datasets.load_sample_images().images
    portraits = [np.rot90(p)[:, 60:].copy() for p in photographs]
    for pixels in (*photographs, *portraits):
        result = decode(RawImage(pixels, ""), preprocessing).pixels.astype(int)
        difference = np.abs(result - reference(Image.fromarray(pixels), preprocessing))
        assert difference.max() <= 1
        assert difference.mean() < 0.01


@pytest.mark.parametrize("resize", [224, 232, 235, 256])
def test_equals_torchvision_itself(resize: int) -> None:
    datasets = pytest.importorskip("sklearn.datasets")
    try:
        from torchvision import transforms
    except (ImportError, RuntimeError) as error:  # RuntimeError: beside a torch that it was not built for
        pytest.skip(f"torchvision cannot be imported: {error}")
    steps = transforms.Compose(
        [transforms.Resize(resize, transforms.InterpolationMode.BICUBIC), transforms.CenterCrop(224)]
    )
    for photograph in datasets.load_sample_images().images:
        for pixels in (photograph, np.rot90(photograph).copy()):
            result = decode(RawImage(pixels, ""), Preprocessing((224, 224), crop=224 / resize)).pixels
            difference = np.abs(result.astype(int) - np.asarray(steps(Image.fromarray(pixels))))
            assert difference.mean() < 0.4


def test_exif_rotation_changes_the_original_size() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    pixels = make_pixels(20, 30)
    for kind in ("JPEG", "PNG"):
        loaded = decode(raw(encode(Image.fromarray(pixels), kind, exif=exif)), Preprocessing((30, 20)))
        assert (loaded.width, loaded.height) == (20, 30)
        assert np.abs(loaded.pixels.astype(int) - np.rot90(pixels, -1)).mean() < 20
    assert np.array_equal(loaded.pixels, np.rot90(pixels, -1))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "TIFF", "WEBP", "BMP"])
@pytest.mark.parametrize("share", [0.02, 0.3, 0.8])
def test_truncated_files_are_errors(kind: str, share: float) -> None:
    data = encode(Image.fromarray(make_pixels(60, 80)), kind)
    with pytest.raises(ImagesError, match=r"^cat\.jpg: the (image is broken|file is not an image)"):
        decode(raw(data[: int(len(data) * share)]), SMALL)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", r"the file is empty \(0 bytes\)"),
        (b"hello, world", "not an image of a kind that Pillow reads"),
        (b"\n<!DOCTYPE html><title>404</title>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
        (b"\xff\xd8\xff\xe0" + b"\0" * 100, "broken|not an image"),
    ],
)
def test_what_is_no_image_is_an_error_that_says_why(data: bytes, message: str) -> None:
    with pytest.raises(ImagesError, match=rf"^cat\.jpg: .*({message})"):
        decode(raw(data), SMALL)


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize("pixels", [1500, 700])
def test_decompression_bombs_are_errors(kind: str, pixels: int, monkeypatch: pytest.MonkeyPatch) -> None:
    data = encode(Image.new("RGB", (40, 40)), kind)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", pixels)  # Pillow warns about the first and refuses the second
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        with pytest.raises(ImagesError, match=rf"more than {pixels:,} pixels"):
            decode(raw(data), SMALL)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "TIFF", "WEBP"])
@settings(deadline=None, max_examples=60)
@given(cuts=st.lists(st.tuples(st.floats(0, 0.999), st.binary(min_size=1, max_size=4)), min_size=1, max_size=6))
def test_damage_is_survived_or_told(kind: str, cuts: list[tuple[float, bytes]]) -> None:
    data = bytearray(encode(Image.fromarray(make_pixels(16, 20)), kind))
    for share, damage in cuts:
        start = int(share * len(data))
        data[start : start + len(damage)] = damage
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            outcome: object = decode(raw(bytes(data)), SMALL).pixels.shape
        except ImagesError as error:
            outcome = str(error)
    assert outcome == (8, 8, 3) or str(outcome).startswith("cat.jpg: ")


def test_threads_get_the_same_pixels() -> None:
    data = [encode(Image.fromarray(make_pixels(60, 80, seed)), "JPEG") for seed in range(8)]
    alone = [decode(raw(d), SMALL).pixels for d in data]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda d: decode(raw(d), SMALL).pixels, data * 4))
    assert all(np.array_equal(a, b) for a, b in zip(alone * 4, together, strict=True))


def test_pixels_of_the_model_s_size_are_taken_as_they_are() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (20, 24, 3), dtype=np.uint8)
    for fit in ("squash", "crop"):
        whole = Preprocessing((20, 24), (0.0,) * 3, (1.0,) * 3, "bicubic", fit)
        assert decode(RawImage(pixels, "hash"), whole).pixels is pixels
    part = Preprocessing((20, 24), (0.0,) * 3, (1.0,) * 3, "bicubic", "crop", 0.5)
    assert not np.array_equal(decode(RawImage(pixels, "hash"), part).pixels, pixels)
