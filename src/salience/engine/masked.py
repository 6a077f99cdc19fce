"""The masked sweep: what a model answers while the pixels of an image stay, or go, in the order of a map.

One sweep serves every metric that reads such curves, for all maps and labels of an image: the clean pass and the
blank pass are shared, rows of many images and maps are packed into full model calls, and a masked input is made by one
comparison of ranks and one choice between two pixels, on the device.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from salience.engine.passes import Calls, call_model
from salience.engine.plan import Plan
from salience.engine.random import row_key, uniform
from salience.models.classifier import Classifier

Order = Literal["keep", "delete"]
"""``keep``: the most salient pixels stay. ``delete``: they go, and the others stay."""
Output = Literal["restricted", "full", "top"]
"""Probability among the label set, among all classes, or 1 where the label has the largest logit of all and else 0."""
OUTPUTS: tuple[Output, ...] = ("restricted", "full", "top")

Write = Callable[[Tensor, slice], None]
Take = Callable[[Tensor, slice], None]


@dataclass
class Heard:
    """Whether all answers to some rows were finite numbers, as far as they came."""

    finite: bool = True


class Packer:
    """Collects rows from anywhere into full model calls, in the order in which they come.

    Must be used inside :func:`salience.engine.tune.running`. ``on_rows`` hears of every call's rows.
    """

    def __init__(self, classifier: Classifier, plan: Plan, on_rows: Callable[[int], None] = lambda rows: None) -> None:
        self.classifier = classifier
        self.plan = plan
        self.calls = Calls()
        self._on_rows = on_rows
        shape = (plan.batch, 3, *classifier.preprocessing.size)
        blank = torch.zeros(shape, dtype=classifier.dtype, device=classifier.device)
        self._inputs = blank.contiguous(memory_format=plan.torch_format)
        self._filled = 0
        self._waiting: list[tuple[Take, int, slice]] = []
        self._heard: Heard | None = None

    @contextmanager
    def listening(self) -> Iterator[Heard]:
        """Tell of the rows that are asked for inside whether their answers are finite, as they come."""
        self._heard, before = Heard(), self._heard
        try:
            yield self._heard
        finally:
            self._heard = before

    def count(self, calls: Calls) -> None:
        """Count calls that were made beside the packer."""
        self.calls.forward += calls.forward
        self.calls.backward += calls.backward
        self._on_rows(calls.forward + calls.backward)

    def add(self, count: int, write: Write, take: Take) -> None:
        """Ask for ``count`` rows.

        ``write(inputs, rows)`` fills ``inputs`` (R, 3, H, W), pixels in [0, 1], with the rows of that slice;
        ``take(logits, rows)`` is given their logits (R, C) when a call was full, or at :meth:`flush`.
        """
        if self._heard is not None:
            take = _listening(take, self._heard)
        at = 0
        while at < count:
            size = min(len(self._inputs) - self._filled, count - at)
            rows = slice(at, at + size)
            write(self._inputs[self._filled : self._filled + size], rows)
            self._waiting.append((take, size, rows))
            self._filled += size
            at += size
            if self._filled == len(self._inputs):
                self.flush()

    def flush(self) -> None:
        """Run the model on what has been collected; rows that are missing to a full call repeat the last one."""
        if not self._filled:
            return
        filled, waiting = self._filled, self._waiting
        self._filled, self._waiting = 0, []
        self._inputs[filled:] = self._inputs[filled - 1]
        with torch.no_grad():
            logits = call_model(self.classifier, self._inputs, self.plan)
        self.calls.forward += filled
        at = 0
        for take, size, rows in waiting:
            take(logits[at : at + size], rows)
            at += size
        self._on_rows(filled)


def _listening(take: Take, heard: Heard) -> Take:
    def both(logits: Tensor, rows: slice) -> None:
        heard.finite &= bool(logits.isfinite().all())
        take(logits, rows)

    return both


def answers(logits: Tensor, labels: Tensor, wanted: Sequence[Output]) -> dict[Output, Tensor]:
    """Return the outputs of ``labels`` (R, T) for logits (R, C), each float64 (R, T)."""
    z = logits.double()
    found: dict[Output, Tensor] = {}
    if "restricted" in wanted:
        found["restricted"] = z.gather(1, labels).softmax(1)
    if "full" in wanted:
        found["full"] = (z.gather(1, labels) - z.logsumexp(1, keepdim=True)).exp()
    if "top" in wanted:
        leads = (z.argmax(1, keepdim=True) == labels).double()
        found["top"] = leads.where(z.isfinite().all(1, keepdim=True), float("nan"))
    return found


# ---------------------------------------------------------------------- ranks


def tie_order(image_ids: Sequence[str], pixels: int, seed: int, device: torch.device | str = "cpu") -> Tensor:
    """Return an order of the pixels for each image, int64 (N, pixels): in it stand pixels of equal value."""
    return uniform([row_key(seed, "ties", i) for i in image_ids], (pixels,), device).argsort(dim=1)


def falling_ranks(values: Tensor, ties: Tensor) -> Tensor:
    """Return each pixel's place when values (M, H, W) fall, int32 (M, H, W) from 0; ``ties`` (M, H * W) break ties."""
    flat = values.flatten(1)
    order = ties.gather(1, flat.gather(1, ties).argsort(dim=1, descending=True, stable=True))
    places = torch.arange(flat.shape[1], dtype=torch.int32, device=flat.device).expand_as(order)
    rank = torch.empty(flat.shape, dtype=torch.int32, device=flat.device)
    return rank.scatter_(1, order, places).view(values.shape)


