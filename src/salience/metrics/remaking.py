"""Making maps again for several images at a time, as :class:`~salience.metrics.metric.RemakeMetric` asks for them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

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


def remade(metric: RemakeMetric, seen: Iterable[Seen], sweep: Sweep) -> Iterator[tuple[int, Tensor | None]]:
    """Score images, and yield the number of each with its value (1,), None where a map is not finite.

    Parameters
    ----------
    sweep
        Makes the maps, of labels that are given; its calls are counted there. The draws are those of the image.
    """
    waiting: list[_Talk] = []
    for number, one in enumerate(seen):
        remaking = metric.score(one)
        waiting.append(_Talk(number, one, remaking, next(remaking)))
        if sum(len(talk.asked.pixels) for talk in waiting) >= _BATCHES * sweep.plan.batch:
            yield from _finished(waiting, sweep)
            waiting = []
    yield from _finished(waiting, sweep)


def _finished(talks: list[_Talk], sweep: Sweep) -> Iterator[tuple[int, Tensor | None]]:
    while talks:
        found: dict[int, Tensor] = {}
        for change in dict.fromkeys(talk.asked.change for talk in talks):
            found |= _maps([talk for talk in talks if talk.asked.change == change], sweep)
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


def _maps(talks: list[_Talk], sweep: Sweep) -> dict[int, Tensor]:
    """Return the maps (R, h, w) that talks ask for, all of the same model, by their numbers."""
    counts = [len(talk.asked.pixels) for talk in talks]
    ids = tuple(talk.seen.image_id for talk, count in zip(talks, counts, strict=True) for _ in range(count))
    labels = torch.cat([talk.seen.labels[:1].expand(n) for talk, n in zip(talks, counts, strict=True)]).cpu()
    change = talks[0].asked.change
    with nullcontext() if change is None else change(sweep.classifier.module):
        result = sweep.run(Batch(ids, torch.cat([talk.asked.pixels for talk in talks]), labels))
    maps = result.maps[0].values[:, 0].float()
    return dict(zip((talk.number for talk in talks), torch.split(maps, counts), strict=True))
