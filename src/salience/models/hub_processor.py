"""What an image processor of transformers does, read off its settings and off what it answers."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np

from salience.data.preprocessing import Fit, Interpolation, Preprocessing
from salience.errors import ModelError, SalienceWarning

# the numbers that PIL gives its filters
_FILTERS: dict[int, Interpolation] = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box"}


def preprocessing_of(processor: Any, where: str) -> Preprocessing:
    """Describe an image processor as a preprocessing.

    Size, mean and standard deviation are measured: the processor is shown images of one colour, which no resizing
    or cropping changes, so that its own rules of rescaling, offsets and defaults are all in the answer. What cannot
    be seen that way (filter, cropping) is read from its settings.

    Raises
    ------
    ModelError
        When the processor does something that a preprocessing cannot say.
    """
    settings = processor.to_dict()
    height, width, offset, gain = _measure(processor, where)
    fit, crop = _geometry(settings, (height, width), where)
    number = int(settings.get("resample", 2) if settings.get("resample") is not None else 2)
    if number not in _FILTERS:
        raise ModelError(f"{where}: its image processor uses the resampling filter {number}, which is not known here.")
    # answer = pixel * gain + offset = (pixel - mean) / std
    std = tuple(_round(1 / g) for g in gain)
    mean = tuple(_round(-o / g) for o, g in zip(offset, gain, strict=True))
    return Preprocessing((height, width), mean, std, _FILTERS[number], fit, crop)  # type: ignore[arg-type]  # three each


def geometry(fit: Fit, crop: float, where: str) -> tuple[Fit, float]:
    """Return fit and crop as a preprocessing can say them: what is squashed is kept whole, and that is told."""
    if fit == "squash" and crop < 1:
        warnings.warn(
            f"{where} was trained with images squashed and then cropped to {crop:.0%} of each side; here they are "
            "squashed and kept whole, so objects are a little smaller. Write a model card to choose otherwise.",
            SalienceWarning,
            stacklevel=2,
        )
        return fit, 1.0
    return fit, crop


def _round(value: float) -> float:
    """Drop the noise of single precision: 0.48500001 is 0.485."""
    return float(f"{value:.5g}") + 0.0


def _measure(processor: Any, where: str) -> tuple[int, int, list[float], list[float]]:
    """Show the processor black, white and red; return height, width, and offset and gain for each channel."""
    colours = np.array([[0, 0, 0], [255, 255, 255], [255, 0, 0]], dtype=np.uint8)
    images = [np.tile(colour, (300, 400, 1)) for colour in colours]  # not square: proportions show
    try:
        answer = processor(images=images, return_tensors="pt")["pixel_values"].double().numpy()
    except Exception as error:
        raise ModelError(
            f"{where}: its image processor {type(processor).__name__} fails on plain images: "
            f"{type(error).__name__}: {error}. Write a model card with a factory instead."
        ) from error
    if answer.ndim != 4 or answer.shape[:2] != (3, 3) or np.ptp(answer, axis=(2, 3)).max() > 1e-3:
        raise ModelError(
            f"{where}: its image processor {type(processor).__name__} does not make one plain image (3, H, W) of each "
            "image, so its maps could not be laid over it. Write a model card with a factory instead."
        )
    black, white, red = answer.mean(axis=(2, 3))
    if np.abs(red - [white[0], black[1], black[2]]).max() > 1e-3:
        raise ModelError(
            f"{where}: its image processor exchanges colour channels. Write a model card whose factory wraps the model "
            "in a module that exchanges them: forward(x) = model(x.flip(1))."
        )
    return answer.shape[2], answer.shape[3], list(black), list(white - black)


def _geometry(settings: Mapping[str, Any], size: tuple[int, int], where: str) -> tuple[Fit, float]:
    """Read how the processor brings an image to its size: fit, and the share that its centre crop keeps."""
    resize = settings.get("size") or {}
    if not settings.get("do_resize", True):
        return "crop", 1.0
    if settings.get("crop_pct") is not None and "shortest_edge" in resize:
        # ConvNeXt's rule: below 384 resize the short side to size / crop_pct and crop, from 384 on squash
        edge = int(resize["shortest_edge"])
        return (
            ("squash", 1.0)
            if edge >= 384 and "ConvNext" in str(settings.get("image_processor_type"))
            else (
                "crop",
                float(settings["crop_pct"]),
            )
        )
    if "height" in resize and "width" in resize:
        return geometry("squash", min(1.0, size[0] / int(resize["height"])), where)
    if "shortest_edge" in resize:
        if not settings.get("do_center_crop") and size[0] != size[1]:
            raise ModelError(f"{where}: its image processor keeps every image's own proportions. Write a model card.")
        return "crop", min(1.0, min(size) / int(resize["shortest_edge"]))
    raise ModelError(f"{where}: its image processor resizes by {dict(resize)!r}, which is not known here.")
