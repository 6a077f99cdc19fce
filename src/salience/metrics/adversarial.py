"""How much of what an adversary could do with masks a method's maps of wrong labels do.

Some models see any label in some part of some image: then no method can be sound in every mask. The search of
:mod:`salience.engine.adversary` finds how far masks of a class (their grid, area and roughness) take a wrong label:
the model's own unsoundness for the class. A method's map, put into the same class, is read against it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from salience.engine.adversary import Adversary, MaskClass
from salience.engine.masked import Packer, answers, falling_ranks, tie_order
from salience.errors import MetricError
from salience.metrics.backgrounds import FIXED, fixed_background
from salience.metrics.complete_sound import soundness
from salience.metrics.metric import ProbeMetric, Seen, undefined
from salience.metrics.registry import register
from salience.models.classifier import GRADIENTS, Classifier

REFERENCE = "this project; soundness is that of Gupta et al., NeurIPS 2022 (arXiv 2211.02912)"


@dataclass(frozen=True)
class _Adversarial(ProbeMetric):
    scale: int = 4
    area: float = 0.25
    tv: float | None = None
    background: str = "dataset-mean"
    softmax: Literal["restricted", "full"] = "restricted"
    search: Literal["auto", "gradients", "evolution"] = "auto"
    steps: int = 100
    lr: float = 0.3
    starts: int = 1
    queries: int = 512

    def __post_init__(self) -> None:
        if self.background not in FIXED:
            raise MetricError(f"background is {self.background!r}; choose of {', '.join(FIXED)}.")
        _ = self.adversary  # tells what cannot be searched

    @cached_property
    def adversary(self) -> Adversary:
        """Who searches."""
        masks = MaskClass(self.scale, self.area, self.tv)
        return Adversary(
            masks, self.background, self.softmax, self.search, self.steps, self.lr, self.starts, self.queries
        )

    def check(self, classifier: Classifier) -> None:
        """Refuse a model without gradients where they are asked for."""
        if self.search == "gradients" and GRADIENTS not in classifier.capabilities:
            raise MetricError(
                f"Metric {self.traits.name!r}: search=gradients is asked for, and model {classifier.name!r} has no "
                "gradients. Leave it out, or write search=evolution."
            )

    def searches(self) -> tuple[Adversary, ...]:
        """One, shared by all methods and by the metrics that have the same settings."""
        return (self.adversary,)

    def cost(self, labels: int, size: tuple[int, int]) -> str:
        """Return the passes of the search, and of the method's own masks."""
        forward, backward = self.adversary.passes(labels, frozenset({GRADIENTS}))
        asked, _ = self.adversary.passes(labels, frozenset())
        own = self.rows(labels, size)
        if self.search == "evolution":
            passes = f"{asked} an image, shared"
        else:
            passes = f"{forward} and {backward} backward an image, shared"
            passes += f" ({asked} without gradients)" if self.search == "auto" else ""
        return f"{passes}; {own}" if own else passes


@register(
    "adversarial-reach",
    summary="Largest probability that any mask of a class gives a wrong label: the model's own, whatever the map",
    family="adversarial soundness",
    direction="neither",
    low=0.0,
    high=1.0,
    sign="none",
    over="image",
    reference=REFERENCE,
    details="Ours: masks on a coarse grid, bilinearly enlarged, of bounded area and roughness, over a background; "
    "Adam on their logits, every step brought into the class, or an evolution strategy where there are no gradients. "
    "What is found is a lower bound. The same on every line of the table.",
)
@dataclass(frozen=True)
class AdversarialReach(_Adversarial):
    """The largest probability of a wrong label that was found.

    Parameters
    ----------
    scale, area, tv
        The class of masks: pixels to a value, largest mean, and largest mean squared difference of neighbours.
    background
        What shows where a mask hides the image.
    softmax
        ``restricted`` to the label set, or ``full``.
    search
        ``gradients``, ``evolution``, or ``auto``: gradients where the model has them.
    steps, lr, starts
        Of a search with gradients: steps and rate of Adam, and how often it begins anew.
    queries
        Of an evolution: masks asked about for each label.
    """

    def rows(self, labels: int, size: tuple[int, int]) -> int:
        """None beside the search."""
        return 0

    def ask(self, seen: Seen, packer: Packer) -> Callable[[], Tensor]:
        """Return what reads the search."""
        if len(seen.labels) < 2:
            return undefined
        return lambda: seen.reach(self.adversary).amax()


