from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis.extra.numpy import arrays
from pictures import encode, make_pixels
from PIL import Image, ImageOps

from salience.data.pixels import to_rgb
from salience.errors import ImagesError


def rgb(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as image:
        converted = to_rgb(image)
    assert converted.mode == "RGB"
    return np.asarray(converted)


def png(values: np.ndarray, colour_type: int, *chunks: tuple[bytes, bytes]) -> bytes:
    """Write a PNG of 8 or 16 bits per channel: Pillow itself cannot write 16-bit colours."""
    height, width = values.shape[:2]

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, values.dtype.itemsize * 8, colour_type, 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(values.dtype.newbyteorder(">")).tobytes() for row in values)
    body = b"".join(chunk(*c) for c in chunks)
    end = chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + body + end


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "BMP", "GIF", "WEBP", "PPM"])
def test_grey_becomes_three_equal_channels(kind: str) -> None:
    grey = make_pixels(9, 7)[..., 0]
    options = {"lossless": True} if kind == "WEBP" else {}
    assert np.array_equal(rgb(encode(Image.fromarray(grey), kind, **options)), np.repeat(grey[..., None], 3, -1))


def test_one_bit() -> None:
    bits = make_pixels(9, 7)[..., 0] > 127
    assert np.array_equal(rgb(encode(Image.fromarray(bits), "PNG")), np.repeat(bits[..., None] * np.uint8(255), 3, -1))


def test_palette() -> None:
    palette = Image.fromarray(make_pixels(9, 7)).quantize(8)
    assert np.array_equal(rgb(encode(palette, "PNG")), np.asarray(palette.convert("RGB")))


@settings(deadline=None, max_examples=50)
@given(arrays(np.uint8, (3, 4, 4)))
def test_transparent_parts_lie_on_white(pixels: np.ndarray) -> None:
    result = rgb(encode(Image.fromarray(pixels), "PNG")).astype(int)
    alpha = pixels[..., 3:] / 255
    expected = pixels[..., :3] * alpha + 255 * (1 - alpha)
    assert np.abs(result - expected).max() <= 1
    assert np.array_equal(result[pixels[..., 3] == 255], pixels[pixels[..., 3] == 255][:, :3])
    assert (result[pixels[..., 3] == 0] == 255).all()


def test_grey_with_transparency() -> None:
    pixels = np.array([[[100, 255], [100, 0], [0, 128]]], np.uint8)
    assert rgb(png(pixels, 4))[0, :, 0].tolist() == [100, 255, 127]


def test_transparent_colour_of_palette_rgb_and_grey() -> None:
    palette = Image.fromarray(np.array([[0, 1]], np.uint8), "P")
    palette.putpalette([255, 0, 0, 0, 255, 0])
    assert rgb(encode(palette, "PNG", transparency=0)).tolist() == [[[255, 255, 255], [0, 255, 0]]]
    assert rgb(encode(palette, "GIF", transparency=0)).tolist() == [[[255, 255, 255], [0, 255, 0]]]
    colours = Image.fromarray(np.array([[[9, 8, 7], [1, 2, 3]]], np.uint8))
    assert rgb(encode(colours, "PNG", transparency=(9, 8, 7))).tolist() == [[[255, 255, 255], [1, 2, 3]]]
    grey = Image.fromarray(np.array([[9, 8]], np.uint8))
    assert rgb(encode(grey, "PNG", transparency=9)).tolist() == [[[255, 255, 255], [8, 8, 8]]]


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_cmyk(kind: str) -> None:
    cmyk = Image.fromarray(make_pixels(16, 16)).convert("CMYK")
    data = encode(cmyk, kind, **({"quality": 100, "subsampling": 0} if kind == "JPEG" else {}))
    assert np.abs(rgb(data).astype(int) - np.asarray(cmyk.convert("RGB"))).mean() < 2


@settings(deadline=None, max_examples=30)
@given(arrays(np.uint16, (3, 4)))
def test_16_bit_grey_is_scaled_and_not_clipped(levels: np.ndarray) -> None:
    expected = np.rint(levels / 257)[..., None]
    image = Image.fromarray(levels)
    for data in (encode(image, "PNG"), encode(image, "TIFF"), encode(image, "PPM")):
        assert np.abs(rgb(data) - expected).max() <= 0.5


def test_16_bit_grey_of_the_other_byte_order() -> None:
    levels = np.array([[0, 257, 32896, 65535]], np.uint16)
    data = encode(Image.frombytes("I;16B", (4, 1), levels.astype(">u2").tobytes()), "TIFF")
    assert rgb(data)[0, :, 0].tolist() == [0, 1, 128, 255]


