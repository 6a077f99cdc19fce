"""Weights from files: tensors alone, never pickled code, loaded strictly and with errors that name the keys."""

from __future__ import annotations

import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from salience.errors import ModelError

PICKLED = (".pt", ".pth", ".th")
SUFFIXES = (".safetensors", *PICKLED)
# where training scripts put the state dict of a checkpoint that holds more
_WRAPPERS = ("state_dict", "model", "model_state_dict", "net")


def read_state(path: Path, where: str) -> dict[str, Tensor]:
    """Read a state dict from ``.safetensors``, or from ``.pt``, ``.pth``, ``.th`` without unpickling any code.

    A checkpoint that holds the state dict under ``state_dict``, ``model``, ``model_state_dict`` or ``net`` is
    unwrapped, and the ``module.`` that DataParallel puts before every key is taken off.

    Parameters
    ----------
    path
        The file.
    where
        What asked for it, for the message: ``Model card x.toml``.

    Raises
    ------
    ModelError
        When the file is missing, of another kind, broken, or would need unpickling.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise ModelError(f"{where}: weights are {str(path)!r}; a file ending in {', '.join(SUFFIXES)} is needed.")
    if not path.is_file():
        raise ModelError(f"{where}: there is no file of weights {str(path)!r}. Check the path.")
    content = _read_safetensors(path, where) if path.suffix.lower() == ".safetensors" else _read_torch(path, where)
    for key in _WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not all(isinstance(v, Tensor) for v in content.values()) or not content:
        raise ModelError(
            f"{where}: {str(path)!r} holds no state dict of tensors. Save one with: "
            "safetensors.torch.save_model(model, 'weights.safetensors')."
        )
    if all(key.startswith("module.") for key in content):
        return {key.removeprefix("module."): value for key, value in content.items()}
    return dict(content)


def _read_safetensors(path: Path, where: str) -> Any:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise ModelError(f"{where}: {str(path)!r} cannot be read as safetensors: {error}.") from error


def _read_torch(path: Path, where: str) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ModelError(
            f"{where}: {str(path)!r} would need unpickling, which can run any code, and is refused. Where you trust "
            "the file, convert it once: load it yourself, then "
            "safetensors.torch.save_model(model, 'weights.safetensors'), and name that file."
        ) from error
    except Exception as error:  # torch raises RuntimeError, EOFError, zipfile and attribute errors for broken files
        raise ModelError(
            f"{where}: {str(path)!r} cannot be read as weights: {type(error).__name__}: {error}. "
            "Is it a state dict saved with torch.save, and complete?"
        ) from error


def load_weights(module: nn.Module, path: Path, where: str) -> None:
    """Load a file of weights into ``module``; every key must be there, fit, and be used.

    Raises
    ------
    ModelError
        When the file cannot be used, or its keys or shapes are not those of the module.
    """
    state = read_state(path, where)
    own = module.state_dict()
    _fill_tied(state, own)
    misfits = [
        f"{key} is {tuple(state[key].shape)} in the file and {tuple(own[key].shape)} in the model"
        for key in own
        if key in state and isinstance(own[key], Tensor) and own[key].shape != state[key].shape
    ]
    missing: Sequence[str] = [key for key in own if key not in state]
    unexpected: Sequence[str] = [key for key in state if key not in own]
    if not misfits:
        # the module has the last word: it may know older names of its own keys
        missing, unexpected = module.load_state_dict(state, strict=False)
    if missing or unexpected or misfits:
        problems = [
            _listed("missing in the file", missing),
            _listed("not known to the model", unexpected),
            _listed("of another shape", misfits),
        ]
        raise ModelError(
            f"{where}: the weights {str(path)!r} do not fit {type(module).__name__}. "
            f"{' '.join(p for p in problems if p)} "
            "Check that the file belongs to this architecture and number of classes."
        )


def _fill_tied(state: dict[str, Tensor], own: Mapping[str, Any]) -> None:
    """Give a key that the file lacks the tensor of a key that shares its memory in the model: files store it once."""
    places = {_place(own[key]): key for key in state if isinstance(own.get(key), Tensor) and own[key].numel() > 0}
    for key, tensor in own.items():
        if key not in state and isinstance(tensor, Tensor) and _place(tensor) in places:
            state[key] = state[places[_place(tensor)]]


def _place(tensor: Tensor) -> tuple[int, tuple[int, ...], tuple[int, ...]]:
    return tensor.data_ptr(), tuple(tensor.shape), tensor.stride()


def _listed(what: str, items: Sequence[str], limit: int = 5) -> str:
    if not items:
        return ""
    more = f" and {len(items) - limit} more" if len(items) > limit else ""
    return f"{len(items)} {what}: {', '.join(items[:limit])}{more}."