@register(
    "adversarial-soundness",
    summary="How far a method's masks of wrong labels stay behind the worst masks there are: 0 is as bad as these",
    family="adversarial soundness",
    direction="higher",
    low=0.0,
    high=1.0,
    sign="raw",
    over="image",
    reference=REFERENCE,
    details="Ours: 1 - (1 - s) / (1 - s_net), with s the least soundness over the wrong labels, of the masks that the "
    "method's maps make in the class (their most salient cells, at several areas), and s_net that of the worst masks "
    "found, the method's among them. An image in which no mask of the class is unsound has no score. Never to be read "
    "without completeness.",
)
@dataclass(frozen=True)
class AdversarialSoundness(_Adversarial):
    """A method's unsoundness as a share of the model's, taken from 1.

    Parameters
    ----------
    points
        Areas of the method's masks: ``area / points``, ``2 area / points``, ... ``area``.
    beta
        Floor of the clean probability, as for ``soundness``.
    scale, area, tv, background, softmax, search, steps, lr, starts, queries
        As for ``adversarial-reach``.
    """

    points: int = 4
    beta: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.points < 1 or not 0 < self.beta < 1:
            raise MetricError(f"points is {self.points}, beta {self.beta}: 1 or more, and between 0 and 1, are needed.")

    def rows(self, labels: int, size: tuple[int, int]) -> int:
        """Every wrong label's map at every area."""
        return (labels - 1) * self.points

    def ask(self, seen: Seen, packer: Packer) -> Callable[[], Tensor]:
        """Ask for the method's own masks; read the search beside them."""
        if len(seen.maps) < 2 or len(seen.maps) < len(seen.labels):
            return undefined
        masks = self.adversary.masks
        size = (seen.pixels.shape[1], seen.pixels.shape[2])
        shapes = self._shapes(seen, masks.grid(size))  # (T - 1) * points of (h, w)
        enlarge = masks.enlarging(size, shapes)
        behind = fixed_background(self.background, packer.classifier, seen.pixels[None], [seen.image_id], seen.seed)
        change = seen.pixels - behind
        found: list[Tensor] = []
        column = torch.arange(1, len(seen.labels), device=shapes.device).repeat_interleave(self.points)

        def write(inputs: Tensor, rows: slice) -> None:
            made = enlarge(shapes[rows])
            made = made * masks.factor(made).view(-1, 1, 1)
            inputs.copy_(behind + change * made.unsqueeze(1).to(change.dtype))

        def take(logits: Tensor, rows: slice) -> None:
            p = answers(logits, seen.labels.expand(len(logits), -1), (self.softmax,))[self.softmax]
            found.append(p.gather(1, column[rows].unsqueeze(1)).squeeze(1))

        packer.add(len(shapes), write, take)

        def value() -> Tensor:
            own = torch.cat(found).view(-1, self.points).amax(1)
            clean = answers(seen.logits[None], seen.labels[None], (self.softmax,))[self.softmax][0, 1:]
            return behind_the_worst(own, seen.reach(self.adversary), clean, self.beta)

        return value

    def _shapes(self, seen: Seen, grid: tuple[int, int]) -> Tensor:
        """Return the most salient cells of every wrong label's map at every area, 1 or 0: (R, h, w)."""
        cells = F.adaptive_avg_pool2d(seen.maps[1:].unsqueeze(1), grid).squeeze(1)
        ties = tie_order([seen.image_id], cells[0].numel(), seen.seed, cells.device).expand(len(cells), -1)
        ranks = falling_ranks(cells, ties).unsqueeze(1)
        most = self.area * cells[0].numel()
        counts = [max(1, int(most * (j + 1) / self.points)) for j in range(self.points)]
        kept = ranks < torch.tensor(counts, device=cells.device).view(1, -1, 1, 1)
        return kept.flatten(0, 1).to(torch.float32)


def behind_the_worst(own: Tensor, reached: Tensor, clean: Tensor, beta: float) -> Tensor:
    """Return 1 - (1 - s) / (1 - s_net) of an image, (): NaN where its model is sound.

    Of every wrong label: the largest probability of the method's masks ``own`` (k,), the largest that was ``reached``
    (k,) by a search, and that of the whole image ``clean`` (k,).
    """
    s = soundness(own, clean, beta).amin()
    net = soundness(torch.maximum(own, reached), clean, beta).amin()
    return 1 - (1 - s) / (1 - net) if bool(net < 1) else undefined()
