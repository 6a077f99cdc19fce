"""Methods that average gradients over many points: along a path, or in a cloud of noise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from salience.engine.method import Evidence, Gradient, PointMethod, Want
from salience.engine.points import Noise, Path, Points
from salience.methods.channels import combine, dot
from salience.methods.registry import register


@register(
    "ig",
    summary="integrated gradients: shares of all pixels that add up to the change of the output from a baseline",
    family="paths",
    signed=True,
    reference="Sundararajan et al. 2017, arXiv 1703.01365",
    details="Published: the path integral, black baseline for images. Ours: midpoint rule, mean over several "
    "baselines ('black+white'), the completeness gap stored beside every map.",
)
@dataclass(frozen=True)
class IntegratedGradients(PointMethod):
    """``sum_k (x - b)_k mean_s g(b + s (x - b))_k`` at the midpoints of equal parts of the path.

    Stores ``output_change`` = S(x) - mean S(b) and ``completeness_gap`` = sum of the map - output_change, both in
    units of the explained scalar.

    Parameters
    ----------
    steps
        Gradients for each image, over all baselines together.
    baseline
        ``black``, ``grey``, ``white``, ``blur``, or several joined by ``+``, whose maps are averaged.
    """

    steps: int = 32
    baseline: str = "black"

    def __post_init__(self) -> None:
        _ = self.points  # the points check the numbers

    @property
    def points(self) -> Points:
        """The path or paths."""
        return self._path

    @property
    def _path(self) -> Path:
        return Path(self.steps, self.anchors)

    @property
    def anchors(self) -> tuple[str, ...]:
        """The baselines: the completeness gap needs the scalar there."""
        return tuple(self.baseline.split("+"))

    @property
    def wants(self) -> tuple[Want, ...]:
        """The target's gradient."""
        return (Gradient(),)

    def look(self, seen: Evidence) -> Tensor:
        """Return one step's share of the map."""
        return dot(seen.gradient(), seen.images - self._path.start(seen.draw, seen.prepared))

    def diagnose(self, maps: Tensor, score: Tensor, anchor_scores: Tensor) -> dict[str, Tensor]:
        """Return the change of the scalar and what the map's sum misses of it."""
        change = score - anchor_scores.mean(0)
        return {"output_change": change, "completeness_gap": maps.flatten(1).sum(1) - change}


@register(
    "smoothgrad",
    summary="mean gradient over noisy copies of the image",
    family="paths",
    signed=False,
    reference="Smilkov et al. 2017, arXiv 1706.03825",
    details="Published: mean of the gradients at 50 noisy copies, noise of 10-20 % of the image's range, absolute "
    "value and maximum over channels for the picture. 'squared' (Hooker et al. 2019) averages squares.",
    stochastic=True,
)
@dataclass(frozen=True)
class SmoothGrad(PointMethod):
    """``max_k |mean_j g(x + noise_j)|``; the noise is drawn per image.

    Parameters
    ----------
    samples
        Noisy copies of each image.
    noise
        Standard deviation as a share of the image's own range of values.
    channels
        ``max`` (published), ``sum``, or ``signed``: the sum with its sign.
    squared
        Average the squared gradients instead; the map is then never signed.
    """

    samples: int = 25
    noise: float = 0.15
    channels: Literal["max", "sum", "signed"] = "max"
    squared: bool = False

    def __post_init__(self) -> None:
        _ = self.points

    @property
    def signed(self) -> bool:
        """Signed only with ``channels="signed"`` and plain gradients."""
        return self.channels == "signed" and not self.squared

    @property
    def points(self) -> Points:
        """The cloud."""
        return Noise(self.samples, self.noise)

    @property
    def wants(self) -> tuple[Want, ...]:
        """The target's gradient."""
        return (Gradient(),)

    def look(self, seen: Evidence) -> Tensor:
        """Return one copy's gradient, or its square."""
        return seen.gradient().square() if self.squared else seen.gradient()

    def finish(self, mean: Tensor) -> Tensor:
        """Combine the channels of the mean."""
        if self.channels == "signed":
            return mean.sum(1)
        return combine(mean.abs(), self.channels)