# ---------------------------------------------------------------------- what replaces pixels


class Replacement(ABC):
    """What stands in the place of the pixels that a mask takes away."""

    @abstractmethod
    def blend(self, images: Tensor, keep: Tensor, owner: Tensor, out: Tensor) -> None:
        """Write masked images into ``out`` (R, 3, H, W).

        Parameters
        ----------
        images
            All N images (N, 3, H, W).
        keep
            bool (R, H, W): the pixels that stay.
        owner
            Which image each row is of, (R,).
        """


@dataclass(frozen=True, eq=False)
class Fixed(Replacement):
    """Pixels that do not depend on the mask: (N, 3, H, W), or (N, 3, 1, 1) for a colour."""

    background: Tensor

    def blend(self, images: Tensor, keep: Tensor, owner: Tensor, out: Tensor) -> None:
        """Choose between image and background, pixel by pixel."""
        torch.where(keep.unsqueeze(1), images[owner], self.background[owner], out=out)


# ---------------------------------------------------------------------- sweeps


@dataclass(frozen=True)
class Points:
    """Numbers of pixels at which the model is asked: for the predicted label's map, and for those of the others."""

    first: tuple[int, ...] = ()
    others: tuple[int, ...] = ()

    @property
    def every(self) -> tuple[int, ...]:
        """All of them, ascending."""
        return tuple(sorted({*self.first, *self.others}))

    def rows(self, columns: int, *, shared: bool = False) -> int:
        """Return the model rows that an image's maps for ``columns`` labels need."""
        if shared:
            return len(self.every)
        return len(self.every) + (columns - 1) * len(self.others) if columns else 0


@dataclass
class Record:
    """Outputs along the sweeps of one set of maps: float64 (N, T, K) for each order and output.

    K runs over ``points[order].every``. NaN where nothing was asked, or where the model's answer was not finite.
    """

    points: Mapping[Order, Points]
    wanted: tuple[Output, ...]
    images: int
    labels: int
    device: torch.device
    values: dict[tuple[Order, Output], Tensor] = field(init=False)
    asked: dict[Order, Tensor] = field(init=False)

    def __post_init__(self) -> None:
        shape = {order: (self.images, self.labels, len(p.every)) for order, p in self.points.items()}
        self.values = {
            (order, name): torch.zeros(s, dtype=torch.float64, device=self.device)
            for order, s in shape.items()
            for name in self.wanted
        }
        self.asked = {order: torch.zeros(s, dtype=torch.bool, device=self.device) for order, s in shape.items()}

    def read(self, order: Order, output: Output) -> Tensor:
        """Return the values (N, T, K), NaN where nothing was asked."""
        return self.values[order, output].masked_fill(~self.asked[order], float("nan"))

    def broken(self) -> Tensor:
        """Return which images have an answer that is not finite, bool (N,)."""
        found = torch.zeros(self.images, dtype=torch.bool, device=self.device)
        for (order, _), values in self.values.items():
            found |= (self.asked[order] & ~values.isfinite()).flatten(1).any(1)
        return found


