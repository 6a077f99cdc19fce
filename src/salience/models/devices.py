"""Where a model runs."""

from __future__ import annotations

import torch

from salience.errors import SettingsError, nearest

KINDS = ("auto", "cpu", "cuda", "mps")


def resolve_device(device: str | torch.device = "auto") -> torch.device:
    """Find the device that is meant: ``auto`` takes the first GPU where there is one, and the processor elsewhere.

    Parameters
    ----------
    device
        ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.

    Raises
    ------
    SettingsError
        When there is no such device here.
    """
    text = str(device)
    if text == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    kind = text.partition(":")[0]
    if kind not in KINDS:
        near = " Did you mean 'cuda'?" if kind == "gpu" else nearest(kind, KINDS)
        raise SettingsError(f"device is {text!r}.{near} Choose 'auto', 'cpu', 'cuda', 'cuda:N' or 'mps'.")
    try:
        found = torch.device(text)
    except RuntimeError:
        raise SettingsError(f"device is {text!r}; a whole number is needed behind the colon, e.g. 'cuda:0'.") from None
    if found.type == "cuda":
        _check_cuda(found)
    elif found.type == "mps" and not torch.backends.mps.is_available():
        raise SettingsError("device is 'mps', but PyTorch finds no Apple GPU here. Choose 'auto' or 'cpu'.")
    return found


def _check_cuda(device: torch.device) -> None:
    if not torch.cuda.is_available():
        built = torch.version.cuda
        cause = "the installed PyTorch was built without CUDA" if built is None else "PyTorch finds no GPU or driver"
        raise SettingsError(f"device is {str(device)!r}, but {cause}. Choose 'auto' or 'cpu'.")
    count = torch.cuda.device_count()
    if device.index is not None and device.index >= count:
        raise SettingsError(
            f"device is {str(device)!r}, but there are {count} GPUs here: 'cuda:0' to 'cuda:{count - 1}'."
        )
