"""What all comparisons share: the classifier, its images, and the ways in which the peers are given both."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from salience.data.base import ImageSource
from salience.data.decode import load
from salience.data.geometry import box_to_input
from salience.engine.plan import Plan
from salience.engine.runner import to_pixels
from salience.engine.tune import running
from salience.metrics.localisation import box_mask
from salience.models.classifier import Classifier, unpack_logits

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class How:
    """How a peer is called: batch, memory format and threads of ``plan``; ``usual`` leaves the weights as they were."""

    plan: Plan
    usual: bool = False

    @property
    def batch(self) -> int:
        """Images, or rows, in a model call."""
        return self.plan.batch

    @contextmanager
    def entered(self, classifier: Classifier) -> Iterator[None]:
        """Set the model up so; leave all as it was found."""
        asked = [p for p in classifier.module.parameters() if p.requires_grad]
        with running(classifier, self.plan):
            for parameter in asked if self.usual else ():
                parameter.requires_grad_()
            yield


@dataclass(frozen=True, eq=False)
class Scene:
    """N images for one classifier.

    Attributes
    ----------
    pixels
        Decoded, (N, 3, H, W) in [0, 1], on the classifier's device.
    targets
        The predicted classes, int64 (N,), in memory.
    inside
        bool (N, H, W): where the pixels lie in the images' boxes; of images without one, in their central half.
    """

    classifier: Classifier
    source: ImageSource
    pixels: Tensor
    targets: npt.NDArray[np.int64]
    inside: npt.NDArray[np.bool_]

    @classmethod
    def of(cls, classifier: Classifier, source: ImageSource) -> Scene:
        """Decode the images and ask for their classes."""
        source = copy.copy(source)
        loaded = [load(source, ref, classifier.preprocessing) for ref in source.refs]
        source.refs = [
            ref if ref.boxes else replace(ref, boxes=(_central_half(one.width, one.height),))
            for ref, one in zip(source.refs, loaded, strict=True)
        ]
        pixels = to_pixels([one.pixels for one in loaded], classifier).to(classifier.device, classifier.dtype)
        with running(classifier, Plan(min(32, len(pixels)), "contiguous", torch.get_num_threads())), torch.no_grad():
            targets = torch.cat([classifier.logits(part).argmax(1) for part in pixels.split(32)])
        size = classifier.preprocessing.size
        inside = []
        for ref, one in zip(source.refs, loaded, strict=True):
            boxes = [box_to_input(b, one.width, one.height, classifier.preprocessing) for b in ref.boxes]
            inside.append(box_mask(torch.tensor(boxes), size).numpy())
        return cls(classifier, source, pixels, targets.cpu().numpy(), np.stack(inside))

    def __len__(self) -> int:
        return len(self.targets)

    @property
    def ids(self) -> tuple[str, ...]:
        """The images' names."""
        return tuple(ref.image_id for ref in self.source.refs)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the model's input."""
        return self.classifier.preprocessing.size

    def first(self, count: int) -> Scene:
        """Return the first images."""
        source = copy.copy(self.source)
        source.refs = source.refs[:count]
        return Scene(self.classifier, source, self.pixels[:count], self.targets[:count], self.inside[:count])

    def laid_out(self, how: How) -> Scene:
        """Return the scene with pixels in a peer's memory format."""
        return replace(self, pixels=self.pixels.contiguous(memory_format=how.plan.torch_format))

    def rows(self, batch: int) -> list[slice]:
        """Return the batches."""
        return [slice(at, min(len(self), at + batch)) for at in range(0, len(self), batch)]

    def settings(self) -> dict[str, int]:
        """Return sizes that divide the input: ``stride``, about a fourteenth of it, and ``window``, two strides."""
        side = min(self.size)
        stride = max(s for s in range(1, max(1, side // 14) + 1) if side % s == 0)
        return {"stride": stride, "window": 2 * stride}


def _central_half(width: int, height: int) -> tuple[float, float, float, float]:
    return width / 4, height / 4, 3 * width / 4, 3 * height / 4


class FromPixels(nn.Module):
    """The model as most peers are given it: pixels in [0, 1] in, logits out, or probabilities."""

    def __init__(self, classifier: Classifier, *, probabilities: bool = False) -> None:
        super().__init__()
        self.net = classifier.module
        self.mean, self.std = (
            nn.Buffer(torch.tensor(v, dtype=classifier.dtype, device=classifier.device).view(1, 3, 1, 1))
            for v in (classifier.preprocessing.mean, classifier.preprocessing.std)
        )
        self.probabilities = probabilities

    def forward(self, x: Tensor) -> Tensor:
        logits = unpack_logits(self.net((x - self.mean) / self.std), len(x))
        return logits.softmax(1) if self.probabilities else logits


class FromNormalised(nn.Module):
    """The model for peers that put zero in the place of pixels: normalised images in, logits out."""

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self.net = classifier.module

    def forward(self, x: Tensor) -> Tensor:
        return unpack_logits(self.net(x), len(x))


def predicted(model: nn.Module, x: Tensor) -> Tensor:
    """Return the classes of a batch: nobody knows them without a forward pass."""
    with torch.no_grad():
        found: Tensor = model(x).argmax(1)
    return found


def floats(values: Any) -> Floats:
    """Return a tensor's or an array's values."""
    return np.asarray(values.detach().cpu() if isinstance(values, Tensor) else values, dtype=np.float64)
