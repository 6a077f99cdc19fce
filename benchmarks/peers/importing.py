"""Import peers, or say why that cannot be done."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import warnings
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

DISTRIBUTIONS = {
    "captum": "captum",
    "pytorch_grad_cam": "grad-cam",
    "quantus": "quantus",
    "xaitk_saliency": "xaitk-saliency",
}
"""The peers: the package that is imported, and the distribution that it comes in."""
TITLES = {
    "captum": "Captum",
    "pytorch_grad_cam": "pytorch-grad-cam",
    "quantus": "Quantus",
    "xaitk_saliency": "XAITK",
}


def missing(package: str) -> str | None:
    """Return why a package cannot be imported, None where it can."""
    if importlib.util.find_spec(package) is None:
        return f"not installed: pip install {DISTRIBUTIONS[package]}"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            importlib.import_module(package)
    except Exception as error:  # broken builds raise anything
        return f"cannot be imported: {type(error).__name__}: {error}".splitlines()[0]
    return None


def versions() -> dict[str, str | None]:
    """Return the peers' versions by title, None where one is not installed."""
    found: dict[str, str | None] = {}
    for package, distribution in DISTRIBUTIONS.items():
        try:
            found[TITLES[package]] = version(distribution)
        except PackageNotFoundError:
            found[TITLES[package]] = None
    return found


def define_operators() -> object | None:
    """Let torchvision, which two peers import, be imported beside a torch that it was not built for.

    Where its compiled operators cannot be loaded, their schemas are defined: enough for all that the peers use. They
    live as long as what is returned. To be called in a process of one's own, before a peer is imported.
    """
    torchvision = importlib.util.find_spec("torchvision")
    if torchvision is None or torchvision.origin is None:
        return None
    with contextlib.suppress(OSError):
        for operators in Path(torchvision.origin).parent.glob("_C*.so"):
            torch.ops.load_library(operators)
            return None
    library = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return library
