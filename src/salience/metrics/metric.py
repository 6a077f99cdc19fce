"""What a metric is: what it needs to see of a map, and how that becomes a number.

A metric is a frozen dataclass whose fields are its settings. There are four kinds. A :class:`CurveMetric` reads what
the model answered along a masked sweep; all of them share one sweep for each background. A :class:`MapMetric` looks at
the map alone. A :class:`ProbeMetric` asks the model questions of its own, row by row, through the same packed calls.
A :class:`RemakeMetric` has the method's maps made again. Metrics never call the model.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Literal, Protocol

import torch
from torch import Tensor, nn

from salience.engine.adversary import Adversary
from salience.engine.masked import Order, Output, Packer
from salience.engine.pool import Pool
from salience.errors import MetricError
from salience.models.classifier import Classifier

Direction = Literal["higher", "lower", "neither"]
Sign = Literal["raw", "absolute", "positive", "none"]
Over = Literal["predicted", "wrong", "image"]


@dataclass(frozen=True)
class Traits:
    """What a metric is, for tables, the command line and the page.

    Attributes
    ----------
    direction
        Whether higher or lower values are better, or neither.
    low, high
        The range that values are in; infinite where there is no bound.
    sign
        What is scored of a signed map: the ``raw`` values (negative ones are the least salient), the ``absolute``
        ones, the ``positive`` part, or ``none``: the value is the model's own, and the same for all maps.
    over
        Whose values make an image's number: the ``predicted`` label's, the mean over the ``wrong`` labels, or one
        value of the ``image``.
    details
        What is published, what is inferred, what is this project's own.
    version
        Raised whenever the numbers change: scores of the old version are then computed again.
    """

    name: str
    summary: str
    family: str
    direction: Direction
    low: float
    high: float
    sign: Sign
    over: Over
    reference: str
    details: str
    version: int = 1


class Metric(ABC):
    """Base of every metric: a frozen dataclass of settings with class-level :attr:`traits`."""

    traits: ClassVar[Traits]

    @property
    def needs_pool(self) -> bool:
        """Whether it draws other images of the dataset."""
        return False

    def check(self, classifier: Classifier) -> None:  # noqa: B027  # most metrics ask for nothing
        """Refuse a classifier that cannot be scored so, before any work is done."""

    def settings(self) -> dict[str, Any]:
        """Return the settings by name."""
        return {f.name: getattr(self, f.name) for f in fields(self)}  # type: ignore[arg-type]  # all are dataclasses

    @abstractmethod
    def cost(self, labels: int, size: tuple[int, int]) -> str:
        """Return in words how many forward passes an image and method take, for a set of so many labels."""


@dataclass(frozen=True)
class Labelled:
    """A metric with its settings, under the label that names it in tables."""

    label: str
    metric: Metric


# ---------------------------------------------------------------------- curves


@dataclass(frozen=True)
class Need:
    """A curve that a metric reads.

    Attributes
    ----------
    order
        ``keep`` or ``delete`` the most salient pixels.
    output
        Which probability.
    step
        Pixels between two points; the last point is the whole image.
    labels
        ``predicted``: of the predicted label's map alone; ``all``: of every label's.
    """

    order: Order
    output: Output
    step: int
    labels: Literal["predicted", "all"]

    def counts(self, pixels: int) -> tuple[int, ...]:
        """Return the numbers of pixels from 0 to all."""
        return (*range(0, pixels, self.step), pixels)


@dataclass(frozen=True)
class Curves:
    """Outputs of N images with sets of T labels, the predicted one first.

    Attributes
    ----------
    clean
        Output of every label at the whole image, (N, T).
    """

    clean: Mapping[Output, Tensor]
    values: Mapping[tuple[Order, Output], Tensor]
    counts: Mapping[Order, tuple[int, ...]]
    pixels: int

    def read(self, need: Need) -> Tensor:
        """Return a curve (N, T, P), P points from none to all pixels, NaN for labels that have no map."""
        own = self.counts[need.order]
        at = [own.index(k) for k in need.counts(self.pixels)]
        return self.values[need.order, need.output][:, :, at]


class CurveMetric(Metric):
    """A metric that reads curves of masked images: one number for each background."""

    @abstractmethod
    def needs(self, size: tuple[int, int]) -> tuple[Need, ...]:
        """Return the curves to read at an input of (height, width)."""

    @abstractmethod
    def score(self, curves: Curves, size: tuple[int, int]) -> Tensor:
        """Return values (N,) of images or (N, T) of labels; NaN where there is none by definition."""

    def cost(self, labels: int, size: tuple[int, int]) -> str:
        """Return the forward passes of the sweep that it reads; metrics with the same needs share it."""
        rows = 0
        for need in self.needs(size):
            inner = len(need.counts(size[0] * size[1])) - 2
            rows += inner * (labels if need.labels == "all" else 1)
        return f"{rows} a background, shared"


# ---------------------------------------------------------------------- maps, and questions


def _no_search(adversary: Adversary) -> Tensor:
    raise MetricError("The largest probability of wrong labels is asked for, and nobody searches for it here.")


@dataclass(frozen=True, eq=False)
class Seen:
    """One method's maps of one image.

    Attributes
    ----------
    image_id, seed
        For metrics that draw: see :func:`salience.engine.random.row_key`.
    pixels
        (3, H, W) in [0, 1].
    logits
        (C,) of the whole image.
    labels
        The label set (T,), the predicted one first, then falling.
    maps
        Raw maps at the size of the input, float32 (T', H, W): of the first T' labels of the set; T' may be 1.
    boxes
        Objects in pixels of the input, (B, 4) as x0, y0, x1, y1; B is 0 where none are known.
    pool
        Images of the dataset, for metrics that say ``needs_pool``.
    reach
        Returns the largest probability that an adversary finds for every wrong label, float64 (T - 1,). To be called
        when the value is made, by metrics whose :meth:`ProbeMetric.searches` names the adversary: the search is made
        once for all methods.
    """

    image_id: str
    seed: int
    pixels: Tensor
    logits: Tensor
    labels: Tensor
    maps: Tensor
    boxes: Tensor
    pool: Pool | None = None
    reach: Callable[[Adversary], Tensor] = _no_search


class MapMetric(Metric):
    """A metric of the map alone."""

    @abstractmethod
    def score(self, seen: Seen) -> Tensor:
        """Return a value () of the image, or values (k,) of the first k labels; NaN where there is none."""

    def cost(self, labels: int, size: tuple[int, int]) -> str:
        """Return nothing: the model is not asked."""
        return "none"


class ProbeMetric(Metric):
    """A metric that asks the model questions of its own."""

    @abstractmethod
    def rows(self, labels: int, size: tuple[int, int]) -> int:
        """Return how many rows :meth:`ask` adds for one image and method."""

    @abstractmethod
    def ask(self, seen: Seen, packer: Packer) -> Callable[[], Tensor]:
        """Add rows to the packer; return what makes the value (as of :meth:`MapMetric.score`) of the answers.

        Where an answer is not finite, the image fails and no value is asked for.
        """

    def searches(self) -> tuple[Adversary, ...]:
        """Return the adversaries whose finds it reads."""
        return ()

    def cost(self, labels: int, size: tuple[int, int]) -> str:
        """Return the forward passes of its own questions."""
        return str(self.rows(labels, size))


class Change(Protocol):
    """A changed model. Changes that are equal are made once, for the maps of all images that ask for them."""

    def __call__(self, module: nn.Module) -> AbstractContextManager[None]:
        """Change the model while inside; it is left as it was found."""
        ...

    def __hash__(self) -> int:
        """Return the same for equal changes."""
        ...


@dataclass(frozen=True, eq=False)
class Again:
    """Maps that are to be made, for the image's predicted label.

    Attributes
    ----------
    pixels
        (R, 3, H, W) in [0, 1].
    change
        What is done to the model first; None leaves it as it is.
    """

    pixels: Tensor
    change: Change | None = None


Remaking = Generator[Again, Tensor, Tensor]


class RemakeMetric(Metric):
    """A metric that compares a method's map with maps made anew: it scores methods, not stored maps."""

    remakes: ClassVar[bool] = True

    @abstractmethod
    def maps(self) -> int:
        """Return how many maps are made for one image and method."""

    @abstractmethod
    def score(self, seen: Seen) -> Remaking:
        """Yield what maps are to be made of, is sent them (R, h, w), and return a value (1,) of the predicted label's.

        Images are scored together, so that their maps fill batches. Where a map is not finite, the image fails and
        nothing more is sent.
        """

    def cost(self, labels: int, size: tuple[int, int]) -> str:
        """Return how many maps it makes: each costs what the method does."""
        return f"those of {self.maps()} maps"


# ---------------------------------------------------------------------- helpers


def step_of(size: tuple[int, int], points: int, rows: float | None) -> int:
    """Return the step in pixels: of so many image ``rows`` where given, else of the image over ``points``, upwards.

    Raises
    ------
    MetricError
        When there would be no step, or no point.
    """
    if (rows is not None and rows <= 0) or points < 1:
        raise MetricError(f"step_rows is {rows}, points {points}: a step above 0 and at least 1 point are needed.")
    pixels = size[0] * size[1]
    return max(1, round(rows * size[1])) if rows is not None else -(-pixels // points)


def signed_part(maps: Tensor, sign: Sign) -> Tensor:
    """Return what a metric scores of maps (..., H, W)."""
    if sign == "absolute":
        return maps.abs()
    return maps.clamp_min(0) if sign == "positive" else maps


def undefined() -> Tensor:
    """Return the value of what has none by definition."""
    return torch.tensor(float("nan"), dtype=torch.float64)
