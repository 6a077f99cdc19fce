"""Methods that ask the model for outputs alone: what they are, and how their questions are put.

A :class:`QueryMethod` is a conversation. Its :meth:`~QueryMethod.search` is a generator that yields masks for all
images of a group at once, is sent the scores of the masked images, and returns the maps:

    scores = yield RandomCells(...)          # (G, k, T): every mask's score for every explained class
    return Found(maps)                       # (G, T, h, w)

The engine blends the masks with the fill, cuts the questions of all images into full batches, counts them, and holds
the method to its budget. A search that yields once asks everything beforehand; one that yields again after every
answer evolves.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from torch import Tensor

from salience.engine.masks import Masks
from salience.engine.method import Method
from salience.engine.scalars import Output, scores
from salience.errors import MethodError


@dataclass(frozen=True)
class Scene:
    """The group of images that a search explains. Its images are computed alike, whichever they are.

    Attributes
    ----------
    images
        (G, 3, H, W), pixels in [0, 1]; the last ones may be repeats that fill the group.
    targets
        Classes explained, (G, T).
    lead
        Column of the target that a search follows where it can only follow one, (G,).
    scores
        The scalar of the whole images, (G, T).
    every
        The same of all classes, (G, C).
    output
        Which scalar it is.
    """

    images: Tensor
    image_ids: tuple[str, ...]
    seed: int
    targets: Tensor
    lead: Tensor
    scores: Tensor
    every: Tensor
    output: Output

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return int(self.images.shape[2]), int(self.images.shape[3])

    @property
    def device(self) -> torch.device:
        """Where the images are."""
        return self.images.device

    def leading(self, values: Tensor) -> Tensor:
        """Return the scores (G, k) of the target that is followed, of scores (G, k, T)."""
        index = self.lead.view(-1, 1, 1).expand(-1, values.shape[1], 1)
        return values.gather(2, index).squeeze(2)


@dataclass
class Found:
    """What a search found: maps (G, T, h, w), numbers to store beside each map (G, T), and its convergence.

    ``curve`` gives pairs of (masks asked so far, a figure (G, T)): how far the maps agreed with the final ones, or the
    best fitness so far, as ``curve_of`` says. NaN is not stored.
    """

    maps: Tensor
    diagnostics: dict[str, Tensor] = field(default_factory=dict)
    curve: list[tuple[int, Tensor]] = field(default_factory=list)
    curve_of: Literal["agreement", "fitness"] = "agreement"


Search = Generator[Masks, Tensor, Found]


class QueryMethod(Method):
    """A method that needs outputs alone. A subclass is a frozen dataclass with, at least, ``budget`` and ``fill``.

    Attributes
    ----------
    budget
        Forward passes for each image at most, that of the whole image among them.
    fill
        What shows where a mask hides the image, see :func:`salience.engine.fills.fill`.
    """

    budget: int
    fill: str
    every_class: ClassVar[bool] = False
    """Whether the search wants the scores of all classes, (G, k, C), and not of the targets alone."""

    @abstractmethod
    def within(self, budget: int) -> QueryMethod:
        """Return the same method with another budget."""

    @abstractmethod
    def questions(self, size: tuple[int, int]) -> int:
        """Return how many masks an image of ``size`` will be asked about; at most ``budget`` - 1."""

    @abstractmethod
    def search(self, scene: Scene) -> Search:
        """Ask about masks, and return the maps."""


GROUP_CALLS = 4096
"""Forward passes of the images of a group together, about: it bounds the answers that are held."""

Hide = Callable[[str], Tensor]
Ask = Callable[[Tensor, int], Tensor]
"""Takes a full batch (batch, 3, H, W) and how many of its rows count, and returns its logits (batch, C)."""


def converse(
    method: QueryMethod, scene: Scene, real: int, *, hide: Hide, ask: Ask, batch: int, output: Output
) -> tuple[Found, int]:
    """Lead one search to its end; return what it found, and the number of masks that each image was asked about.

    Parameters
    ----------
    real
        The first so many images of the scene count; the rest repeat the last of them and are not asked about.
    hide
        Returns the fill of a name, broadcastable to the scene's images.
    ask
        Is called with exactly ``batch`` rows; the last call of a round is filled by repeats.

    Raises
    ------
    MethodError
        When the method asks for more than it declared, or has no budget.
    """
    declared = method.questions(scene.size)
    if declared > max(0, method.budget - 1):
        raise MethodError(
            f"Method {method.traits.name!r} needs {declared + 1} forward passes; {method.budget} are set."
        )
    asked = 0
    hidden: dict[str, Tensor] = {}
    bad = torch.zeros(len(scene.images), dtype=torch.bool, device=scene.device)
    search = method.search(scene)
    try:
        masks = next(search)
        while True:
            asked += masks.count
            if asked > declared:
                raise MethodError(f"Method {method.traits.name!r} asks for more than the {declared} masks it declared.")
            name = masks.fill or method.fill
            if name not in hidden:
                hidden[name] = hide(name)
            targets = _every(scene) if method.every_class else scene.targets
            found, unusable = _answers(masks, scene, targets, real, hidden[name], ask, batch, output)
            bad |= unusable
            masks = search.send(found)
    except StopIteration as stop:
        result: Found = stop.value
    # answers that are no numbers would lead a search astray without a trace: the image's maps say so instead
    result.maps = result.maps.masked_fill(bad.view(-1, 1, 1, 1), float("nan"))
    return result, asked


def _answers(
    masks: Masks,
    scene: Scene,
    targets: Tensor,
    real: int,
    hidden: Tensor,
    ask: Ask,
    batch: int,
    output: Output,
) -> tuple[Tensor, Tensor]:
    """Return the scores (G, k, T) of all masks of a round, and which images (G,) got an answer that is no number."""
    device, total = scene.device, real * masks.count
    parts = []
    for at in range(0, total, batch):
        row = torch.arange(at, at + batch, device=device).clamp_max(total - 1)  # image by image
        image, candidate = row // masks.count, row % masks.count
        inputs = blend(scene.images, hidden, masks.render(image, candidate, scene.size), image)
        logits = ask(inputs, min(batch, total - at))
        parts.append(scores(output, logits, targets[image]).float())
    if not parts:
        return scene.scores.new_zeros(len(scene.images), 0, targets.shape[1]), scene.lead != scene.lead
    values = torch.cat(parts)[:total].view(real, masks.count, -1)
    values = values[torch.arange(len(scene.images), device=device).clamp_max(real - 1)]  # repeats answer alike
    return values, ~torch.isfinite(values).flatten(1).all(1)


def _every(scene: Scene) -> Tensor:
    classes = scene.every.shape[1]
    return torch.arange(classes, device=scene.device).expand(len(scene.images), classes)


def group_size(method: QueryMethod, size: tuple[int, int], batch: int) -> int:
    """Return how many images a search explains together: as many as fill batches, and no more than can be held."""
    return max(1, min(batch, GROUP_CALLS // max(1, method.questions(size))))


def blend(images: Tensor, hidden: Tensor, masks: Tensor, image: Tensor) -> Tensor:
    """Return hidden + mask * (image - hidden) for masks (R, 1, H, W) of images ``image`` (R,)."""
    back = hidden if hidden.shape[0] == 1 else hidden[image]
    return torch.lerp(back, images[image], masks.to(images.dtype))


def every(count: int, chunk: int) -> Sequence[range]:
    """Cut ``count`` candidates into ranges of ``chunk``: sums over them are then taken in one order only."""
    return [range(at, min(count, at + chunk)) for at in range(0, count, chunk)]
