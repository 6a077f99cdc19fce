"""What every condition does to images, against formulas and other implementations, and how maps forget it."""

from __future__ import annotations

import colorsys
import io

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage
from torch.nn import functional as F

from salience.behaviour.conditions.condition import Condition, GeometryCondition
from salience.behaviour.conditions.corruptions import (
    BLUR,
    BRIGHTNESS,
    CONTRAST,
    NOISE,
    QUALITY,
    Blur,
    Brightness,
    Contrast,
    GaussianNoise,
    Jpeg,
)
from salience.behaviour.conditions.geometry import CellShift, Flip, HalfCellShift, Rotate, Scale, Turn, step
from salience.behaviour.conditions.guided import LEVELS, Degradation, levels, sigma_of
from salience.behaviour.conditions.noise import AMOUNTS, SaltPepper
from salience.behaviour.conditions.registry import conditions, find_condition
from salience.behaviour.resampling import enlarge, sample
from salience.behaviour.similarity import published_8bit
from salience.errors import SettingsError

RNG = np.random.default_rng(7)
IDS = ["a", "b"]


def pixels(size: tuple[int, int], count: int = 2, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(3).random((count, 3, *size))).to(dtype)


def smooth(size: int) -> np.ndarray:
    """A map without detail, which resampling keeps."""
    y, x = np.mgrid[:size, :size] / size
    return (np.sin(2 * np.pi * y) + np.cos(2 * np.pi * (x + 0.3 * y))).astype(np.float32)


# ---------------------------------------------------------------------- which there are


def test_the_conditions_of_the_measures() -> None:
    found = conditions()
    assert [name for name in found if name.startswith("salt-pepper")] == [f"salt-pepper-{a:g}" for a in AMOUNTS]
    count = {family: sum(c.kind.family == family for c in found.values()) for family in ("noise", "corruption")}
    assert count == {"noise": 7, "corruption": 25}
    geometry = conditions(["geometry"])
    assert sum(c.published for c in geometry.values()) == 2 + 2 + 8
    assert len(geometry) == 12 + 8 + 2 + 2
    assert list(conditions(["degradation"])) == ["background", "object"]
    assert conditions(["entropy", "stability"]) == {}
    assert len(found) == 58
    published = {name for name, c in conditions(["out-of-set"]).items() if c.published}
    assert published == {name for name in found if name.startswith("salt-pepper")}


def test_severities_rise_within_a_kind() -> None:
    for kind in ("salt-pepper", "gaussian-noise", "blur", "jpeg", "brightness", "contrast"):
        found = [c.severity for c in conditions().values() if c.kind.name == kind]
        assert found == sorted(found)
        assert len(set(found)) == len(found) >= 5


def test_an_unknown_condition_is_refused_with_the_nearest() -> None:
    with pytest.raises(SettingsError, match="Did you mean 'flip-lr'"):
        find_condition("flip-rl")
    assert find_condition("shift16-up-left") == HalfCellShift("up-left")


@pytest.mark.parametrize(
    "make",
    [lambda: SaltPepper(0), lambda: SaltPepper(1.1), lambda: Blur(6), lambda: Scale(0), lambda: CellShift("north")],
)
def test_strengths_out_of_range_are_refused(make) -> None:
    with pytest.raises(SettingsError):
        make()


# ---------------------------------------------------------------------- noise and corruptions


@pytest.mark.parametrize("amount", AMOUNTS)
def test_salt_and_pepper(amount: float) -> None:
    image = np.full((200, 150, 3), 100, dtype=np.uint8)
    noisy = SaltPepper(amount).read(image, "a", 0)
    assert image.min() == image.max() == 100
    n = image.size
    for value in (0, 255):
        share = (noisy == value).mean()
        assert share == pytest.approx(amount / 2, abs=5 * np.sqrt(amount / 2 / n))
    assert np.isin(noisy, (0, 100, 255)).all()
    assert (noisy != 100).all() == (amount == 1)


def test_salt_and_pepper_only_grows() -> None:
    image = np.full((40, 40, 3), 100, dtype=np.uint8)
    less, more = (SaltPepper(a).read(image, "a", 0) for a in (0.1, 0.5))
    assert (more[less != 100] == less[less != 100]).all()


