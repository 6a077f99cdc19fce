"""The number format of model calls: single precision, or bfloat16 where torch's autocast finds it safe.

Autocast runs matrix products and convolutions in bfloat16 and leaves weights, inputs and what needs more digits in
single precision. It holds during the model's forward pass alone: a method's own arithmetic, gradients by pixels, sums
and everything stored are in single precision under every plan.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter

import torch
import torch.nn.functional as F
from torch import Tensor

from salience.engine.plan import Precision
from salience.models.classifier import GRADIENTS, Classifier


@contextmanager
def casting(classifier: Classifier, precision: Precision) -> Iterator[None]:
    """Run what is inside in ``precision`` on the classifier's device, and leave autocast as it was found.

    Whatever the caller's own autocast is: the plan decides, since it is what the run records. Casts are not cached:
    torch keeps those of weights that ask for a gradient, and here none does.
    """
    kind = classifier.device.type
    if not torch.amp.is_autocast_available(kind):
        yield
        return
    with torch.autocast(kind, dtype=torch.bfloat16, enabled=precision == "bfloat16", cache_enabled=False):
        yield


@contextmanager
def exact_convolutions() -> Iterator[None]:
    """Have cuDNN multiply single precision as such, and leave its setting as it was found.

    By default torch lets it round the factors of convolutions to 10 bits (TF32): a precision that nobody asked for,
    some 1e-3 off, where results on two devices are to differ by the order of sums alone.
    """
    cudnn = torch.backends.cudnn
    try:
        allowed = cudnn.allow_tf32
    except RuntimeError:  # the caller has set convolutions and the rest differently, by torch's newer settings
        yield
        return
    cudnn.allow_tf32 = False
    try:
        yield
    finally:
        cudnn.allow_tf32 = allowed


def single(values: Tensor) -> Tensor:
    """Return values in single precision, or in double where they are."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def why_not(classifier: Classifier) -> str | None:
    """Return why a classifier cannot be run in bfloat16, None where it can."""
    kind = classifier.device.type
    if classifier.paid or GRADIENTS not in classifier.capabilities:
        return "its numbers are not computed by torch here"
    if classifier.dtype != torch.float32:
        return f"its weights are {str(classifier.dtype).removeprefix('torch.')}, and single precision is needed"
    if not torch.amp.is_autocast_available(kind):
        return f"torch has no mixed precision on {kind}"
    if kind == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        return f"{torch.cuda.get_device_name(classifier.device)} has no bfloat16"
    return None


def convolution_gain(device: torch.device, calls: int = 5) -> float | None:
    """Return how many times as fast a usual convolution runs in bfloat16 here; None where torch cannot.

    A hint for people who choose a machine: whether it pays for a model depends on its layers and is measured with it.
    """
    if not torch.amp.is_autocast_available(device.type):
        return None
    generator = torch.Generator().manual_seed(0)
    images, weights = (
        torch.randn(*shape, generator=generator).to(device, memory_format=torch.channels_last)
        for shape in ((8, 64, 56, 56), (64, 64, 3, 3))
    )

    def seconds(enabled: bool) -> float:
        with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled, cache_enabled=False):
            begin = perf_counter()
            F.conv2d(images, weights, padding=1).sum().item()  # waits for the device
            return perf_counter() - begin

    times = [(seconds(False), seconds(True)) for _ in range(calls + 1)][1:]  # the first ones are slow
    return min(t for t, _ in times) / min(t for _, t in times)