def tiff(width: int, bits: int, photometric: int, row: bytes) -> bytes:
    """Write a TIFF of one row of grey values, with a number of bits that Pillow itself cannot write."""
    tags = {256: width, 257: 1, 258: bits, 259: 1, 262: photometric, 273: 0, 277: 1, 278: 1, 279: len(row)}
    tags[273] = 14 + 12 * len(tags)  # where the row stands: behind this directory
    directory = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + directory + b"\0\0\0\0" + row


def test_12_bit_grey_uses_the_whole_range() -> None:
    levels = [0, 2048, 4095, 16]
    packed = b"".join((a << 12 | b).to_bytes(3, "big") for a, b in zip(levels[::2], levels[1::2], strict=True))
    assert rgb(tiff(4, 12, 1, packed))[0, :, 0].tolist() == [0, 128, 255, 1]


@pytest.mark.parametrize(("bits", "kind"), [(8, "<4B"), (16, "<4H")])
def test_tiff_whose_white_is_zero(bits: int, kind: str) -> None:
    top = 2**bits - 1
    row = struct.pack(kind, 0, top, top // 255, top // 255 * 254)
    assert rgb(tiff(4, bits, 0, row))[0, :, 0].tolist() == [255, 0, 254, 1]
    assert rgb(tiff(4, bits, 1, row))[0, :, 0].tolist() == [0, 255, 1, 254]


def test_pgm_of_10_bits() -> None:
    assert rgb(b"P5 3 1 1023\n" + struct.pack(">3H", 0, 1023, 512))[0, :, 0].tolist() == [0, 255, 128]


@pytest.mark.parametrize("channels", [3, 4])
def test_16_bit_colour_png_is_scaled_and_not_clipped(channels: int) -> None:
    levels = np.random.default_rng(0).integers(0, 65536, (5, 6, channels), dtype=np.uint16)
    levels[..., 3:] = 65535
    assert np.abs(rgb(png(levels, {3: 2, 4: 6}[channels])) - levels[..., :3] / 257).max() <= 1


def test_16_bit_colour_tiff_is_scaled_and_not_clipped() -> None:
    tifffile = pytest.importorskip("tifffile")
    levels = np.random.default_rng(0).integers(0, 65536, (5, 6, 3), dtype=np.uint16)
    stream = io.BytesIO()
    tifffile.imwrite(stream, levels, photometric="rgb")
    assert np.abs(rgb(stream.getvalue()) - levels / 257).max() <= 1


def test_floats() -> None:
    values = np.linspace(0, 1, 12, dtype=np.float32).reshape(3, 4)
    result = rgb(encode(Image.fromarray(values), "TIFF"))
    assert np.array_equal(result[..., 0], np.rint(values * 255))
    for bad in (2.0, -0.5, np.nan):
        values[0, 0] = bad
        with pytest.raises(ImagesError, match="no agreed range"):
            rgb(encode(Image.fromarray(values), "TIFF"))


def test_32_bit_integers_are_refused() -> None:
    with pytest.raises(ImagesError, match="no agreed range"):
        rgb(encode(Image.fromarray(np.full((3, 4), 70000, np.int32)), "TIFF"))


@pytest.mark.parametrize("turn", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
def test_exif_rotation(turn: int, kind: str) -> None:
    image = Image.fromarray(make_pixels(9, 7))
    exif = Image.Exif()
    exif[0x0112] = turn
    options: dict[str, Any] = {"lossless": True} if kind == "WEBP" else {}
    data = encode(image, kind, exif=exif, **options)
    with Image.open(io.BytesIO(data)) as opened:
        expected = np.asarray(ImageOps.exif_transpose(opened))
    assert np.array_equal(rgb(data), expected)
    assert rgb(data).shape == ((9, 7, 3) if turn < 5 else (7, 9, 3))


def test_broken_exif_is_no_exif() -> None:
    image = Image.fromarray(make_pixels(9, 7))
    assert np.array_equal(rgb(encode(image, "PNG", exif=b"Exif\0\0garbage")), make_pixels(9, 7))


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_first_frame_of_an_animation(kind: str) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    options: dict[str, Any] = {"lossless": True} if kind == "WEBP" else {}
    data = encode(frames[0], kind, save_all=True, append_images=frames[1:], duration=100, **options)
    assert (rgb(data) == [255, 0, 0]).all()


def test_pictures_of_skimage_open() -> None:
    skimage = pytest.importorskip("skimage")
    folder = Path(skimage.__file__).parent / "data"
    found = [p for p in folder.iterdir() if p.suffix in (".png", ".jpg", ".tif", ".gif") and p.is_file()]
    for path in found:
        if path.name == "multipage_rgb.tif":  # 64 bits per channel: Pillow does not know it
            continue
        with Image.open(path) as image:
            assert to_rgb(image).mode == "RGB", path