def test_salt_and_pepper_of_floats_and_of_large_images(monkeypatch: pytest.MonkeyPatch) -> None:
    image = np.full((33, 21, 3), 0.5, dtype=np.float32)
    whole = SaltPepper(0.4).read(image, "a", 5)
    assert set(np.unique(whole)) == {0.0, 0.5, 1.0}
    monkeypatch.setattr("salience.behaviour.conditions.noise._DRAWN", 100)  # drawn in pieces: the same numbers
    assert (SaltPepper(0.4).read(image, "a", 5) == whole).all()


@pytest.mark.parametrize("level", [1, 5])
def test_gaussian_noise(level: int) -> None:
    grey = torch.full((1, 3, 128, 128), 0.5)
    found = GaussianNoise(level).change(grey, ["a"], 0) - 0.5
    inside = found[found.abs() < 0.49]
    wanted = torch.from_numpy(np.random.default_rng(0).normal(0, NOISE[level - 1], 500_000).clip(-0.5, 0.5))
    assert float(found.std()) == pytest.approx(float(wanted.std()), rel=0.02)
    assert abs(float(inside.mean())) < 0.01
    assert found.min() >= -0.5
    assert found.max() <= 0.5


@pytest.mark.parametrize("size", [(224, 224), (48, 64)])
@pytest.mark.parametrize("level", [1, 4])
def test_blur_is_that_of_scipy(level: int, size: tuple[int, int]) -> None:
    x = pixels(size, dtype=torch.float64)
    sigma = BLUR[level - 1] * min(size) / 224
    wanted = ndimage.gaussian_filter(
        x.numpy(), (0, 0, sigma, sigma), mode="nearest", radius=(0, 0, *(max(1, round(3 * sigma)),) * 2)
    )
    np.testing.assert_allclose(Blur(level).change(x, IDS, 0).numpy(), wanted, atol=1e-12)


