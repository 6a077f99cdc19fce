"""What a method is: where it looks, what it wants to know there, and how that becomes a map.

A method is a frozen dataclass whose fields are its settings. The engine evaluates the model at the method's
:attr:`~Method.points`, collects what it :attr:`~Method.wants`, hands it to :meth:`~Method.look`, averages what comes
back over the points, and lets :meth:`~Method.finish` make the map. Methods never call the model: so methods that look
at the same points share passes, and every pass is batched, counted and bounded in one place.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Literal

from torch import Tensor, nn

from salience.engine.points import Clean, Points
from salience.engine.scalars import Output
from salience.models.layers import Layer


# ---------------------------------------------------------------------- what can be known at a point
@dataclass(frozen=True)
class Gradient:
    """The gradient of the target's scalar by the pixels: (N, 3, H, W)."""


@dataclass(frozen=True)
class Contrast:
    """The gradient of the target's scalar less a mean of those of the classes: (N, 3, H, W), in one backward pass.

    ``weights``: ``uniform`` over all classes, ``probability`` over all classes, or ``rivals``: probability over
    all classes but the target.
    """

    weights: Literal["uniform", "probability", "rivals"] = "uniform"


@dataclass(frozen=True)
class Rivals:
    """The largest and the smallest gradient among the target's rivals: two of (N, 3, H, W).

    ``which``: ``all`` classes but the target; ``sample``: the 10 most probable and 10 random others, drawn per
    image; ``auto``: all up to 20 classes, the sample beyond.
    """

    which: Literal["auto", "all", "sample"] = "auto"


@dataclass(frozen=True)
class Activation:
    """The activations of a layer and the gradient by them: two of (N, K, h, w). ``None`` finds the layer."""

    layer: str | None = None


Want = Gradient | Contrast | Rivals | Activation


@dataclass(frozen=True)
class Evidence:
    """What the engine found at one point of each image, for one target class.

    Attributes
    ----------
    images, inputs
        The clean images and the points themselves, (N, 3, H, W), pixels in [0, 1].
    draw
        Number of the point.
    target
        Class explained, (N,).
    score
        The scalar at the point, (N,).
    prepared
        What the method's points have in common, see :meth:`~salience.engine.points.Points.prepare`.
    """

    images: Tensor
    inputs: Tensor
    draw: int
    target: Tensor
    score: Tensor
    found: Mapping[Want, tuple[Tensor, ...]]
    prepared: tuple[Tensor, ...] = ()

    def gradient(self) -> Tensor:
        """Return what :class:`Gradient` asks for."""
        return self.found[Gradient()][0]

    def pair(self, want: Rivals | Activation) -> tuple[Tensor, Tensor]:
        """Return the two tensors that ``want`` asks for."""
        first, second = self.found[want]
        return first, second

    def one(self, want: Contrast) -> Tensor:
        """Return the tensor that ``want`` asks for."""
        return self.found[want][0]


# ---------------------------------------------------------------------- what a method says of itself
@dataclass(frozen=True)
class Traits:
    """What a method is, for tables, the command line and the page.

    ``details`` says which parts are published, which inferred, which this project's own. ``version`` is raised
    whenever the numbers change: results of the old version are then computed again.
    """

    name: str
    summary: str
    family: str
    signed: bool
    reference: str
    details: str = ""
    stochastic: bool = False
    version: int = 1


class Method(ABC):
    """Base of every method: a frozen dataclass of settings with class-level :attr:`traits`."""

    traits: ClassVar[Traits]

    @property
    def signed(self) -> bool:
        """Whether the maps have negative values that mean something. A setting may decide it."""
        return self.traits.signed

    @property
    def output(self) -> Output:
        """The scalar that is explained where the user names none."""
        return "logit"

    @property
    def needs_pool(self) -> bool:
        """Whether the maps depend on other images of the dataset. A setting may decide it."""
        return False

    def settings(self) -> dict[str, Any]:
        """Return the settings by name."""
        return {f.name: getattr(self, f.name) for f in fields(self)}  # type: ignore[arg-type]  # all are dataclasses


@dataclass(frozen=True)
class Labelled:
    """A method with its settings, under the label that names it in tables: what the user wrote."""

    label: str
    method: Method


class PointMethod(Method):
    """A method that looks at the model point by point."""

    @property
    def points(self) -> Points:
        """Where to look; the clean image by default."""
        return Clean()

    @property
    @abstractmethod
    def wants(self) -> tuple[Want, ...]:
        """What to know at each point."""

    @abstractmethod
    def look(self, seen: Evidence) -> Tensor:
        """Return what one point of each image contributes, (N, ...). The engine takes the mean over the points."""

    def finish(self, mean: Tensor) -> Tensor:
        """Turn the mean over the points into maps (N, h, w)."""
        return mean

    @property
    def anchors(self) -> tuple[str, ...]:
        """Baselines at which :meth:`diagnose` needs the scalar; see :func:`salience.engine.fills.fill`."""
        return ()

    def diagnose(self, maps: Tensor, score: Tensor, anchor_scores: Tensor) -> dict[str, Tensor]:
        """Return numbers to store beside each map, each (N,).

        ``score`` (N,) is the scalar at the clean image, ``anchor_scores`` (A, N) at each of :attr:`anchors`.
        """
        return {}


@dataclass(frozen=True)
class Subject:
    """What a :class:`WholeMethod` gets: a batch, and a module that maps pixels in [0, 1] to the explained scalars.

    ``module`` returns (N, C): the chosen scalar of every class. Of the N images the first ``rows`` count, the others
    fill the batch. ``layer`` is set where :attr:`WholeMethod.layer` asks for one.
    """

    module: nn.Module
    images: Tensor
    target: Tensor
    image_ids: Sequence[str]
    rows: int
    seed: int
    output: Output
    layer: Layer | None
    layer_module: nn.Module | None


class WholeMethod(Method):
    """A method that runs the model itself: the way in for other libraries. Its calls are counted, not shared."""

    @property
    def layer(self) -> str | Literal[False] | None:
        """Name of the layer to hand over, None to find it, False for none."""
        return False

    @abstractmethod
    def attribute(self, subject: Subject) -> Tensor:
        """Return maps (rows, h, w) or (N, h, w)."""
