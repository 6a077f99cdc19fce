"""Between the host and the device: page-locked memory and copies that run beside the model, where there is a GPU.

A copy from ordinary memory makes the host wait, whatever it is asked for. From page-locked memory it is a place in the
device's queue: the next batch travels, and the last one's results are read, while the model computes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Array = npt.NDArray[Any]


def queues(device: torch.device) -> bool:
    """Tell whether copies of a device are queued: only CUDA's are, and only with page-locked memory."""
    return device.type == "cuda"


def upload(arrays: Sequence[Array], device: torch.device) -> Tensor:
    """Stack equally large arrays and bring them to the device."""
    if not queues(device):
        return torch.from_numpy(np.stack(arrays)).to(device)
    like = torch.from_numpy(arrays[0])
    held = _page_locked((len(arrays), *like.shape), like.dtype)
    np.stack(arrays, out=held.numpy())
    return held.to(device, non_blocking=True)  # torch keeps the memory until the copy is done


class Download:
    """Tensors on their way to the host; :meth:`arrays` waits for them."""

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        first = next((t for t in tensors if queues(t.device)), None)
        self._arrived: torch.cuda.Event | None = None
        if first is None:
            self._host = [t.cpu() for t in tensors]
            return
        self._host = [_page_locked(t.shape, t.dtype).copy_(t, non_blocking=True) for t in tensors]
        self._arrived = _mark(first.device)

    def arrays(self) -> list[Array]:
        """Return the tensors' values, in their order."""
        if self._arrived is not None:
            self._arrived.synchronize()
        return [t.numpy() for t in self._host]


def _page_locked(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    return torch.empty(tuple(shape), dtype=dtype, pin_memory=True)


def _mark(device: torch.device) -> torch.cuda.Event:
    """Return what happens when all that was asked of a device before has been done."""
    event: torch.cuda.Event = torch.cuda.Event()  # type: ignore[no-untyped-call]
    event.record(torch.cuda.current_stream(device))
    return event