def test_jpeg_is_a_file_of_that_quality() -> None:
    image = RNG.integers(0, 256, (32, 32, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=QUALITY[2])
    wanted = np.array(Image.open(file))
    assert (Jpeg(3).read(image, "a", 0) == wanted).all()
    of_floats = Jpeg(3).read(image.astype(np.float32) / np.float32(255), "a", 0)
    assert of_floats.dtype == np.float32
    np.testing.assert_array_equal((of_floats * 255).round().astype(np.uint8), wanted)


def test_brightness_adds_to_the_value_and_keeps_hue_and_saturation() -> None:
    x = pixels((4, 4), dtype=torch.float64)
    x[0, :, 0, 0] = 0  # black has no hue
    found = Brightness(2).change(x, IDS, 0).numpy()
    for before, after in zip(
        x.permute(0, 2, 3, 1).reshape(-1, 3).tolist(), found.transpose(0, 2, 3, 1).reshape(-1, 3), strict=True
    ):
        h, s, v = colorsys.rgb_to_hsv(*before)
        np.testing.assert_allclose(after, colorsys.hsv_to_rgb(h, s, min(1, v + BRIGHTNESS[1])), atol=1e-12)


def test_contrast_shrinks_to_the_mean_colour() -> None:
    x = pixels((9, 11), dtype=torch.float64).numpy()
    mean = x.mean((2, 3), keepdims=True)
    wanted = ((x - mean) * CONTRAST[3] + mean).clip(0, 1)
    np.testing.assert_allclose(Contrast(4).change(torch.from_numpy(x), IDS, 0).numpy(), wanted, atol=1e-12)


# ---------------------------------------------------------------------- geometry

GEOMETRY = [c for c in conditions(["geometry"]).values() if isinstance(c, GeometryCondition)]
MOVES = [c for c in GEOMETRY if not isinstance(c, (Scale, Rotate))]


@pytest.mark.parametrize("condition", [c for c in GEOMETRY if c.exact], ids=lambda c: c.name)
@pytest.mark.parametrize("side", [7, 8])
def test_flips_and_turns_commute_with_maps_exactly_on_the_native_grid(condition: GeometryCondition, side: int) -> None:
    """The map of an equivariant model (the maximum of each cell): undone, it is the map of the unchanged image."""
    x = pixels((side * 4, side * 4))

    def maps(images: torch.Tensor) -> np.ndarray:
        return F.max_pool2d(images.mean(1, keepdim=True), 4)[:, 0].numpy()

    back, valid = condition.undo(maps(condition.change(x, IDS, 0)))
    assert valid.all()
    assert (back == maps(x)).all()
    assert not (maps(condition.change(x, IDS, 0)) == maps(x)).all()


@pytest.mark.parametrize("condition", MOVES, ids=lambda c: c.name)
@pytest.mark.parametrize("size", [(224, 224), (32, 32)])
def test_undoing_a_move_gives_the_image_where_it_is_still_seen(
    condition: GeometryCondition, size: tuple[int, int]
) -> None:
    x = pixels(size, 1)
    back, valid = condition.undo(condition.change(x, ["a"], 0).numpy())
    assert (back[..., valid] == x.numpy()[..., valid]).all()
    if condition.exact:
        assert valid.all()
        return
    assert (back[..., ~valid] == 0).all()
    down, right = condition.offset(size)  # type: ignore[attr-defined]
    assert valid.sum() == (size[0] - abs(down)) * (size[1] - abs(right))


@pytest.mark.parametrize("condition", [Scale(0.8), Scale(1.25), Rotate(15), Rotate(30)], ids=lambda c: c.name)
def test_undoing_a_change_of_scale_or_angle_gives_the_image_up_to_resampling(condition: GeometryCondition) -> None:
    x = smooth(224)
    changed = condition.change(torch.from_numpy(x)[None, None].expand(1, 3, -1, -1), ["a"], 0)[:, 0].numpy()
    back, valid = condition.undo(changed)
    assert np.abs(back[0] - x)[valid].max() < 0.02  # half a pixel of the border: slopes are up to 0.05
    assert np.abs(changed[0] - x).max() > 0.3
    seen = {"scale-0.8": 1.0, "scale-1.25": 0.64}.get(condition.name)
    assert valid.mean() == pytest.approx(seen, abs=0.01) if seen else 0.8 < valid.mean() < 1


def test_angles_and_scales_go_the_way_that_their_names_say() -> None:
    x = pixels((20, 20), 1, torch.float64)
    np.testing.assert_allclose(Rotate(90).change(x, ["a"], 0), torch.rot90(x, 1, (-2, -1)), atol=1e-9)
    np.testing.assert_array_equal(Turn(1).change(x, ["a"], 0), torch.rot90(x, 1, (-2, -1)))
    point = torch.zeros(1, 3, 41, 41)
    point[:, :, 20, 28] = 1  # 8 to the right of the middle: 10 when enlarged
    assert Scale(1.25).change(point, ["a"], 0)[0, 0].argmax() == 20 * 41 + 30
    up = torch.zeros(1, 3, 224, 224)
    up[:, :, 100, 100] = 1
    assert HalfCellShift("up-right").change(up, ["a"], 0)[0, 0, 84, 116] == 1
    assert CellShift("down").change(up, ["a"], 0)[0, 0, 132, 100] == 1


def test_a_shift_replicates_the_border() -> None:
    x = pixels((224, 224), 1)
    moved = HalfCellShift("right").change(x, ["a"], 0)
    assert (moved[..., :17] == x[..., :1]).all()
    assert (moved[..., 16:] == x[..., :-16]).all()


def test_small_images_are_shifted_less() -> None:
    assert [step((s, s + 5)) for s in (224, 96, 95, 32, 16, 8)] == [16, 16, 5, 2, 1, 1]
    assert CellShift("left").offset((32, 32)) == (0, -4)


def test_what_does_not_fit_says_so() -> None:
    assert not Turn(1).fits((32, 48))
    assert Flip("lr").fits((32, 48))
    assert not CellShift("up").fits((2, 2))


def test_a_map_of_one_cell_can_be_undone() -> None:
    for condition in GEOMETRY:
        if condition.exact:
            assert condition.undo(np.ones((3, 1, 1), dtype=np.float32))[0].shape == (3, 1, 1)


# ---------------------------------------------------------------------- guided


def degraded_as_published(x: np.ndarray, raw: np.ndarray, blurred: str) -> np.ndarray:
    """The published steps, level by level, with SciPy."""
    size = x.shape[1:]
    share = min(size) / 224
    positive = np.maximum(raw, 0)
    salience = np.floor(255 * (positive - positive.min()) / np.ptp(positive)) if np.ptp(positive) else 0 * positive
    s = F.interpolate(torch.from_numpy(salience)[None, None], size, mode="bicubic")[0, 0].numpy().clip(0, 255)
    s = 255 - s if blurred == "object" else s
    s = ndimage.gaussian_filter(s, 5 * share, mode="nearest", radius=max(1, round(15 * share)))
    q = np.round(10 * s / s.max(), 1) if s.max() > 0 else 0 * s
    sigma = (10 - q) ** 4 / 1000 * share
    out = x.copy()
    for value in np.unique(sigma):
        if value > 1e-12:
            radius = max(1, round(3 * value))
            made = np.stack([ndimage.gaussian_filter(c, value, mode="nearest", radius=radius) for c in x])
            out[:, sigma == value] = made[:, sigma == value]
    return out


@pytest.mark.parametrize("blurred", ["background", "object"])
@pytest.mark.parametrize("size", [(224, 224), (50, 36)])
def test_degradation_is_the_published_one(blurred: str, size: tuple[int, int]) -> None:
    x = pixels(size, 1, torch.float64)
    raw = RNG.standard_normal((1, 7, 7))
    found = Degradation(blurred).degrade(x, raw.astype(np.float32))[0].numpy()  # type: ignore[arg-type]
    wanted = degraded_as_published(x[0].numpy(), raw[0].astype(np.float32).astype(np.float64), blurred)
    # A place whose quotient lies at the edge of two levels may fall on either side.
    assert (np.abs(found - wanted) > 1e-9).mean() < 1e-3
    assert np.abs(found - wanted).max() < 0.02


def test_what_a_map_of_zeros_leads_to() -> None:
    x = pixels((64, 64), 1)
    nothing = np.zeros((1, 7, 7), dtype=np.float32)
    assert torch.equal(Degradation("object").degrade(x, nothing), x)  # nothing is object
    blurred = Degradation("background").degrade(x, nothing)
    share = 64 / 224
    wanted = ndimage.gaussian_filter(x.numpy(), (0, 0, 10 * share, 10 * share), mode="nearest", radius=(0, 0, 9, 9))
    np.testing.assert_allclose(blurred.numpy(), wanted, atol=1e-6)
    constant = np.full((1, 7, 7), 3.0, dtype=np.float32)  # no contrast: the 8-bit map is zero
    assert torch.equal(Degradation("background").degrade(x, constant), blurred)


def test_levels_run_from_sharp_to_blurred() -> None:
    assert [sigma_of(k) for k in (0, 50, LEVELS)] == [10.0, 0.625, 0.0]
    peak = np.zeros((1, 7, 7), dtype=np.float32)
    peak[0, 2, 4] = 2.5
    salience = torch.from_numpy(published_8bit(peak)[0][0]).double()
    found = levels(salience, (224, 224), "background")
    assert found.max() == LEVELS
    assert divmod(int(found.argmax()), 224) in {(y, x) for y in range(76, 84) for x in range(140, 148)}
    assert levels(salience, (224, 224), "object").min() < 30
    assert found[200:, :60].max() == 0


# ---------------------------------------------------------------------- resampling


@pytest.mark.parametrize("grid", [(7, 7), (1, 1), (2, 5), (14, 14)])
def test_enlarging_is_that_of_torch(grid: tuple[int, int]) -> None:
    maps = RNG.standard_normal((3, *grid)).astype(np.float32)
    wanted = F.interpolate(torch.from_numpy(maps)[:, None], (224, 160), mode="bicubic", align_corners=False)[:, 0]
    np.testing.assert_allclose(enlarge(maps, (224, 160)), wanted.numpy(), atol=2e-5)
    assert enlarge(maps, grid) is maps


def test_sampling_reads_between_cells() -> None:
    maps = RNG.standard_normal((2, 6, 5)).astype(np.float32)
    rows, columns = np.mgrid[:6, :5].astype(float)
    same, valid = sample(maps, rows, columns)
    assert valid.all()
    np.testing.assert_array_equal(same, maps)
    between, valid = sample(maps, rows + 0.5, columns)
    np.testing.assert_allclose(between[:, :5], (maps[:, :5] + maps[:, 1:]) / 2, atol=1e-6)
    assert valid[:5].all()
    assert not valid[5].any()
    one, valid = sample(maps[:, :1, :1], np.zeros((1, 1)), np.zeros((1, 1)))
    assert valid.all()
    np.testing.assert_array_equal(one, maps[:, :1, :1])


def test_a_condition_is_its_settings() -> None:
    assert SaltPepper(0.1) == SaltPepper(0.1) != SaltPepper(0.05)
    first: Condition = Blur(1)
    assert first != Contrast(1)
    assert len({first, Blur(1), Contrast(1)}) == 2
    assert GaussianNoise(1).identity(3)["seed"] == 3
    assert Blur(1).identity(3)["seed"] is None
