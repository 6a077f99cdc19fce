"""Allegiance: how long a prediction lasts while the most salient pixels are deleted (Llorente et al. 2023).

Published: the share of images whose predicted class is unchanged after the top p % of pixels became black (white for
``negative`` and ``inactive``), p in {0, 3, 5, 7, 10, 20, ..., 90}, and its area under the curve by the trapezoid rule
over p in [0, 0.9], not renormalised; pixels are deleted where the map is above the value of that rank *and* not zero,
so that fewer than p % may go. Lower means that the map finds what the prediction hangs on.

Ours, because the published rule charges maps that run out of non-zero pixels for the flat tail: ``rule="exact"``
deletes exactly p %, ties broken at random per image; the area over 0-30 % beside that over 0-90 %; the probability
beside the hard label; blur and mean as fills; bootstrap intervals. A low deletion score is not localisation: signed
maps delete better and lie less on the object.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from salience.data.decode import load
from salience.data.source import open_images
from salience.engine.fills import fill as make_fill
from salience.engine.masked import falling_ranks, tie_order
from salience.engine.passes import forward
from salience.engine.runner import to_pixels
from salience.engine.tune import make_plan, running
from salience.errors import ImagesError, SettingsError
from salience.models.classifier import Classifier
from salience.stats import Interval, bootstrap_mean
from salience.store.maps import Maps
from salience.store.views import upsample

Fill = Literal["black", "white", "mean", "blur"]
Rule = Literal["published", "exact"]
PERCENTAGES = (0, 3, 5, 7, 10, 20, 30, 40, 50, 60, 70, 80, 90)


@dataclass(frozen=True)
class Allegiance:
    """What deleting salient pixels did to the predictions of N images at P percentages.

    Attributes
    ----------
    percentages
        (P,), ascending from 0.
    kept
        bool (N, P): the predicted class is still that of the whole image.
    probability
        float32 (N, P): softmax probability of the whole image's predicted class.
    deleted
        float32 (N, P): share of pixels that were deleted, in [0, 1].
    """

    image_ids: tuple[str, ...]
    percentages: tuple[int, ...]
    kept: npt.NDArray[np.bool_]
    probability: npt.NDArray[np.float32]
    deleted: npt.NDArray[np.float32]
    fill: Fill
    rule: Rule

    @property
    def curve(self) -> npt.NDArray[np.float64]:
        """Allegiance at each percentage: the share of images whose class is kept, (P,)."""
        shares: npt.NDArray[np.float64] = self.kept.mean(0)
        return shares

    def auc(self, upto: int = 90, of: Literal["kept", "probability"] = "kept") -> Interval:
        """Return the area under the curve from 0 to ``upto`` per cent, with a bootstrap interval over images.

        The percentages are taken as shares, as published: the largest possible area is ``upto / 100``.

        Raises
        ------
        SettingsError
            When ``upto`` is not one of the percentages.
        """
        if upto not in self.percentages[1:]:
            raise SettingsError(f"The curve has no point at {upto} %; choose one of {self.percentages[1:]}.")
        last = self.percentages.index(upto) + 1
        shares = np.asarray(self.percentages[:last]) / 100
        values = (self.kept if of == "kept" else self.probability)[:, :last].astype(np.float64)
        return bootstrap_mean(np.trapezoid(values, shares, axis=1))


def allegiance(
    model: Classifier,
    images: Any,
    maps: Maps,
    *,
    fill: Fill = "black",
    rule: Rule = "exact",
    percentages: tuple[int, ...] = PERCENTAGES,
    seed: int = 0,
    batch_size: int | None = None,
) -> Allegiance:
    """Delete the most salient pixels of every image, more and more of them, and watch the prediction.

    Parameters
    ----------
    model
        The classifier.
    images
        What the maps were made of, in any form that ``explain`` takes.
    maps
        One map an image; upsampled to the model's input. Higher values go first.
    fill
        What deleted pixels become, in all channels: ``black`` and ``white`` (published), the image's ``mean``
        colour, or a ``blur`` of it.
    rule
        ``published`` or ``exact``; see the module's text.
    seed
        For ties; every image draws its own order.

    Raises
    ------
    ImagesError
        When a map's image is not among ``images``, or an image cannot be read.
    SettingsError
        When percentages, fill or rule make no sense.
    """
    if list(percentages) != sorted({0, *percentages}) or percentages[-1] > 100:
        raise SettingsError(f"percentages are {percentages}; ascending numbers from 0 to at most 100 are needed.")
    if fill not in ("black", "white", "mean", "blur"):
        raise SettingsError(f"fill is {fill!r}; choose black, white, mean or blur.")
    if rule not in ("published", "exact"):
        raise SettingsError(f"rule is {rule!r}; choose published or exact.")
    source = open_images(images)
    refs = {ref.image_id: ref for ref in source.refs}
    unknown = [i for i in maps.image_ids if i not in refs]
    if unknown:
        raise ImagesError(f"{len(unknown)} maps have no image, e.g. {unknown[0]!r}; give the images they were made of.")
    plan = make_plan(model, gradients=False, batch=batch_size, lanes=1)
    count = len(maps.image_ids)
    kept = np.zeros((count, len(percentages)), dtype=np.bool_)
    probability = np.zeros((count, len(percentages)), dtype=np.float32)
    deleted = np.zeros((count, len(percentages)), dtype=np.float32)
    with running(model, plan), torch.no_grad():
        for at in range(0, count, plan.batch):
            rows = slice(at, min(count, at + plan.batch))
            ids = maps.image_ids[rows]
            pixels = to_pixels([load(source, refs[i], model.preprocessing).pixels for i in ids], model)
            values = torch.from_numpy(upsample(maps.values[rows], model.preprocessing.size)).to(model.device)
            replacement = make_fill(fill, pixels).expand_as(pixels)
            ties = tie_order(ids, values[0].numel(), seed, values.device)
            rank = falling_ranks(values, ties) if rule == "exact" else None
            whole = forward(model, pixels, plan).double().softmax(1)
            predicted = whole.argmax(1, keepdim=True)
            for j, p in enumerate(percentages):
                mask = _exact(rank, p) if rank is not None else _published(values, p)
                found = forward(model, torch.where(mask[:, None], replacement, pixels), plan).double().softmax(1)
                kept[rows, j] = (found.argmax(1, keepdim=True) == predicted)[:, 0].cpu().numpy()
                probability[rows, j] = found.gather(1, predicted)[:, 0].cpu().numpy()
                deleted[rows, j] = mask.flatten(1).double().mean(1).cpu().numpy()
    return Allegiance(maps.image_ids, tuple(percentages), kept, probability, deleted, fill, rule)


def _exact(rank: Tensor, p: int) -> Tensor:
    return rank < round(rank[0].numel() * p / 100)


def _published(values: Tensor, p: int) -> Tensor:
    """Return where the map is above the value of rank p % and not zero."""
    flat = values.flatten(1)
    k = round(flat.shape[1] * p / 100)
    if k == 0:
        return torch.zeros_like(values, dtype=torch.bool)
    falling = flat.sort(dim=1, descending=True).values
    threshold = falling[:, min(k, flat.shape[1] - 1)]
    return (values > threshold[:, None, None]) & (values != 0)
