"""The pool of other images: which are drawn, how they come behind a mask, and what depends on them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import runs
import torch
from torch.nn import functional as F

import salience
from salience.data.source import open_images
from salience.engine.pool import Pool, crop, draw_pool
from salience.engine.random import key_words, row_key
from salience.errors import ImagesError, SettingsError
from salience.testing.contracts import example_images
from salience.testing.models import small_classifier

CLASSIFIER = small_classifier()
PREPROCESSING = CLASSIFIER.preprocessing
IMAGES = example_images(CLASSIFIER, 12)
MASK = "mask:steps=2:draws=2"


def plain(*greys: int) -> Pool:
    """Images of one grey each: a background tells which it came from."""
    return Pool(torch.tensor(greys, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 16, 16).contiguous(), "greys")


def greys(pool: Pool, own: int, count: int = 400) -> list[int]:
    words = key_words([row_key(0, "mask 1", "image")], "cpu")
    behind = pool.backgrounds(words, 0, count, torch.tensor([own]), torch.float32)
    torch.testing.assert_close(behind.amin((2, 3, 4)), behind.amax((2, 3, 4)))
    return [round(v * 255) for v in behind[0, :, 0, 0, 0].tolist()]


# ---------------------------------------------------------------------- what is drawn


def test_a_pool_depends_on_ids_and_seed_and_not_on_order(tmp_path: Path) -> None:
    paths = [str(p) for p in runs.write_images(tmp_path, CLASSIFIER, 12)]
    one = draw_pool(open_images(paths), PREPROCESSING, 5)
    turned = draw_pool(open_images(paths[::-1]), PREPROCESSING, 5)
    assert one.images.shape == (5, 3, 16, 16)
    assert one.images.dtype == torch.uint8
    assert one.hash == turned.hash
    assert torch.equal(one.images, turned.images)
    other = draw_pool(open_images(paths), PREPROCESSING, 5, seed=1)
    assert other.hash != one.hash
    larger = draw_pool(open_images(paths), PREPROCESSING, 8)
    assert torch.equal(larger.images[:5], one.images)
    assert larger.hash != one.hash


def test_what_cannot_be_read_is_passed_over_and_pictures_count_once(tmp_path: Path) -> None:
    paths = runs.write_images(tmp_path, CLASSIFIER, 6)
    whole = draw_pool(open_images(tmp_path), PREPROCESSING)
    assert len(whole) == 6
    (tmp_path / "copy.png").write_bytes(paths[0].read_bytes())
    assert sorted(map(hash, map(bytes, draw_pool(open_images(tmp_path), PREPROCESSING).images.numpy()))) == sorted(
        map(hash, map(bytes, whole.images.numpy()))
    )
    paths[3].write_bytes(b"")
    assert len(draw_pool(open_images(tmp_path), PREPROCESSING)) == 5


def test_float_images_are_taken_at_eight_bits() -> None:
    floats = torch.from_numpy(IMAGES).permute(0, 3, 1, 2) / 255
    assert torch.equal(
        draw_pool(open_images(floats), PREPROCESSING).images, draw_pool(open_images(IMAGES), PREPROCESSING).images
    )


def test_a_pool_of_one_picture_is_refused() -> None:
    with pytest.raises(ImagesError, match=r"has 1 that can be read.*--pool IMAGES"):
        draw_pool(open_images(np.repeat(IMAGES[:1], 3, axis=0)), PREPROCESSING)
    with pytest.raises(SettingsError, match="size of the pool is 1"):
        draw_pool(open_images(IMAGES), PREPROCESSING, 1)


# ---------------------------------------------------------------------- backgrounds


def test_every_other_image_is_drawn_and_never_the_image_itself() -> None:
    pool = plain(10, 20, 30, 40)
    assert set(greys(pool, own=4)) == {10, 20, 30, 40}
    for own in range(4):
        assert set(greys(pool, own)) == {10, 20, 30, 40} - {10 * own + 10}
    assert set(greys(plain(10, 20), own=0)) == {20}


def test_an_image_is_found_by_its_picture() -> None:
    pool = draw_pool(open_images(IMAGES), PREPROCESSING, 8)
    pixels = torch.from_numpy(IMAGES).permute(0, 3, 1, 2)
    for dtype in (torch.float32, torch.float64, torch.float16, torch.bfloat16):
        places = pool.find(pixels.to(dtype) / 255)
        assert (places < 8).sum() == 8
        for i, place in enumerate(places.tolist()):
            assert place == 8 or torch.equal(pool.images[place], pixels[i])


def test_draws_are_the_same_however_they_are_cut() -> None:
    pool = draw_pool(open_images(IMAGES), PREPROCESSING)
    words = key_words([row_key(0, "mask 1", name) for name in "ab"], "cpu")
    own = torch.tensor([3, len(pool)])
    whole = pool.backgrounds(words, 0, 6, own, torch.float32)
    assert torch.equal(pool.backgrounds(words, 4, 2, own, torch.float32), whole[:, 4:])
    assert torch.equal(pool.backgrounds(words[1:], 0, 6, own[1:], torch.float32), whole[1:])
    assert len(whole.flatten(2).unique(dim=1)[0]) == 6
    assert whole.min() >= 0
    assert whole.max() <= 1


@pytest.mark.parametrize("flip", [False, True])
def test_a_crop_is_the_box_enlarged(flip: bool) -> None:
    images = torch.rand(3, 3, 12, 20, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    boxes = torch.tensor([[0, 0, 12, 20], [3, 7, 5, 9], [11, 19, 1, 1]], dtype=torch.float64)
    found = crop(images, boxes, torch.full((3,), flip))
    for i, (top, left, tall, wide) in enumerate(boxes.long().tolist()):
        box = images[i : i + 1, :, top : top + tall, left : left + wide]
        expected = F.interpolate(box, size=(12, 20), mode="bilinear", align_corners=False)[0]
        torch.testing.assert_close(found[i], expected.flip(2) if flip else expected)


def test_crops_have_the_declared_sizes_and_half_are_mirrored() -> None:
    """A ramp from left to right tells the width of its crop and the flip."""
    ramp = torch.arange(64, dtype=torch.uint8).view(1, 1, 1, 64).expand(2, 3, 64, 64).contiguous()
    ramp[1] = ramp[1].transpose(1, 2).clone()  # from top to bottom
    pool = Pool(ramp, "ramps")
    words = key_words([row_key(0, "mask 1", "image")], "cpu")
    behind = pool.backgrounds(words, 0, 4000, torch.tensor([1]), torch.float64)[0, :, 0] * 255
    wide = (behind[:, 0, :].amax(1) - behind[:, 0, :].amin(1) + 1).round()
    mirrored = behind[:, 0, 0] > behind[:, 0, -1]
    assert abs(mirrored.double().mean().item() - 0.5) < 0.03
    assert wide.min() >= round(64 * (0.08 * 3 / 4) ** 0.5)
    assert wide.max() == 64
    down = pool.backgrounds(words, 0, 4000, torch.tensor([0]), torch.float64)[0, :, 0] * 255
    tall = (down[:, :, 0].amax(1) - down[:, :, 0].amin(1) + 1).round()
    share = (tall * wide / 64**2).mean().item()
    assert abs(share - 0.54) < 0.02  # uniform from 8 % to 100 %, a little less where sides are cut


# ---------------------------------------------------------------------- what depends on it


def test_maps_change_with_the_pool_and_not_with_the_other_images() -> None:
    # arrays: their names, which the draws go by, are the same in every test run
    images, other = example_images(CLASSIFIER, 4), example_images(CLASSIFIER, 5, seed=9)

    def explain(images: np.ndarray, **how: object) -> bytes:
        maps = salience.explain(CLASSIFIER, images, MASK, batch_size=4, **how)
        return maps.values[0].tobytes()

    assert explain(images, pool=other) == explain(images[:1], pool=other)
    assert explain(images, pool=other) != explain(images, pool=other, pool_size=3)
    assert explain(images) != explain(images[:2])
    assert explain(images) == explain(images, limit=1)  # a limit takes no images from the pool
    with pytest.raises(ImagesError, match="Give a pool of at least two"):
        explain(images[:1])


def test_another_pool_computes_again_what_depends_on_it(tmp_path: Path) -> None:
    runs.write_images(tmp_path / "images", CLASSIFIER, 4)
    np.savez(tmp_path / "pool.npz", images=example_images(CLASSIFIER, 5, seed=9))

    def run(**how: object) -> tuple[int, int]:
        _, summary = runs.run(CLASSIFIER, tmp_path / "images", ["gradient", MASK], tmp_path / "out", **how)
        return summary.calls.forward, summary.calls.backward

    pool = str(tmp_path / "pool.npz")
    passes = 2 * (2 + 1), 2 * 2  # draws times steps, and the last look
    assert run(pool=pool) == (4 * (1 + passes[0]), 4 * (1 + passes[1]))
    assert run(pool=pool) == (0, 0)
    assert run(pool=pool, pool_size=3) == (4 * (1 + passes[0]), 4 * passes[1])  # the gradient is kept
    assert run(pool=pool, pool_size=3) == (0, 0)
