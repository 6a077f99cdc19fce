"""Making maps again for several images at a time, as :class:`~salience.metrics.metric.RemakeMetric` asks for them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from salience.engine.passes import Calls
from salience.engine.sweep import Batch, Sweep
from salience.metrics.metric import Again, RemakeMetric, Remaking, Seen

_BATCHES = 4
"""So many batches of maps are made together, about: fewer waste more of the last one, more hold more pixels."""


@dataclass
class _Talk:
    """One image's score in the making, and what it waits for."""

    number: int
    seen: Seen
    remaking: Remaking
    asked: Again


@dataclass(frozen=True)
class Maker:
    """Makes maps.

    Attributes
    ----------
    make
        Returns what makes maps of labels that are given; a new one for every model, since it keeps what it found.
    count
        Is told of the calls that were made.
    batch
        Images in a model call.
    """

    make: Callable[[], Sweep]
    count: Callable[[Calls], None]
    batch: int

    def maps(self, talks: Sequence[_Talk]) -> dict[int, Tensor]:
        """Return the maps (R, h, w) that talks ask for, all of the same model, by their numbers."""
        counts = [len(talk.asked.pixels) for talk in talks]
        ids = tuple(talk.seen.image_id for talk, count in zip(talks, counts, strict=True) for _ in range(count))
        labels = torch.cat([talk.seen.labels[:1].expand(n) for talk, n in zip(talks, counts, strict=True)]).cpu()
        change, sweep = talks[0].asked.change, self.make()
        with nullcontext() if change is None else change(sweep.classifier.module):
            result = sweep.run(Batch(ids, torch.cat([talk.asked.pixels for talk in talks]), labels))
        self.count(sweep.calls)
        maps = result.maps[0].values[:, 0].float()
        return dict(zip((talk.number for talk in talks), torch.split(maps, counts), strict=True))


def remade(metric: RemakeMetric, seen: Iterable[Seen], maker: Maker) -> Iterator[tuple[int, Tensor | None]]:
    """Score images, and yield the number of each with its value (1,), None where a map is not finite.

    The draws of a method are those of the image.
    """
    waiting: list[_Talk] = []
    for number, one in enumerate(seen):
        remaking = metric.score(one)
        waiting.append(_Talk(number, one, remaking, next(remaking)))
        if sum(len(talk.asked.pixels) for talk in waiting) >= _BATCHES * maker.batch:
            yield from _finished(waiting, maker)
            waiting = []
    yield from _finished(waiting, maker)


def _finished(talks: list[_Talk], maker: Maker) -> Iterator[tuple[int, Tensor | None]]:
    while talks:
        found: dict[int, Tensor] = {}
        for change in dict.fromkeys(talk.asked.change for talk in talks):
            found |= maker.maps([talk for talk in talks if talk.asked.change == change])
        going_on = []
        for talk in talks:
            maps = found[talk.number]
            if not bool(maps.isfinite().all()):
                talk.remaking.close()
                yield talk.number, None
                continue
            try:
                talk.asked = talk.remaking.send(maps)
            except StopIteration as stop:
                yield talk.number, stop.value
            else:
                going_on.append(talk)
        talks = going_on
