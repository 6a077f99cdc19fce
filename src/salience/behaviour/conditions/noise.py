"""Salt-and-pepper noise at the size of the file, as published."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from salience.behaviour.conditions.condition import HostCondition
from salience.behaviour.conditions.registry import register
from salience.behaviour.traits import CRUM
from salience.data.base import Pixels
from salience.engine.random import key_words, row_key, uniform_at
from salience.errors import SettingsError

AMOUNTS = (0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 1.0)
_DRAWN = 1 << 22
"""Numbers drawn at a time: what the noise of a large photograph takes of the memory stays small."""


@register(
    "salt-pepper",
    lambda: [SaltPepper(amount) for amount in AMOUNTS],
    family="noise",
    measure="out-of-set",
    summary="A share of the values is set to black or white, before the image is resized",
    reference=CRUM,
    details="Published: the amounts, at the native size of the image. Inferred: every value (pixel and channel) by "
    "itself, salt and pepper alike often, as in scikit-image's random_noise. Ours: an image's noise grows with the "
    "amount, so what is white at 0.05 is white at 0.1.",
    published=True,
    drawn=True,
)
@dataclass(frozen=True)
class SaltPepper(HostCondition):
    """Salt-and-pepper noise.

    Published: the amounts 0.01, 0.05, 0.1, 0.25, 0.5, 0.75 and 1 at the native image size. Inferred: each value (pixel
    and channel) is drawn by itself; salt and pepper are equally likely. Ours: the draws of an image are the same for
    all amounts, so that its noise only grows.

    Parameters
    ----------
    amount
        Share of the values that are set to 0 or to the largest value, in (0, 1].
    """

    amount: float

    native: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not 0 < self.amount <= 1:
            raise SettingsError(f"The amount of salt and pepper is {self.amount}: a share in (0, 1] is needed.")

    @property
    def name(self) -> str:
        """Such as ``salt-pepper-0.05``."""
        return f"salt-pepper-{self.amount:g}"

    @property
    def severity(self) -> float:
        """The amount."""
        return self.amount

    def read(self, image: Pixels, image_id: str, seed: int) -> Pixels:
        """Return the image with noise: lowest draws become salt, highest pepper."""
        out = image.copy()
        flat = out.reshape(-1)
        words = key_words([row_key(seed, "salt-pepper", image_id)], "cpu")
        for at in range(0, flat.size, _DRAWN):
            some = flat[at : at + _DRAWN]
            drawn = uniform_at(words, torch.tensor([at]), some.size)[0].numpy()
            some[drawn < self.amount / 2] = 255 if image.dtype == np.uint8 else 1
            some[drawn >= 1 - self.amount / 2] = 0
        return out
