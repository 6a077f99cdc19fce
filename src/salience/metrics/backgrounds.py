"""Backgrounds: what takes the place of the pixels that a mask removes, as people name it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from salience.engine.fills import FILLS, fill
from salience.engine.masked import Fixed, Replacement
from salience.engine.pool import Pool
from salience.engine.random import choose, row_key
from salience.engine.registry import split
from salience.engine.road import imputed
from salience.errors import MetricError, nearest
from salience.models.classifier import Classifier

DRAWS = {"dataset": 20, "noise": 1, "road": 1}
"""Backgrounds that are drawn, and how often; answers are averaged over the draws."""
DATASET_MEAN, ROAD = "dataset-mean", "road"
BACKGROUNDS = (DATASET_MEAN, *FILLS, ROAD)
FIXED = (DATASET_MEAN, *(name for name in FILLS if name not in DRAWS))
"""Backgrounds that neither draw anything nor depend on the mask."""
VERSIONS = {"road": 2}
"""Raised whenever the pixels of a background change, from 1: scores under the old ones are then computed again."""


@dataclass(frozen=True)
class Background:
    """A background and the number of its draws, under the label that names it in tables.

    ``dataset-mean`` is the mean of the preprocessing, zero in the normalised space: the published one. ``mean`` is
    each image's own mean colour. ``dataset`` draws whole other images from a pool. ``road`` fills what is removed from
    its neighbours, see :mod:`salience.engine.road`. The others are
    :func:`~salience.engine.fills.fill`'s.
    """

    label: str
    name: str
    draws: int = 1

    @property
    def numbers(self) -> str:
        """Name all that decides the pixels but for image, seed and pool: part of a score's identity."""
        version = VERSIONS.get(self.name, 1)
        return self.label if version == 1 else f"{self.label} (version {version})"

    def replacement(
        self,
        classifier: Classifier,
        images: Tensor,
        image_ids: Sequence[str],
        seed: int,
        draw: int,
        pool: Pool | None,
    ) -> Replacement:
        """Return what replaces pixels of images (N, 3, H, W) in one draw.

        Every image is made by itself: what it gets does not depend on the images beside it.
        """
        if self.name == DATASET_MEAN:
            mean = images.new_tensor(classifier.preprocessing.mean).view(1, 3, 1, 1)
            return Fixed(mean.expand(len(images), -1, -1, -1))
        if self.name == ROAD:
            return imputed(images, image_ids, seed, draw)
        if self.name == "dataset":
            return Fixed(other_images(images, image_ids, seed, draw, pool))
        rows = []
        for image, image_id in zip(images, image_ids, strict=True):
            one = fill(self.name, image[None], [image_id], seed, draw)
            rows.append(one.expand(1, 3, *one.shape[2:]))
        return Fixed(torch.cat(rows))


def other_images(images: Tensor, image_ids: Sequence[str], seed: int, draw: int, pool: Pool | None) -> Tensor:
    """Return for each image the ``draw``-th of its pool images in an order of its own, itself left out: (N, 3, H, W).

    Raises
    ------
    MetricError
        When there is no pool.
    """
    if pool is None:
        raise MetricError("Other images of the dataset are to be drawn, and here is no pool of them.")
    rows = []
    for own, image_id in zip(pool.find(images).tolist(), image_ids, strict=True):
        order = [i for i in choose(row_key(seed, "background", image_id), len(pool), len(pool)) if i != own]
        rows.append(order[draw % len(order)])
    return pool.images[rows].to(images.device, images.dtype).div_(255)


def fixed_background(name: str, classifier: Classifier, images: Tensor, image_ids: Sequence[str], seed: int) -> Tensor:
    """Return one of the :data:`FIXED` backgrounds of images (N, 3, H, W), in that shape."""
    made = Background(name, name).replacement(classifier, images, image_ids, seed, 0, None)
    assert isinstance(made, Fixed)  # the names say so
    return made.background.expand_as(images)


def parse_background(text: str) -> Background:
    """Read ``blur`` or ``dataset:draws=5``.

    Raises
    ------
    MetricError
        When there is no such background or setting.
    """
    name, words, given = split(text)
    if name not in BACKGROUNDS:
        raise MetricError(
            f"Background {name!r} is unknown; choose of {', '.join(BACKGROUNDS)}.{nearest(name, BACKGROUNDS)}"
        )
    allowed = {"draws"} if name in DRAWS else set()
    wrong = words or [k for k in given if k not in allowed]
    if wrong:
        has = "It has: draws." if allowed else "It has none."
        raise MetricError(f"Background {name!r} has no setting {wrong[0]!r}. {has}")
    draws = DRAWS.get(name, 1)
    if "draws" in given:
        if not given["draws"].isdecimal() or int(given["draws"]) < 1:
            raise MetricError(f"Background {name!r}: draws is {given['draws']!r}; a whole number above 0 is needed.")
        draws = int(given["draws"])
    return Background(text.strip(), name, draws)
