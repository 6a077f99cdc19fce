"""Where a training run stands: one file of tensors, with the log in its header, that is either whole or not there."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from salience.store.files import whole_file

_HEADER = "salience training"
_VERSION = 1


@dataclass(frozen=True)
class Checkpoint:
    """A run after some epochs.

    Attributes
    ----------
    history
        Its log, one record an epoch.
    now, best
        Weights and buffers of what is trained, after the last epoch and after the best one.
    momentum
        What the descent remembers of each weight.
    """

    history: list[dict[str, Any]]
    now: dict[str, Tensor]
    best: dict[str, Tensor]
    momentum: dict[str, Tensor]


def write_checkpoint(path: Path, key: str, checkpoint: Checkpoint) -> None:
    """Write a checkpoint; ``key`` names what is trained and how.

    Raises
    ------
    RunError
        When the disk is full or the place cannot be written.
    """
    tensors = {
        f"{group}.{name}": tensor.detach().cpu().contiguous().clone()
        for group in ("now", "best", "momentum")
        for name, tensor in getattr(checkpoint, group).items()
    }
    header = {"version": _VERSION, "key": key, "history": checkpoint.history}
    with whole_file(path) as file:
        file.write(save(tensors, {_HEADER: json.dumps(header)}))


def read_checkpoint(path: Path, key: str) -> Checkpoint | None:
    """Read a checkpoint, or return None where there is none, or one of something else."""
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {}).get(_HEADER, "{}"))
            if header.get("version") != _VERSION or header.get("key") != key:
                return None
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # it is no mapping
    except (OSError, SafetensorError, ValueError):  # whatever is there, it is none of ours
        return None
    groups: dict[str, dict[str, torch.Tensor]] = {"now": {}, "best": {}, "momentum": {}}
    for name, tensor in tensors.items():
        group, _, rest = name.partition(".")
        groups[group][rest] = tensor
    return Checkpoint(header["history"], **groups)