@dataclass(frozen=True, eq=False)
class Maps:
    """Ranked maps of images: whose they are, and which label of the image's set each explains.

    Attributes
    ----------
    ranks
        int32 (M, H, W), see :func:`falling_ranks`.
    owner, column
        (M,) each. A ``shared`` map stands for all labels of its image, and its column does not count.
    """

    ranks: Tensor
    owner: Tensor
    column: Tensor
    shared: bool = False


def sweep(
    packer: Packer,
    images: Tensor,
    labels: Tensor,
    maps: Maps,
    replacement: Replacement,
    record: Record,
    weight: float = 1.0,
) -> None:
    """Ask for all points of ``maps`` over ``images`` (N, 3, H, W) with label sets (N, T).

    Answers are added to ``record``, times ``weight``, as calls are made; they are complete after a flush of the
    packer. A map that is shared gets each answer once for all labels.
    """
    for order, points in record.points.items():
        which, slot = _rows(maps, points)
        if not len(which):
            continue
        ks = torch.tensor(points.every, device=images.device)
        asked = record.asked[order]
        if maps.shared:
            asked[maps.owner[which], :, slot] = True
        else:
            asked[maps.owner[which], maps.column[which], slot] = True
        packer.add(
            len(which),
            _writer(order, images, maps, which, ks[slot], replacement),
            _taker(order, labels, maps, which, slot, record, weight),
        )


def _writer(order: Order, images: Tensor, maps: Maps, which: Tensor, count: Tensor, replacement: Replacement) -> Write:
    def write(inputs: Tensor, rows: slice) -> None:
        chosen = which[rows]
        below = maps.ranks[chosen] < count[rows].view(-1, 1, 1)
        replacement.blend(images, below if order == "keep" else ~below, maps.owner[chosen], inputs)

    return write


def _taker(
    order: Order, labels: Tensor, maps: Maps, which: Tensor, slot: Tensor, record: Record, weight: float
) -> Take:
    # Answers may come when the next maps are ranked already: hold the small tensors alone, not the ranks.
    owner, column, shared = maps.owner[which], maps.column[which], maps.shared

    def take(logits: Tensor, rows: slice) -> None:
        whose, where = owner[rows], slot[rows]
        for name, found in answers(logits, labels[whose], record.wanted).items():
            values = record.values[order, name]
            if shared:
                values[whose, :, where] += found * weight
            else:
                own = column[rows]
                values[whose, own, where] += found.gather(1, own.unsqueeze(1)).squeeze(1) * weight

    return take


def _rows(maps: Maps, points: Points) -> tuple[Tensor, Tensor]:
    """Return map and place in ``points.every`` of every row, map by map."""
    every = torch.tensor(points.every)
    others = torch.isin(every, torch.tensor(points.others, dtype=every.dtype))
    wanted = torch.ones(len(maps.owner), len(every), dtype=torch.bool)
    if not maps.shared:
        wanted &= others | (maps.column.cpu() == 0).unsqueeze(1)
    which, slot = wanted.nonzero(as_tuple=True)
    return which.to(maps.owner.device), slot.to(maps.owner.device)


def blank(
    packer: Packer,
    images: Tensor,
    labels: Tensor,
    replacement: Replacement,
    into: Mapping[Output, Tensor],
    weight: float,
) -> None:
    """Ask for the images (N, 3, H, W) without any of their pixels; adds to ``into``, float64 (N, T) each."""
    every = torch.arange(len(images), device=images.device)
    nothing = torch.zeros(1, *images.shape[2:], dtype=torch.bool, device=images.device)

    def write(inputs: Tensor, rows: slice) -> None:
        replacement.blend(images, nothing.expand(len(inputs), -1, -1), every[rows], inputs)

    def take(logits: Tensor, rows: slice) -> None:
        for name, found in answers(logits, labels[rows], tuple(into)).items():
            into[name][rows] += found * weight

    packer.add(len(images), write, take)
