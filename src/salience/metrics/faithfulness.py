"""Infidelity: whether a map's sum over a patch tells how much the output changes when the patch goes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from salience.engine.masked import Packer
from salience.engine.random import row_key, uniform
from salience.errors import MetricError
from salience.metrics.metric import ProbeMetric, Seen
from salience.metrics.registry import register


@register(
    "infidelity",
    summary="Squared error of the map's sums over patches as a forecast of what their removal costs the logit",
    family="perturbation",
    direction="lower",
    low=0.0,
    high=1.0,
    sign="raw",
    over="predicted",
    reference="Yeh et al., NeurIPS 2019 (arXiv 1901.09392)",
    details="Published: the expected squared difference between the product of perturbation and attribution and the "
    "change of the output, square removal, the attribution scaled to fit best. Ours: patches set to the image's own "
    "mean colour; maps have one value a pixel, so the sum over the patch is the forecast; the error is over the mean "
    "squared change, so that 1 is a map that forecasts nothing.",
)
@dataclass(frozen=True)
class Infidelity(ProbeMetric):
    """Infidelity of the predicted label's map to the logit.

    Parameters
    ----------
    draws
        Patches, drawn per image.
    patch
        Side of a patch as a share of the shorter side of the image.
    """

    draws: int = 32
    patch: float = 0.25

    def __post_init__(self) -> None:
        if self.draws < 2 or not 0 < self.patch <= 1:
            raise MetricError(
                f"draws is {self.draws}, patch {self.patch}: at least 2, and a share up to 1, are needed."
            )

    def rows(self, labels: int, size: tuple[int, int]) -> int:
        """One row a patch."""
        return self.draws

    def ask(self, seen: Seen, packer: Packer) -> Callable[[], Tensor]:
        """Ask for the image without each patch."""
        h, w = seen.pixels.shape[1:]
        side = max(1, round(min(h, w) * self.patch))
        place = uniform([row_key(seen.seed, "infidelity", seen.image_id)], (2, self.draws))[0]
        top, left = (place[0] * (h - side + 1)).long(), (place[1] * (w - side + 1)).long()
        y, x = torch.arange(h).view(1, -1, 1), torch.arange(w).view(1, 1, -1)
        top, left = top.view(-1, 1, 1), left.view(-1, 1, 1)
        gone = ((y >= top) & (y < top + side) & (x >= left) & (x < left + side)).to(seen.maps.device)
        mean = seen.pixels.mean((1, 2), keepdim=True)
        found: list[Tensor] = []
        label = int(seen.labels[0])

        def write(inputs: Tensor, cut: slice) -> None:
            inputs.copy_(torch.where(gone[cut].unsqueeze(1), mean, seen.pixels))

        def take(logits: Tensor, _: slice) -> None:
            found.append(logits[:, label].double())

        packer.add(self.draws, write, take)
        forecast = (seen.maps[0].double() * gone).sum((1, 2))

        def value() -> Tensor:
            change = seen.logits[label].double() - torch.cat(found)
            spread = forecast.square().sum()
            scale = (forecast * change).sum() / spread if bool(spread > 0) else torch.zeros_like(spread)
            error = (change - scale * forecast).square().sum() / change.square().sum()
            return error.clamp(0, 1).view(1) if bool(error.isfinite()) else error.view(1)

        return value
