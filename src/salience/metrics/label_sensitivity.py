"""Whether a map depends on its label: similarity of two labels' maps, and what a mask's shape alone gives away."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from salience.engine.fills import gaussian_blur
from salience.engine.masked import Packer, answers, falling_ranks, tie_order
from salience.engine.random import row_key, uniform
from salience.errors import MetricError
from salience.metrics.backgrounds import other_images
from salience.metrics.metric import MapMetric, ProbeMetric, Seen, undefined
from salience.metrics.registry import register

_C1, _C2 = 0.01**2, 0.03**2
_SIGMA = 1.5


def ssim(a: Tensor, b: Tensor) -> Tensor:
    """Return the structural similarity () of two maps (H, W) in [0, 1]: Gaussian window of 1.5 pixels, in [-1, 1].

    Reference: Wang et al. 2004, with their constants; the window is cut at three sigma, borders are replicated.
    """
    x, y = a.double()[None, None], b.double()[None, None]
    blurred = gaussian_blur(torch.cat([x, y, x * x, y * y, x * y], 1), _SIGMA)[0]
    mx, my, xx, yy, xy = blurred.unbind(0)
    vx, vy, cov = xx - mx * mx, yy - my * my, xy - mx * my
    value = (2 * mx * my + _C1) * (2 * cov + _C2) / ((mx**2 + my**2 + _C1) * (vx + vy + _C2))
    return value.mean().clamp(-1, 1)


def spearman(a: Tensor, b: Tensor) -> Tensor:
    """Return Spearman's rank correlation () of two maps (H, W), ties at their mean rank; NaN where one is constant."""
    x, y = (_mean_ranks(v.flatten()) for v in (a, b))
    x, y = x - x.mean(), y - y.mean()
    return ((x * y).sum() / (x.square().sum() * y.square().sum()).sqrt()).clamp(-1, 1)


def _mean_ranks(values: Tensor) -> Tensor:
    _, place, count = torch.unique(values, return_inverse=True, return_counts=True)
    middle: Tensor = count.cumsum(0).double() - (count.double() + 1) / 2
    return middle[place]


def unit_scaled(values: Tensor) -> Tensor:
    """Scale a map to [0, 1]; a constant one becomes 0."""
    span = values.max() - values.min()
    return (values - values.min()) / span if bool(span > 0) else torch.zeros_like(values)


@register(
    "random-logit",
    summary="Similarity of the maps of the predicted label and of another one",
    family="label sensitivity",
    direction="lower",
    low=-1.0,
    high=1.0,
    sign="raw",
    over="image",
    reference="Sixt et al., ICML 2020 (arXiv 1912.09818)",
    details="Published: SSIM of the maps of the label and of a random other one. Ours: the runner-up by default, or "
    "one drawn from the wrong labels of the set; SSIM of maps scaled to [0, 1], or Spearman's correlation. "
    "1 means that the map ignores the label.",
)
@dataclass(frozen=True)
class RandomLogit(MapMetric):
    """Similarity of two labels' maps.

    Parameters
    ----------
    similarity
        ``ssim`` or ``spearman``.
    other
        ``runner-up``, or ``random``: drawn per image from the wrong labels.
    """

    similarity: Literal["ssim", "spearman"] = "ssim"
    other: Literal["runner-up", "random"] = "runner-up"

    def score(self, seen: Seen) -> Tensor:
        """Return the similarity; NaN where there is one map only."""
        wrong = len(seen.maps) - 1
        if not wrong:
            return undefined()
        at = 1
        if self.other == "random":
            draw = float(uniform([row_key(seen.seed, "random logit", seen.image_id)], (1,)))
            at = 1 + int(draw * wrong)
        a, b = seen.maps[0], seen.maps[at]
        if self.similarity == "spearman":
            return spearman(a, b)
        return ssim(unit_scaled(a), unit_scaled(b))


@register(
    "content-free",
    summary="Probability that a mask's shape alone gives its label, laid over images of something else",
    family="control",
    direction="lower",
    low=0.0,
    high=1.0,
    sign="raw",
    over="predicted",
    reference="this project; the concern is that of Jethani et al., AISTATS 2023 (arXiv 2302.12893)",
    details="Ours: the most salient pixels show one other image and the rest shows a second one (of the dataset, or "
    "flat random colours), mean over evenly spaced shares of pixels and over draws, less what the two images give by "
    "themselves, clipped at 0. High values mean that the shape of the mask, not what it shows, brings the label about.",
)
@dataclass(frozen=True)
class ContentFree(ProbeMetric):
    """Content-free control of the predicted label's map.

    Parameters
    ----------
    content
        ``dataset``: other images of the dataset; ``colours``: flat colours, which show the outline alone.
    points
        Shares of pixels: 1 / (points + 1), 2 / (points + 1), ...
    draws
        Pairs of images.
    """

    content: Literal["dataset", "colours"] = "dataset"
    points: int = 7
    draws: int = 2

    def __post_init__(self) -> None:
        if self.points < 1 or self.draws < 1:
            raise MetricError(f"points is {self.points}, draws {self.draws}: 1 or more are needed.")

    @property
    def needs_pool(self) -> bool:
        """Whether the images are of the dataset."""
        return self.content == "dataset"

    def rows(self, labels: int, size: tuple[int, int]) -> int:
        """Every share under every draw, and both images as they are."""
        return self.draws * (self.points + 2)

    def ask(self, seen: Seen, packer: Packer) -> Callable[[], Tensor]:
        """Ask for the pairs under the masks, and for each image alone."""
        pixels = seen.maps[0].numel()
        ties = tie_order([seen.image_id], pixels, seen.seed, seen.maps.device)
        ranks = falling_ranks(seen.maps[:1], ties)
        shown, rest = self._pairs(seen)
        counts = [0, *(round(pixels * (j + 1) / (self.points + 1)) for j in range(self.points)), pixels]
        rows = torch.tensor(counts, device=ranks.device).repeat(self.draws)
        draw = torch.arange(self.draws, device=ranks.device).repeat_interleave(len(counts))
        found: list[Tensor] = []

        def write(inputs: Tensor, cut: slice) -> None:
            inside = (ranks < rows[cut].view(-1, 1, 1)).unsqueeze(1)
            inputs.copy_(torch.where(inside, shown[draw[cut]], rest[draw[cut]]))

        def take(logits: Tensor, _: slice) -> None:
            found.append(answers(logits, seen.labels[:1].expand(len(logits), 1), ("full",))["full"][:, 0])

        packer.add(len(rows), write, take)

        def value() -> Tensor:
            p = torch.cat(found).view(self.draws, -1)
            alone = (p[:, 0] + p[:, -1]) / 2
            return (p[:, 1:-1].mean(1) - alone).mean().clamp_min(0).view(1)

        return value

    def _pairs(self, seen: Seen) -> tuple[Tensor, Tensor]:
        """Return the images inside and outside of the mask, (draws, 3, H, W) each."""
        if self.content == "colours":
            keys = [row_key(seen.seed, "content", seen.image_id, d) for d in range(2 * self.draws)]
            drawn = uniform(keys, (3, 1, 1), seen.pixels.device).to(seen.pixels.dtype)
            drawn = drawn.expand(-1, *seen.pixels.shape)
        else:
            one, ids = seen.pixels[None], [seen.image_id]
            drawn = torch.cat([other_images(one, ids, seen.seed, d, seen.pool) for d in range(2 * self.draws)])
        return drawn[0::2], drawn[1::2]
