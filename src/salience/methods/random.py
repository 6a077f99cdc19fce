"""A random map: what any other method must beat."""

from __future__ import annotations

from dataclasses import dataclass

from salience.engine.queries import Found, Scene, Search
from salience.engine.random import Stream
from salience.methods.asking import Asking
from salience.methods.registry import register


@register(
    "random",
    summary="a random smooth map that knows nothing: the baseline for every comparison",
    family="black boxes",
    signed=False,
    reference="ours",
    details="Uniform values in [0, 1) on a grid of 7 x 7 cells, from the image's key; the same for every target.",
    stochastic=True,
)
@dataclass(frozen=True)
class Random(Asking):
    """Uniform values in [0, 1) on a coarse grid; no forward pass but the image's own.

    Parameters
    ----------
    budget, fill
        As for every black-box method, see :class:`~salience.methods.asking.Asking`.
    cells
        Cells along each side.
    """

    cells: int = 7

    def questions(self, size: tuple[int, int]) -> int:
        """None."""
        return 0

    def search(self, scene: Scene) -> Search:
        """Draw the map."""
        values = Stream(scene.image_ids, scene.seed, "random map", scene.device).uniform(1, self.cells, self.cells)
        maps = values.expand(-1, scene.targets.shape[1], -1, -1)
        yield from ()
        return Found(maps.clone())
