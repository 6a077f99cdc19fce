from __future__ import annotations

import pytest
import torch

from salience.models import load_model
from salience.models.layers import find_layer
from salience.training.networks import WIDTHS, SmallResidualNet, initialise, small_network


@pytest.mark.parametrize("width", WIDTHS)
def test_every_width_has_a_factory(width: int) -> None:
    model = load_model(f"salience.training.networks:small_{width}", device="cpu")
    assert model.num_classes == 10
    assert model.logits(torch.rand(2, 3, 32, 32)).shape == (2, 10)


@pytest.mark.parametrize(("size", "grid"), [(32, (8, 8)), (64, (16, 16))])
def test_the_grid_is_a_quarter_of_the_side(size: int, grid: tuple[int, int]) -> None:
    module = SmallResidualNet(8)
    assert module.blocks(module.stem(torch.rand(1, 3, size, size))).shape == (1, 32, *grid)


def test_the_last_block_is_the_layer_for_maps() -> None:
    assert find_layer(small_network(8)).name == "blocks"


def test_making_one_leaves_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    first, second = small_network(8), small_network(8)
    assert torch.equal(torch.get_rng_state(), before)
    assert first.fingerprint() == second.fingerprint()


def test_weights_come_from_the_generator_alone() -> None:
    module = SmallResidualNet(8)
    drawn = []
    for seed in (1, 2, 1):
        initialise(module, torch.Generator().manual_seed(seed))
        drawn.append({k: v.clone() for k, v in module.state_dict().items()})
    assert all(torch.equal(drawn[0][k], drawn[2][k]) for k in drawn[0])
    assert not torch.equal(drawn[0]["fc.weight"], drawn[1]["fc.weight"])
    deviation = float(drawn[0]["blocks.5.conv2.weight"].std())
    assert deviation == pytest.approx((2 / (9 * 32)) ** 0.5, rel=0.05)


def test_what_normalisations_learnt_is_forgotten() -> None:
    module = SmallResidualNet(8)
    module.train()
    with torch.no_grad():
        module(torch.rand(4, 3, 16, 16))
    initialise(module, torch.Generator().manual_seed(0))
    assert not module.stem[1].running_mean.any()  # type: ignore[union-attr,operator]
    assert int(module.stem[1].num_batches_tracked) == 0  # type: ignore[arg-type]
