"""What a condition is: a change of images that knows where it is made, and how maps forget it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from salience.behaviour.view import Array, ConditionTraits
from salience.data.base import Pixels

Family = Literal["noise", "corruption", "geometry", "guided"]
Truths = npt.NDArray[np.bool_]

PUBLISHED_SIDE = 224
"""Shorter side, in pixels, of the inputs that published strengths are told for."""


@dataclass(frozen=True)
class Kind:
    """What the conditions of one class have in common.

    Attributes
    ----------
    name
        Begins the names of its conditions.
    measure
        The measure that reads them, as the command names it.
    published
        Whether the measure's published form has them too.
    drawn
        Whether they depend on the seed.
    reference, details
        Where they come from; what is published, inferred and this project's own.
    version
        Rises when the changed pixels do: maps are then computed again.
    """

    name: str
    family: Family
    measure: str
    summary: str
    reference: str
    details: str
    published: bool = False
    drawn: bool = False
    version: int = 1


@dataclass(frozen=True)
class Condition(ABC):
    """One way of changing images. It is one of :class:`HostCondition`, :class:`DeviceCondition`, ...

    What an image becomes depends on its pixels, its id and the seed, never on the images beside it.
    """

    kind: ClassVar[Kind]

    @property
    @abstractmethod
    def name(self) -> str:
        """What tables call it; no other condition has this name, and there is no ``@`` in it."""

    @property
    def severity(self) -> float:
        """How strong it is: rises within the conditions of a kind."""
        return 0.0

    @property
    def published(self) -> bool:
        """Whether the published form of its measure has it."""
        return self.kind.published

    @property
    def traits(self) -> ConditionTraits:
        """What tables and pages need to know of it."""
        return ConditionTraits(self.name, self.kind.family, self.severity, self.published)

    def fits(self, size: tuple[int, int]) -> bool:
        """Tell whether images of a size (height, width) can be changed so."""
        return True

    def identity(self, seed: int) -> dict[str, Any]:
        """Return all that decides the change, but for the image."""
        return {"condition": self.name, "version": self.kind.version, "seed": seed if self.kind.drawn else None}


class HostCondition(Condition):
    """A change that is made before an image reaches the device: it belongs to files, or to their own size.

    ``native`` says that the image is changed at its own size, before it is brought to that of the model.
    """

    native: ClassVar[bool] = False

    @abstractmethod
    def read(self, image: Pixels, image_id: str, seed: int) -> Pixels:
        """Return a changed image: (H, W, 3), uint8 or float32 in [0, 1], of the same size and type."""


class DeviceCondition(Condition):
    """A change of pixels on the model's device."""

    @abstractmethod
    def change(self, pixels: Tensor, image_ids: Sequence[str], seed: int) -> Tensor:
        """Return changed pixels of images (N, 3, H, W) in [0, 1], float32 or float64, of the same shape and type."""


class GeometryCondition(DeviceCondition):
    """A change of where things are, which maps can forget.

    ``exact`` says that it only moves cells, on any grid: nothing is interpolated, nothing lost.
    """

    exact: ClassVar[bool] = False

    @abstractmethod
    def undo(self, maps: Array) -> tuple[Array, Truths]:
        """Bring maps of changed images back to where things were.

        Parameters
        ----------
        maps
            (..., h, w): on any grid where the change is ``exact``, else at the size of the input.

        Returns
        -------
        maps
            Of the same shape; 0 where the changed image does not show the place any more.
        valid
            Where it does (h, w).
        """


class GuidedCondition(Condition):
    """A change that is led by the model's own maps of the unchanged images."""

    @abstractmethod
    def degrade(self, pixels: Tensor, maps: Array) -> Tensor:
        """Return changed pixels of images (N, 3, H, W) in [0, 1], led by their raw native maps (N, h, w)."""


def alone(image: Tensor) -> Tensor:
    """Return an image (3, H, W) as a batch of one, in memory of its own: its place in a batch then decides nothing."""
    return image.unsqueeze(0).clone(memory_format=torch.contiguous_format)
