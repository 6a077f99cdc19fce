"""Maps made again: of images that hardly changed, and of a model whose weights were replaced."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from salience.engine.random import normal, row_key, uniform
from salience.errors import MetricError
from salience.metrics.label_sensitivity import spearman, ssim, unit_scaled
from salience.metrics.metric import Again, RemakeMetric, Remaking, Seen
from salience.metrics.registry import register


@register(
    "max-sensitivity",
    summary="Largest relative change of the map when the image hardly changes",
    family="robustness",
    direction="lower",
    low=0.0,
    high=float("inf"),
    sign="raw",
    over="predicted",
    reference="Yeh et al., NeurIPS 2019 (arXiv 1901.09392)",
    details="Published: the largest norm of the difference over perturbations in a cube of radius 0.02, estimated "
    "by 10 random ones, over the norm of the map. Ours: the radius is of pixels in [0, 1] and results are cut to that "
    "range. A map of zeros has no score.",
)
@dataclass(frozen=True)
class MaxSensitivity(RemakeMetric):
    """Max-sensitivity of the predicted label's map.

    Parameters
    ----------
    radius
        Largest change of a pixel in [0, 1].
    draws
        Random changes, drawn per image.
    """

    radius: float = 0.02
    draws: int = 10

    def __post_init__(self) -> None:
        if self.draws < 1 or not 0 < self.radius <= 1:
            raise MetricError(f"draws is {self.draws}, radius {self.radius}: at least 1, and up to 1, are needed.")

    def maps(self) -> int:
        """The map itself, and one a draw."""
        return self.draws + 1

    def score(self, seen: Seen) -> Remaking:
        """Return the largest relative change (1,)."""
        keys = [row_key(seen.seed, "max-sensitivity", seen.image_id, d) for d in range(self.draws)]
        change = uniform(keys, seen.pixels.shape, seen.pixels.device).mul_(2).sub_(1).mul_(self.radius)
        moved = (seen.pixels + change.to(seen.pixels.dtype)).clamp(0, 1)
        maps = (yield Again(torch.cat([seen.pixels[None], moved]))).double()
        largest = torch.linalg.vector_norm((maps[1:] - maps[:1]).flatten(1), dim=1).amax()
        value: Tensor = largest / torch.linalg.vector_norm(maps[0])
        return value.view(1)


@register(
    "randomisation",
    summary="Similarity of the map to those of the model with its weights replaced from the output down",
    family="robustness",
    direction="lower",
    low=-1.0,
    high=1.0,
    sign="raw",
    over="predicted",
    reference="Adebayo et al., NeurIPS 2018 (arXiv 1810.03292)",
    details="Published: cascading parameter randomisation, layer by layer from the output down, Spearman's correlation "
    "or SSIM with the map of the trained model. Ours: the mean over evenly spaced numbers of layers, all of them "
    "included; weights become normal with the mean and the deviation of the tensor that they replace; the class stays "
    "the one that the trained model predicts. A map that is constant throughout has no score.",
)
@dataclass(frozen=True)
class Randomisation(RemakeMetric):
    """Cascading parameter randomisation.

    Parameters
    ----------
    stages
        Numbers of replaced layers at which the map is made.
    similarity
        ``spearman`` or ``ssim``.
    """

    stages: int = 4
    similarity: Literal["spearman", "ssim"] = "spearman"

    def __post_init__(self) -> None:
        if self.stages < 1:
            raise MetricError(f"stages is {self.stages}: 1 or more are needed.")

    def maps(self) -> int:
        """The map itself, and one a stage."""
        return self.stages + 1

    def score(self, seen: Seen) -> Remaking:
        """Return the mean similarity (1,)."""
        before = (yield Again(seen.pixels[None]))[0]
        found = []
        for stage in range(1, self.stages + 1):
            after = (yield Again(seen.pixels[None], Randomised(stage / self.stages, seen.seed)))[0]
            if self.similarity == "spearman":
                found.append(spearman(before, after))
            else:
                found.append(ssim(unit_scaled(before), unit_scaled(after)))
        kept = torch.stack(found)
        return kept[kept.isfinite()].mean().view(1)


@dataclass(frozen=True)
class Randomised:
    """A model of whose layers a share, those nearest to the output, have random weights."""

    share: float
    seed: int

    def __call__(self, module: nn.Module) -> AbstractContextManager[None]:
        """Replace the weights while inside."""
        layers = layers_from_output(module)
        return randomised(layers[: max(1, round(len(layers) * self.share))], self.seed)


def layers_from_output(module: nn.Module) -> list[tuple[str, nn.Module]]:
    """Return the modules that have parameters of their own, the last one that was registered first."""
    own = [(name, m) for name, m in module.named_modules() if any(True for _ in m.parameters(recurse=False))]
    return own[::-1]


@contextmanager
def randomised(layers: list[tuple[str, nn.Module]], seed: int) -> Iterator[None]:
    """Replace the parameters of ``layers`` by normal ones of the same mean and deviation; put them back at the end."""
    parameters = [(f"{n}.{k}", p) for n, m in layers for k, p in m.named_parameters(recurse=False)]
    before = [p.data for _, p in parameters]
    try:
        for name, p in parameters:
            drawn = normal([row_key(seed, "randomisation", name)], p.shape, p.device)[0]
            spread = p.data.float().std(correction=0)
            p.data = (p.data.float().mean() + spread * drawn).to(p.dtype)
        yield
    finally:
        for (_, p), data in zip(parameters, before, strict=True):
            p.data = data
