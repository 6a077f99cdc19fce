"""Every attribution method of Captum, under ``captum:ClassName``; the package comes with the extra ``captum``."""

from __future__ import annotations

import importlib
import inspect
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from salience.engine.method import Subject, WholeMethod
from salience.engine.passes import is_out_of_memory
from salience.engine.random import row_key
from salience.errors import MethodError, SalienceError, nearest
from salience.methods.registry import register

#: classes that draw random numbers: their images are explained one by one, each under its own seed
_GENERATORS = threading.Lock()
"""Held by whoever draws from the global generators: they belong to all threads."""
_DRAWS = frozenset(
    {
        "GradientShap",
        "LayerGradientShap",
        "DeepLiftShap",
        "LayerDeepLiftShap",
        "KernelShap",
        "Lime",
        "LimeBase",
        "ShapleyValueSampling",
        "ShapleyValues",
    }
)
#: classes whose numbers for an image depend on the other images of the batch
_MIXES = frozenset({"FeaturePermutation", "LayerFeaturePermutation"})
_SKIPPED = frozenset(
    {
        "Attribution",
        "GradientAttribution",
        "PerturbationAttribution",
        "InternalAttribution",
        "LayerAttribution",
        "NeuronAttribution",
        "DataLoaderAttribution",
    }
)


@register(
    "captum",
    summary="any attribution class of Captum, e.g. captum:DeepLift or captum:Occlusion:strides=8",
    family="adapters",
    signed=True,
    reference="Kokhlikyan et al. 2020, arXiv 2009.07896",
    details="Captum's own numbers, on pixels in [0, 1], normalisation inside the model; colour channels summed.",
    stochastic=True,
)
@dataclass(frozen=True)
class Captum(WholeMethod):
    """An attribution class of ``captum.attr``.

    Parameters
    ----------
    class_name
        For instance ``Saliency``, ``DeepLift``, ``Occlusion``, ``LayerGradCam``.
    layer_name
        For classes that need a layer; found automatically when None.
    options
        Settings for the class's ``attribute``, e.g. ``n_steps=16``; written behind further colons. For ``Occlusion``,
        ``sliding_window_shapes`` and ``strides`` may be one number of pixels.
    """

    class_name: str
    layer_name: str | None = None
    options: tuple[tuple[str, Any], ...] = ()

    def __post_init__(self) -> None:
        cls = self._class()
        if self.class_name in _MIXES:
            raise MethodError(
                f"captum's {self.class_name} permutes pixels between the images of a batch: the map of an image would "
                "depend on its neighbours. Choose FeatureAblation or ShapleyValueSampling."
            )
        known = inspect.signature(cls.attribute).parameters
        for key, _ in self.options:
            if key not in known or key in ("inputs", "target"):
                raise MethodError(f"captum's {self.class_name}.attribute has no setting {key!r}.{nearest(key, known)}")

    def _class(self) -> Any:
        try:
            attr = importlib.import_module("captum.attr")
        except ImportError as error:
            raise MethodError('captum is not installed: pip install "salience[captum]".') from error
        classes = {
            name: cls
            for name, cls in vars(attr).items()
            if inspect.isclass(cls)
            and hasattr(cls, "attribute")
            and name not in _SKIPPED
            and not name.startswith(("Neuron", "Llm", "LLM", "RemoteLLM", "NoiseTunnel", "Internal"))
        }
        if self.class_name not in classes:
            raise MethodError(
                f"captum has no attribution class {self.class_name!r}.{nearest(self.class_name, classes)}"
            )
        return classes[self.class_name]

    @property
    def layer(self) -> str | Literal[False] | None:
        """A layer where the class takes one."""
        return self.layer_name if "layer" in inspect.signature(self._class().__init__).parameters else False

    def attribute(self, subject: Subject) -> Tensor:
        """Run captum on the batch, or image by image where the class draws random numbers."""
        cls = self._class()
        explainer = cls(subject.module) if self.layer is False else cls(subject.module, subject.layer_module)
        options = self._options(cls, subject)
        if self.class_name not in _DRAWS:
            return self._map(explainer, subject, slice(None), options)
        maps = []
        for i in range(subject.rows):
            with _seeded(row_key(subject.seed, "captum", subject.image_ids[i]), subject.images.device):
                maps.append(self._map(explainer, subject, slice(i, i + 1), options))
        return torch.cat(maps)

    def _options(self, cls: Any, subject: Subject) -> dict[str, Any]:
        options = dict(self.options)
        height, width = subject.images.shape[-2:]
        if self.class_name == "Occlusion":
            window = options.setdefault("sliding_window_shapes", max(1, min(height, width) // 8))
            strides = options.setdefault("strides", window if isinstance(window, int) else None)
            if isinstance(window, int):
                options["sliding_window_shapes"] = (3, window, window)
            if isinstance(strides, int):
                options["strides"] = (3, strides, strides)
        if self.class_name.endswith(("GradientShap", "DeepLiftShap")):
            options.setdefault("baselines", torch.zeros_like(subject.images[:1]).expand(2, -1, -1, -1))
        if self.class_name in ("KernelShap", "Lime", "ShapleyValueSampling", "FeatureAblation", "FeaturePermutation"):
            options.setdefault("feature_mask", _grid(subject.images, 8))
        return options

    def _map(self, explainer: Any, subject: Subject, rows: slice, options: dict[str, Any]) -> Tensor:
        images = subject.images[rows].contiguous()  # parts of captum take views that other formats do not allow
        if self.class_name.startswith("LayerDeepLift"):
            images.requires_grad_()  # it hooks gradients, and does not ask for them
        if "target" in inspect.signature(explainer.attribute).parameters:
            options = {**options, "target": subject.target[rows]}
        try:
            found = explainer.attribute(images, **options)
        except Exception as error:
            if isinstance(error, SalienceError) or is_out_of_memory(error):
                raise
            raise MethodError(
                f"captum's {self.class_name} does not work with this model: {type(error).__name__}: {error}"
            ) from error
        if isinstance(found, tuple):
            found = found[0]
        if subject.layer is not None:
            return subject.layer.maps(found).sum(1) if found.shape[1:] != subject.layer.grid else found
        values: Tensor = found
        return values.sum(1) if values.ndim == 4 else values


@contextmanager
def _seeded(key: int, device: torch.device) -> Iterator[None]:
    """Seed the global generators, which captum draws from, and put them back as they were; one thread at a time."""
    with _GENERATORS, torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        numpy_state = np.random.get_state()  # noqa: NPY002  # captum draws from the old global generator
        torch.manual_seed(key >> 1)
        np.random.seed(key & 0xFFFFFFFF)  # noqa: NPY002
        try:
            yield
        finally:
            np.random.set_state(numpy_state)  # noqa: NPY002


def _grid(images: Tensor, cells: int) -> Tensor:
    """Return a mask (1, 3, H, W) that numbers the cells of a grid, the same over channels."""
    height, width = images.shape[-2:]
    rows = torch.arange(height, device=images.device) * min(cells, height) // height
    columns = torch.arange(width, device=images.device) * min(cells, width) // width
    return (rows[:, None] * min(cells, width) + columns[None]).expand(1, 3, height, width).contiguous()
