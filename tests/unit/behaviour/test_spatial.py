"""How much of the image a map takes: closed forms."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from salience.behaviour.spatial import gini, half_mass_area, shares, spatial_entropy
from salience.metrics.complexity import Entropy, Gini
from salience.metrics.metric import Seen


@pytest.mark.parametrize("grid", [(7, 7), (14, 14), (1, 1), (2, 9)])
@pytest.mark.parametrize("value", [1.0, -0.25, 1e-30, 1e30])
def test_constant_map(grid: tuple[int, int], value: float) -> None:
    maps = np.full((2, *grid), value)
    one = grid == (1, 1)
    assert spatial_entropy(maps) == pytest.approx(0 if one else 1)
    assert gini(maps) == pytest.approx(0, abs=1e-12)
    assert half_mass_area(maps) == pytest.approx(0.5)


def test_single_cell() -> None:
    maps = np.zeros((1, 7, 7))
    maps[0, 2, 5] = -3
    assert spatial_entropy(maps) == pytest.approx(0, abs=1e-15)
    assert gini(maps) == pytest.approx(48 / 49)
    assert half_mass_area(maps) == pytest.approx(0.5 / 49)


def test_half_of_the_cells() -> None:
    maps = np.zeros((1, 4, 4))
    maps[0, :2] = 5
    assert spatial_entropy(maps) == pytest.approx(np.log(8) / np.log(16))
    assert gini(maps) == pytest.approx(0.5)
    assert half_mass_area(maps) == pytest.approx(0.25)


def test_the_last_cell_counts_in_part() -> None:
    """0.4 and 0.3 of the mass: the second cell is needed for a third of itself."""
    maps = np.array([[[0.4, 0.3, 0.2, 0.1]]])
    assert half_mass_area(maps) == pytest.approx((1 + 1 / 3) / 4)


def test_a_map_of_zeros_counts_as_evenly_spread() -> None:
    maps = np.zeros((2, 7, 7))
    assert shares(maps) == pytest.approx(1 / 49)
    assert (spatial_entropy(maps), gini(maps), half_mass_area(maps)) == (
        pytest.approx(1),
        pytest.approx(0, abs=1e-12),
        pytest.approx(0.5),
    )


_MAPS = arrays(np.float64, (7, 7), elements=st.floats(-5, 5))


@settings(max_examples=50, deadline=None)
@given(
    _MAPS.map(lambda map_: np.where(np.abs(map_) < 1e-200, 0, map_)),  # nothing that scaling makes zero
    st.permutations(range(49)),
    st.sampled_from([1e-20, 0.1, 1e20]),
)
def test_only_sizes_count_not_places_or_signs_or_scale(map_: np.ndarray, order: list[int], scale: float) -> None:
    shuffled = (-map_.ravel()[order] * scale).reshape(7, 7)
    for measure in (spatial_entropy, gini, half_mass_area):
        assert measure(shuffled[None]) == pytest.approx(measure(map_[None]), abs=1e-9)


@settings(max_examples=50, deadline=None)
@given(_MAPS)
def test_values_are_in_their_range(map_: np.ndarray) -> None:
    assert 0 <= spatial_entropy(map_[None])[0] <= 1
    assert 0 <= gini(map_[None])[0] <= 1 - 1 / 49 + 1e-12
    assert 0 < half_mass_area(map_[None])[0] <= 0.5


def test_one_formula_in_the_house() -> None:
    """The metrics entropy and gini are the same numbers of the same map."""
    maps = np.random.default_rng(0).normal(size=(5, 12, 9)).astype(np.float32)
    for i, map_ in enumerate(maps):
        seen = Seen(
            image_id="x",
            seed=0,
            pixels=torch.zeros(3, 12, 9),
            logits=torch.zeros(2),
            labels=torch.zeros(1, dtype=torch.int64),
            maps=torch.from_numpy(map_)[None],
            boxes=torch.zeros(0, 4),
            pool=None,
        )
        assert Entropy().score(seen).item() == pytest.approx(spatial_entropy(maps)[i], abs=1e-12)
        assert Gini().score(seen).item() == pytest.approx(gini(maps)[i], abs=1e-12)
