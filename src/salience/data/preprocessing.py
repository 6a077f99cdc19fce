"""What happens to an image before a model sees it: one fixed geometry, one normalisation."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from salience.errors import SettingsError

Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos", "box"]
Fit = Literal["crop", "squash"]


@dataclass(frozen=True)
class Preprocessing:
    """The way from an image file to a model's input.

    Parameters
    ----------
    size
        Input height and width in pixels.
    mean, std
        Per-channel mean and standard deviation of pixels in [0, 1]: the model gets ``(x - mean) / std``.
    interpolation
        Resampling filter, as Pillow names it; always antialiased.
    fit
        ``crop`` resizes the short side to ``size / crop`` and keeps the centre (the usual ImageNet evaluation);
        ``squash`` resizes both sides and keeps everything.
    crop
        Share of the resized image that the centre crop keeps, in (0, 1].
    """

    size: tuple[int, int]
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    interpolation: Interpolation = "bicubic"
    fit: Fit = "crop"
    crop: float = 1.0

    def __post_init__(self) -> None:
        if len(self.size) != 2 or any(s < 1 for s in self.size):
            raise SettingsError(f"size is {self.size!r}: two positive numbers (height, width) are needed.")
        for name, value in (("mean", self.mean), ("std", self.std)):
            if len(value) != 3:
                raise SettingsError(f"{name} has {len(value)} values: three are needed, one for each colour channel.")
            if not all(math.isfinite(v) for v in value):
                raise SettingsError(f"{name} is {value!r}: all three values must be finite.")
        if any(s <= 0 for s in self.std):
            raise SettingsError(f"std is {self.std!r}: all three values must be above zero.")
        if self.interpolation not in get_args(Interpolation):
            raise SettingsError(
                f"interpolation is {self.interpolation!r}: choose one of {', '.join(get_args(Interpolation))}."
            )
        if self.fit not in get_args(Fit):
            raise SettingsError(f"fit is {self.fit!r}: choose 'crop' or 'squash'.")
        if not 0 < self.crop <= 1:
            raise SettingsError(f"crop is {self.crop!r}: a share in (0, 1] is needed.")

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as plain lists and numbers, ready for JSON."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}
