"""Where methods look: midpoints of paths, clouds of noise, blurred baselines."""

from __future__ import annotations

import pytest
import torch

from salience.engine.points import Clean, Noise, Path
from salience.errors import MethodError

IMAGES = torch.rand(2, 3, 16, 20, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
IDS = ("a", "b")


def test_path_goes_through_midpoints() -> None:
    path = Path(4, ("black",))
    prepared = path.prepare(IMAGES)
    for k, share in enumerate((0.125, 0.375, 0.625, 0.875)):
        torch.testing.assert_close(path.at(IMAGES, k, IDS, 0, prepared), share * IMAGES, rtol=1e-12, atol=1e-15)


def test_several_baselines_share_the_steps() -> None:
    path = Path(4, ("black", "white"))
    prepared = path.prepare(IMAGES)
    for k, (start, share) in enumerate([(0, 0.25), (0, 0.75), (1, 0.25), (1, 0.75)]):
        expected = start + share * (IMAGES - start)
        torch.testing.assert_close(path.at(IMAGES, k, IDS, 0, prepared), expected, rtol=1e-12, atol=1e-15)
        assert float(path.start(k, prepared).mean()) == start


@pytest.mark.parametrize(("steps", "baselines"), [(0, ("black",)), (3, ("black", "white")), (1, ("black", "white"))])
def test_steps_must_fit(steps: int, baselines: tuple[str, ...]) -> None:
    with pytest.raises(MethodError, match=r"steps is \d"):
        Path(steps, baselines)


def test_noise_has_the_stated_level_and_is_the_image_s_own() -> None:
    noise = Noise(3, 0.2)
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1)) * torch.tensor([1.0, 0.5]).view(
        2, 1, 1, 1
    )
    at = noise.at(images, 1, IDS, 0, ())
    spread = images.flatten(1).amax(1) - images.flatten(1).amin(1)
    off = (at - images).flatten(1)
    torch.testing.assert_close(off.std(1), 0.2 * spread, rtol=0.03, atol=0)
    assert off.mean().abs() < 0.01
    assert torch.equal(noise.at(images[1:], 1, IDS[1:], 0, ()), at[1:])
    assert not torch.equal(noise.at(images, 2, IDS, 0, ()), at)
    assert not torch.equal(noise.at(images, 1, IDS, 1, ()), at)


def test_a_flat_image_gets_no_noise() -> None:
    flat = torch.full((1, 3, 4, 4), 0.5)
    assert torch.equal(Noise(1, 0.5).at(flat, 0, ("a",), 0, ()), flat)


def test_equal_points_are_shared() -> None:
    assert Clean() == Clean()
    assert Path(4, ("black",)) == Path(4, ("black",))
    assert len({Noise(3, 0.2), Noise(3, 0.2), Noise(4, 0.2)}) == 2
    with pytest.raises(MethodError):
        Noise(0, 0.1)
    with pytest.raises(MethodError):
        Noise(1, -0.1)
