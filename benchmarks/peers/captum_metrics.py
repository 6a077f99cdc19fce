"""Metrics of Captum: infidelity and max-sensitivity."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from salience.engine.random import row_key, uniform

from .case import MetricCase, Score, Scored, value
from .scene import Floats, FromPixels, How, floats

DRAWS = 10
RADIUS = 0.02
PATCHES, PATCH = 32, 0.25


def scored_map(model: nn.Module, x: Tensor, target: Tensor) -> Tensor:
    """Return Captum's gradient map (N, 1, H, W) of the method that is scored."""
    import captum.attr

    found: Tensor = captum.attr.Saliency(model).attribute(x.clone(), target=target).amax(1, keepdim=True)
    return found


def moved(images: Tensor, ids: Sequence[str], draws: Sequence[int]) -> Tensor:
    """Return images (n * d, 3, H, W) changed as salience's max-sensitivity does: all draws of an image together."""
    keys = [row_key(0, "max-sensitivity", i, d) for i in ids for d in draws]
    change = uniform(keys, images.shape[1:], images.device).mul_(2).sub_(1).mul_(RADIUS)
    return (images.repeat_interleave(len(draws), 0) + change.to(images.dtype)).clamp(0, 1)


def max_sensitivity(scored: Scored, how: How) -> Score:
    """Change the images as salience does; as many images are explained together as fill a batch with their draws."""
    from captum.metrics import sensitivity_max

    model, scene = FromPixels(scored.scene.classifier).eval(), scored.scene
    targets = torch.from_numpy(scene.targets).to(scene.pixels.device)
    count = max(1, how.batch // DRAWS)

    def score() -> Floats:
        found = []
        for rows in scene.rows(count):
            x = scene.pixels[rows]
            found.append(
                sensitivity_max(
                    partial(_explained, model),
                    x,
                    perturb_func=_Draws(x, scene.ids[rows]).next,
                    n_perturb_samples=DRAWS,
                    max_examples_per_batch=len(x) * max(1, min(DRAWS, how.batch // len(x))),
                    target=targets[rows],
                )
            )
        return floats(torch.cat(found))

    return score


def _explained(model: nn.Module, inputs: Tensor | tuple[Tensor, ...], target: Tensor) -> tuple[Tensor]:
    # it hands over a tuple for the images, a tensor for the changed ones, and takes a tensor's rows for several inputs
    return (scored_map(model, inputs[0] if isinstance(inputs, tuple) else inputs, target),)


@dataclass
class _Draws:
    """Hands salience's draws to a metric that asks for some after others."""

    x: Tensor
    ids: Sequence[str]
    done: int = 0

    def next(self, expanded: Tensor, radius: float) -> Tensor:
        """Return as many draws of every image as there are copies of it."""
        first, self.done = self.done, self.done + len(expanded) // len(self.x)
        return moved(self.x, self.ids, range(first, self.done))


def patches(image_id: str, size: tuple[int, int]) -> Tensor:
    """Return where salience's infidelity removes an image's patches, bool (PATCHES, H, W)."""
    side = max(1, round(min(size) * PATCH))
    place = uniform([row_key(0, "infidelity", image_id)], (2, PATCHES))[0]
    top, left = ((place[axis] * (size[axis] - side + 1)).long().view(-1, 1, 1) for axis in (0, 1))
    y, x = torch.arange(size[0]).view(1, -1, 1), torch.arange(size[1]).view(1, 1, -1)
    return (y >= top) & (y < top + side) & (x >= left) & (x < left + side)


def infidelity(scored: Scored, how: How) -> Score:
    """Remove the same patches; the attribution is scaled to fit best. An image at a time: its draws fill the batch."""
    from captum.metrics import infidelity as captum_infidelity

    model, scene = FromPixels(scored.scene.classifier).eval(), scored.scene
    maps = torch.from_numpy(scored.maps).to(scene.pixels)

    def one(index: int) -> Tensor:
        x = scene.pixels[index : index + 1]
        gone = patches(scene.ids[index], scene.size).to(x.device).unsqueeze(1)
        left = list(gone.split(1))
        mean = x.mean((2, 3), keepdim=True)

        def perturb(expanded: Tensor) -> tuple[Tensor, Tensor]:
            here = torch.cat([left.pop(0) for _ in expanded])
            return here.expand_as(expanded).to(x.dtype), torch.where(here, mean, expanded)

        found: Tensor = captum_infidelity(
            model,
            perturb,
            x,
            (maps[index] / 3).expand_as(x),  # the sum over the channels is the map
            target=int(scene.targets[index]),
            n_perturb_samples=PATCHES,
            max_examples_per_batch=how.batch,
            normalize=True,
        )
        return found

    return lambda: floats(torch.cat([one(i) for i in range(len(scene))]))


def unshared(found: Floats, scored: Scored) -> Floats:
    """Undo salience's division by the mean squared change of the logit, which is computed here in a plain way."""
    scene = scored.scene
    spread = []
    with torch.no_grad():
        for index in range(len(scene)):
            x, target = scene.pixels[index : index + 1], int(scene.targets[index])
            gone = patches(scene.ids[index], scene.size).to(x.device).unsqueeze(1)
            hidden = torch.where(gone, x.mean((2, 3), keepdim=True), x)
            change = scene.classifier.logits(x)[:, target] - scene.classifier.logits(hidden)[:, target]
            spread.append(float(change.double().square().mean()))
    out: Floats = found * np.array(spread)
    return out


CASES = (
    MetricCase(
        ("max-sensitivity",),
        "sensitivity_max",
        "captum",
        max_sensitivity,
        value("max-sensitivity"),
        remakes=1 + DRAWS,
        remark="values with salience's draws",
    ),
    MetricCase(
        ("infidelity",),
        "infidelity, normalised",
        "captum",
        infidelity,
        value("infidelity", unshared),
        calls=PATCHES,
        remark="values with salience's draws, times the mean squared change, by which salience divides",
    ),
)
