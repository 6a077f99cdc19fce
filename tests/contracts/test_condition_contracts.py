"""Every contract, for every registered condition."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch

from salience.behaviour.conditions.condition import (
    Condition,
    DeviceCondition,
    GeometryCondition,
    GuidedCondition,
    HostCondition,
)
from salience.behaviour.conditions.registry import conditions
from salience.behaviour.measures import MEASURES

ALL = conditions()
COUNT = 5
IDS = [f"image {i}" for i in range(COUNT)]
SIZES = ((32, 32), (33, 21))
"""Neither a side nor a row of the second fills a vector register."""


def levels(size: tuple[int, int]) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (COUNT, *size, 3), dtype=np.uint8)


def raw_maps(rows: Sequence[int]) -> np.ndarray:
    maps = np.random.default_rng(2).standard_normal((COUNT, 4, 4)).astype(np.float32)
    maps[1] = 0
    return maps[list(rows)]


def apply(
    condition: Condition,
    size: tuple[int, int],
    rows: Sequence[int] = range(COUNT),
    *,
    seed: int = 0,
    ids: Sequence[str] = IDS,
    dtype: torch.dtype = torch.float32,
) -> torch.Tensor:
    """What becomes of some images of one batch: (n, 3, H, W), in [0, 1]."""
    images = levels(size)
    if isinstance(condition, HostCondition):
        made = np.stack([condition.read(images[r], ids[r], seed) for r in rows])
        return torch.from_numpy(made).permute(0, 3, 1, 2) / 255
    pixels = (torch.from_numpy(images).permute(0, 3, 1, 2).to(dtype) / 255)[list(rows)].contiguous()
    before = pixels.clone()
    if isinstance(condition, GuidedCondition):
        made = condition.degrade(pixels, raw_maps(rows))
    else:
        assert isinstance(condition, DeviceCondition)
        made = condition.change(pixels, [ids[r] for r in rows], seed)
    assert torch.equal(pixels, before)  # the input is left as it was
    return made


def fitting(condition: Condition) -> list[tuple[int, int]]:
    return [size for size in SIZES if condition.fits(size)]


every = pytest.mark.parametrize("condition", ALL.values(), ids=list(ALL))


@every
def test_an_image_does_not_depend_on_its_company_byte_for_byte(condition: Condition) -> None:
    for size in fitting(condition):
        whole = apply(condition, size)
        for rows in ([0], [3], [4, 1], [2, 3, 4], [1, 1, 1, 1, 0, 2, 4]):
            assert torch.equal(apply(condition, size, rows), whole[rows]), (size, rows)


@every
def test_pixels_keep_their_shape_type_and_range(condition: Condition) -> None:
    for size in fitting(condition):
        for dtype in (torch.float32, torch.float64):
            made = apply(condition, size, dtype=dtype)
            assert made.shape == (COUNT, 3, *size)
            assert made.dtype == (torch.float32 if isinstance(condition, HostCondition) else dtype)
            assert made.min() >= 0
            assert made.max() <= 1 + 1e-6
            assert made.isfinite().all()


@every
def test_something_changes(condition: Condition) -> None:
    size = fitting(condition)[0]
    clean = torch.from_numpy(levels(size)).permute(0, 3, 1, 2) / 255
    assert not torch.equal(apply(condition, size), clean)


@every
def test_the_same_seed_gives_the_same_pixels_and_only_what_is_drawn_depends_on_it(condition: Condition) -> None:
    size = fitting(condition)[0]
    first = apply(condition, size)
    assert torch.equal(apply(condition, size), first)
    renamed = apply(condition, size, ids=[f"other {i}" for i in range(COUNT)])
    reseeded = apply(condition, size, seed=1)
    if condition.kind.drawn:
        assert (renamed != first).flatten(1).any(1).all()
        assert (reseeded != first).flatten(1).any(1).all()
        assert condition.identity(0) != condition.identity(1)
    else:
        assert torch.equal(renamed, first)
        assert torch.equal(reseeded, first)
        assert condition.identity(0) == condition.identity(1)


@pytest.mark.parametrize("condition", [c for c in ALL.values() if c.kind.drawn], ids=lambda c: c.name)
def test_equal_images_of_other_names_get_other_noise(condition: Condition) -> None:
    grey = np.full((32, 32, 3), 128, dtype=np.uint8)
    if isinstance(condition, HostCondition):
        a, b = (condition.read(grey, name, 0).astype(float) for name in ("a", "b"))
    else:
        assert isinstance(condition, DeviceCondition)
        pixels = torch.full((2, 3, 32, 32), 0.5)
        a, b = condition.change(pixels, ["a", "b"], 0).double().numpy()
    moved = (a != (128 if isinstance(condition, HostCondition) else 0.5)).mean()
    assert (a != b).mean() > moved / 2


@every
def test_the_global_generators_are_not_touched(condition: Condition) -> None:
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002  # the global one is what this is about
    before = torch.get_rng_state(), np.random.get_state()[1].copy()  # type: ignore[index, union-attr]  # noqa: NPY002
    apply(condition, fitting(condition)[0])
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (np.random.get_state()[1] == before[1]).all()  # type: ignore[index]  # noqa: NPY002


@every
def test_it_says_what_it_is(condition: Condition) -> None:
    kind = condition.kind
    assert ALL[condition.name] == condition
    assert kind.measure in MEASURES
    assert kind.summary
    assert kind.reference
    assert any(word in kind.details for word in ("Published", "Ours"))
    traits = condition.traits
    assert (traits.name, traits.family, traits.published) == (condition.name, kind.family, condition.published)
    assert type(condition).__doc__
    assert condition.identity(0)["version"] == kind.version


@pytest.mark.parametrize(
    "condition", [c for c in ALL.values() if isinstance(c, GeometryCondition)], ids=lambda c: c.name
)
def test_undoing_keeps_shapes(condition: GeometryCondition) -> None:
    size = fitting(condition)[0]
    maps = np.random.default_rng(0).standard_normal((2, 3, *size)).astype(np.float32)
    back, valid = condition.undo(maps)
    assert back.shape == maps.shape
    assert valid.shape == size
    assert valid.dtype == np.bool_
    assert valid.any()
    alone, _ = condition.undo(maps[1, 2])
    np.testing.assert_allclose(alone, back[1, 2], atol=1e-6)
