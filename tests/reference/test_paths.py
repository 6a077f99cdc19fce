"""Integrated gradients and SmoothGrad against their formulas, and in closed form on a linear model."""

from __future__ import annotations

import formulas as f
import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

import salience
from salience.engine.random import normal, row_key
from salience.testing.models import linear_classifier, small_classifier

SIZE = 16


def start_of(name: str, image: torch.Tensor) -> torch.Tensor:
    if name == "blur":
        blurred = [gaussian_filter(c.numpy(), SIZE / 8, mode="nearest", truncate=3) for c in image]
        return torch.from_numpy(np.stack(blurred))
    return torch.full_like(image, {"black": 0.0, "grey": 0.5, "white": 1.0}[name])


@pytest.mark.parametrize("output", ["logit", "prob", "logprob", "margin"])
@pytest.mark.parametrize(
    ("baseline", "steps"),
    [("black", 5), ("grey", 4), ("white", 4), ("blur", 4), ("black+white", 6), ("blur+grey+black", 6)],
)
def test_integrated_gradients(baseline: str, steps: int, output: str) -> None:
    classifier = small_classifier(dtype=torch.float64)
    images = f.pixels(3, SIZE)
    form = f"ig:steps={steps}:baseline={baseline}"
    maps = f.engine(classifier, images, [form], output=output, batch=4).maps[0]
    found = f.engine(classifier, images, [form], output=output, batch=7).maps[0]
    torch.testing.assert_close(found.values, maps.values, rtol=1e-9, atol=1e-12)
    parts = baseline.split("+")
    each = steps // len(parts)
    for i, image in enumerate(images):
        t = int(f.logits(classifier, image).argmax())
        total = torch.zeros(SIZE, SIZE, dtype=torch.float64)
        ends = []
        for name in parts:
            b = start_of(name, image)
            ends.append(float(f.scalar(output, f.logits(classifier, b).detach(), t)))
            for k in range(each):
                s = (k + 0.5) / each  # midpoints
                total += ((image - b) * f.gradient(classifier, b + s * (image - b), t, output)).sum(0)
        expected = total / steps
        scale = float(expected.abs().max())
        torch.testing.assert_close(maps.values[i, 0], expected, rtol=1e-9, atol=1e-9 * scale)
        change = float(f.scalar(output, f.logits(classifier, image).detach(), t)) - np.mean(ends)
        assert float(maps.diagnostics["output_change"][i, 0]) == pytest.approx(change, rel=1e-9, abs=1e-12)
        gap = float(expected.sum()) - change
        assert float(maps.diagnostics["completeness_gap"][i, 0]) == pytest.approx(gap, rel=1e-6, abs=1e-12)


def test_gap_closes_with_steps() -> None:
    classifier = small_classifier(dtype=torch.float64)
    images = f.pixels(3, SIZE)
    gaps = [
        float(f.engine(classifier, images, [f"ig:steps={n}"]).maps[0].diagnostics["completeness_gap"].abs().max())
        for n in (2, 8, 64)
    ]
    assert gaps[2] < gaps[0] / 5


def test_linear_model_is_complete_exactly() -> None:
    classifier, w = linear_classifier(dtype=torch.float64)
    images = f.pixels(3, 8)
    for base, value in (("black", 0.0), ("white", 1.0), ("grey", 0.5)):
        maps = f.engine(classifier, images, [f"ig:steps=3:baseline={base}"], target="class:1").maps[0]
        expected = ((images.numpy() - value) * w[1]).sum(1)
        np.testing.assert_allclose(maps.values[:, 0].numpy(), expected, rtol=1e-12, atol=1e-12)
        assert maps.diagnostics["completeness_gap"].abs().max() < 1e-12


def test_gap_reaches_the_user() -> None:
    classifier, _ = linear_classifier()
    maps = salience.explain(classifier, f.pixels(3, 8).float(), "ig", steps=4)
    assert set(maps.diagnostics) == {"completeness_gap", "output_change"}
    np.testing.assert_allclose(maps.diagnostics["completeness_gap"], 0, atol=1e-4)
    np.testing.assert_allclose(maps.values.sum((1, 2)), maps.diagnostics["output_change"], atol=1e-4)


@pytest.mark.parametrize("target", ["predicted", "all"])
@pytest.mark.parametrize(
    "form", ["", ":channels=sum", ":channels=signed", ":squared=true", ":squared=true:channels=sum"]
)
def test_smoothgrad_with_the_same_noise(form: str, target: str) -> None:
    classifier = small_classifier(dtype=torch.float64)
    images = f.pixels(3, SIZE) * 0.8
    samples, level, seed = 4, 0.2, 3
    found = f.engine(
        classifier, images, [f"smoothgrad:samples={samples}:noise={level}{form}"], target=target, seed=seed, batch=6
    )
    for i, image in enumerate(images):
        sigma = level * float(image.max() - image.min())
        for column, t in enumerate(found.targets[i].tolist()):
            slopes = []
            for k in range(samples):
                noise = normal([row_key(seed, "noise", f.names(3)[i], k)], image.shape)[0].double()
                slopes.append(f.gradient(classifier, image + sigma * noise, t))
            stack = torch.stack(slopes)
            mean = (stack**2).mean(0) if "squared" in form else stack.mean(0)
            if "signed" in form:
                expected = mean.sum(0)
            else:
                expected = f.channels(mean.abs(), "sum" if "channels=sum" in form else "max")
            scale = float(expected.abs().max())
            torch.testing.assert_close(found.maps[0].values[i, column], expected, rtol=1e-9, atol=1e-9 * scale)


def test_smoothgrad_without_noise_is_the_gradient() -> None:
    classifier = small_classifier(dtype=torch.float64)
    images = f.pixels(2, SIZE)
    smooth, plain = f.engine(classifier, images, ["smoothgrad:samples=3:noise=0", "gradient"]).maps
    torch.testing.assert_close(smooth.values, plain.values, rtol=1e-12, atol=1e-15)
