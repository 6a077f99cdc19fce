"""Neutral encoders: what segments look like to a model that is none of those compared."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from typing import Any, Protocol, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from salience.comparison.places import PLACE, PlaceEncoder
from salience.engine.passes import call_model, is_out_of_memory, pad
from salience.engine.plan import Plan
from salience.engine.runner import to_pixels
from salience.engine.tune import make_plan, running
from salience.errors import MethodError, ModelError, SalienceError
from salience.models.callables import code_identity, probe_batch, rough
from salience.models.classifier import Classifier, as_found
from salience.models.devices import resolve_device
from salience.models.layers import Layer, capture, find_layer
from salience.models.loading import load_model
from salience.models.registry import make_name

COLOR = "color"
"""The choice of no encoder: descriptors of colour and texture."""
CROP = "crop"
"""Before a colon and a model: its embedding of crops, in place of its dense features."""
SIZE = (224, 224)
"""Input of an encoder that is a function."""
_BATCH = 32
_VERSION = 1

Pixels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]


class Encoder(Protocol):
    """Turns whole images into grids of features.

    Attributes
    ----------
    name
        What it is called in settings and on the page.
    identity
        Plain values that name it: two encoders of equal identity give equal features. ``weights`` is the fingerprint
        of the model.
    size
        Rows and columns of the pixels that it takes: the whole image, squashed.
    crops
        Whether segments are cut out and embedded one by one, instead of pooled from the image's grid.
    """

    name: str
    size: tuple[int, int]
    crops: bool

    @property
    def identity(self) -> dict[str, Any]:
        """Return what names the features."""
        ...

    def features(self, pixels: Pixels) -> Floats:
        """Return the features (N, D, h, w) of pixels uint8 (N, H, W, 3)."""
        ...


def parse_encoder(
    given: str | Classifier | Encoder | Callable[[Tensor], Tensor], device: str | torch.device = "auto"
) -> Encoder | None:
    """Return the encoder that is meant; None for ``color``, the descriptors of colour and texture.

    Parameters
    ----------
    given
        ``color``; ``place``, where segments lie (:class:`~salience.comparison.places.PlaceEncoder`); a model as
        :func:`~salience.models.loading.load_model` takes it (its features are those of the last layer with a grid,
        before pooling); the same behind ``crop:``; a classifier; an encoder; or a function from pixels float32 (N, 3,
        224, 224) in [0, 1] to features (N, D, h, w), which normalises by itself.
    device
        Where models run that are loaded here, and the tensors of a function lie.

    Raises
    ------
    ModelError
        When there is no such model, or it gives no access to its features.
    """
    if isinstance(given, str):
        if given in (COLOR, "colour"):
            return None
        if given == PLACE:
            return PlaceEncoder()
        head, colon, rest = given.partition(":")
        crops = head == CROP and bool(colon)
        return ModelEncoder(load_model(rest if crops else given, device=device), crops=crops)
    if isinstance(given, Classifier):
        return ModelEncoder(given)
    if not isinstance(given, nn.Module) and hasattr(given, "features") and hasattr(given, "crops"):
        return cast("Encoder", given)
    if callable(given):
        return FunctionEncoder(given, device=device)
    raise ModelError(
        f"The encoder is {type(given).__name__}; the spec or card of a model, a classifier, a function of images or "
        f"{COLOR!r} is needed."
    )


class ModelEncoder:
    """The features of a classifier's last layer with a grid, before pooling.

    Parameters
    ----------
    classifier
        Left as found: features are read by a hook. Its own size and normalisation hold; the image is squashed.
    layer
        Dotted name of the layer; the classifier's own or the one that is found by default.
    crops
        See :class:`Encoder`.
    batch
        Images in a call; the last rows are repeated where images run out.

    Raises
    ------
    ModelError
        When the model has no layer with a grid.
    """

    def __init__(
        self, classifier: Classifier, *, layer: str | None = None, crops: bool = False, batch: int = _BATCH
    ) -> None:
        self.classifier = classifier
        self.name = classifier.name
        self.size = classifier.preprocessing.size
        self.crops = crops
        self._batch = batch
        try:
            self.layer: Layer = find_layer(classifier, layer)
        except MethodError as error:
            raise ModelError(
                f"Model {classifier.name!r} cannot be the encoder: {error} Or give another model, a function from "
                f"images (N, 3, H, W) to features (N, D, h, w), or {COLOR!r}."
            ) from error

    @cached_property
    def identity(self) -> dict[str, Any]:
        """What names the features: model, layer, version."""
        return {
            "kind": "crops" if self.crops else "dense",
            "name": self.name,
            "weights": self.classifier.fingerprint(),
            "layer": self.layer.name,
            "version": _VERSION,
        }

    @cached_property
    def plan(self) -> Plan:
        """How the model is run."""
        return make_plan(self.classifier, gradients=False, batch=self._batch, lanes=1)

    def features(self, pixels: Pixels) -> Floats:
        """Return the features float32 (N, D, h, w) of pixels uint8 (N, H, W, 3); no batch changes an image's own.

        Raises
        ------
        ModelError
            When the model fails, its layer is not reached, or a feature is no finite number.
        """
        check_pixels(pixels, self.size, self.name)
        while True:
            try:
                return self._features(pixels)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error) or self.plan.batch == 1:
                    raise
            self.plan = replace(self.plan, batch=self.plan.batch // 2)

    def _features(self, pixels: Pixels) -> Floats:
        classifier, plan = self.classifier, self.plan
        found: list[Floats] = []
        with running(classifier, plan), torch.no_grad():
            for at in range(0, len(pixels), plan.batch):
                rows = to_pixels(list(pixels[at : at + plan.batch]), classifier)
                with capture(classifier, self.layer) as held:
                    call_model(classifier, pad(rows, plan.batch).contiguous(memory_format=plan.torch_format), plan)
                if held.activation is None:
                    raise ModelError(f"Layer {self.layer.name!r} of encoder {self.name!r} was not reached.")
                maps = self.layer.maps(held.activation.detach())[: len(rows)]
                found.append(maps.float().cpu().contiguous().numpy())
        return checked(found, self.name)


class FunctionEncoder:
    """A function from images to grids of features.

    Parameters
    ----------
    function
        Takes pixels float32 (N, 3, H, W) in [0, 1] on ``device`` and returns features (N, D, h, w). A torch module is
        called in eval mode without gradients, and left as found.
    size
        H and W.
    name
        What it is called; its own name by default.
    device
        Where its input lies.
    crops, batch
        As for :class:`ModelEncoder`.
    version
        Changes when the function answers differently and neither its code nor its answers to a probe show it.
    """

    def __init__(
        self,
        function: Callable[[Tensor], Tensor],
        *,
        size: tuple[int, int] = SIZE,
        name: str | None = None,
        device: str | torch.device = "auto",
        crops: bool = False,
        batch: int = _BATCH,
        version: str = "",
    ) -> None:
        self.function = function
        self.size = size
        self.name = name or make_name(getattr(function, "__name__", type(function).__name__))
        self.crops = crops
        self._device = resolve_device(device)
        self._batch = batch
        self._version = version

    @cached_property
    def identity(self) -> dict[str, Any]:
        """What names the features: the function's code, and roughly what it answers to a probe."""
        digest = hashlib.sha256(repr((code_identity(self.function), self.size, self._version)).encode())
        probe = (probe_batch(2, self.size) / 8 + 0.5).clamp(0, 1)
        digest.update(rough(torch.from_numpy(self._ask(probe)).flatten(1)))
        return {
            "kind": "crops" if self.crops else "dense",
            "name": self.name,
            "weights": digest.hexdigest()[:32],
            "version": _VERSION,
        }

    def features(self, pixels: Pixels) -> Floats:
        """Return the features float32 (N, D, h, w) of pixels uint8 (N, H, W, 3).

        Raises
        ------
        ModelError
            When the function fails or answers with something else than such finite features.
        """
        check_pixels(pixels, self.size, self.name)
        rows = torch.from_numpy(np.ascontiguousarray(pixels)).permute(0, 3, 1, 2)
        parts = (rows[at : at + self._batch] for at in range(0, len(rows), self._batch))
        return checked([self._ask(part.float().div_(255)) for part in parts], self.name)

    def _ask(self, rows: Tensor) -> Floats:
        full = pad(rows, self._batch).to(self._device)
        try:
            with torch.no_grad():
                if isinstance(self.function, nn.Module):
                    with as_found(self.function):
                        answer = self.function(full)
                else:
                    answer = self.function(full)
        except SalienceError:
            raise
        except Exception as error:
            raise ModelError(
                f"Encoder {self.name!r} fails on a batch of shape {tuple(full.shape)}: {type(error).__name__}: {error}"
            ) from error
        if not isinstance(answer, Tensor) or answer.ndim != 4 or len(answer) != len(full):
            shown = tuple(answer.shape) if isinstance(answer, Tensor) else type(answer).__name__
            raise ModelError(
                f"Encoder {self.name!r} returned {shown} for {len(full)} images; features (N, D, h, w) are needed."
            )
        return np.ascontiguousarray(answer[: len(rows)].detach().float().cpu().numpy())


def check_pixels(pixels: Pixels, size: tuple[int, int], name: str) -> None:
    """Refuse what is no batch of images of the encoder's size."""
    if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[1:] != (*size, 3) or not len(pixels):
        raise ModelError(
            f"Encoder {name!r} takes uint8 images (N, {size[0]}, {size[1]}, 3), N 1 or more, not {pixels.dtype} "
            f"{pixels.shape}."
        )


def checked(parts: list[Floats], name: str) -> Floats:
    """Return parts as one array; refuse features that are no numbers."""
    found = np.concatenate(parts)
    if not np.isfinite(found).all():
        raise ModelError(
            f"Encoder {name!r} gives features that are no finite numbers. Another precision or other weights may."
        )
    return found
