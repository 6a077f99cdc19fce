"""How large a batch the memory of this machine carries: on a CPU, who asks for too much is ended without a word."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

_SHARE = 4
"""A batch's activations may take this part of the memory; the rest is for all else that runs."""
_UNKNOWN = 16 << 30
"""Bytes of memory where the system does not tell."""
_ALIVE = 3
"""So many of the largest activations are there at a time when none is kept for a backward pass: what a layer reads,
what it writes, and what is added to it later."""
_CONTROL_GROUPS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))


def room() -> int:
    """Return the bytes that the activations of all calls together may take on the CPU."""
    try:
        whole = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        whole = _UNKNOWN
    for limit in _CONTROL_GROUPS:
        try:
            whole = min(whole, int(limit.read_text()))
        except (OSError, ValueError):  # not there, or "max"
            continue
    return whole // _SHARE


def bytes_of_rows(module: nn.Module, call: Callable[[], object], *, gradients: bool) -> int:
    """Return the bytes of activations that ``call`` needs at a time: a forward pass of ``module`` with a graph.

    Parameters
    ----------
    gradients
        Whether they are kept for a backward pass; otherwise few live at once.
    """
    weights = {t.untyped_storage().data_ptr() for t in (*module.parameters(), *module.buffers())}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        call()
    sizes = list(kept.values())
    return sum(sizes) if gradients else _ALIVE * max(sizes, default=0)
