"""One function that loads a classifier from whatever names it."""

from __future__ import annotations

import os

import torch

from salience.errors import ModelError, nearest
from salience.models.classifier import LAYERS, Classifier
from salience.models.devices import resolve_device
from salience.models.registry import Request, check_name, parse_spec, split_name


def load_model(
    spec: str | os.PathLike[str],
    *,
    name: str | None = None,
    device: str | torch.device = "auto",
    layer: str | None = None,
) -> Classifier:
    """Load a classifier, in eval mode and on its device.

    Parameters
    ----------
    spec
        The path of a model card (``.toml``), ``timm:NAME``, ``torchvision:NAME``, ``hf:ID``, ``pt2:PATH``,
        ``pkg.module:function`` or ``file.py:function``; ``NAME=SPEC`` names it.
    name
        Name in tables and on the page, in place of the one in the spec; without either, the card's or the
        architecture's.
    device
        ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.
    layer
        Dotted name of the module whose output class activation maps use, in place of the one that is found.

    Raises
    ------
    ModelError
        When the spec names nothing that can be loaded; the message says what to do.
    SettingsError
        When there is no such device.

    Examples
    --------
    >>> model = load_model("lite0=salience.models.zoo:efficientnet_lite0", device="cpu")  # doctest: +SKIP
    """
    given, text = split_name(os.fspath(spec))
    name = given if name is None else check_name(name)
    place = resolve_device(device)
    found, target, options = parse_spec(text)
    classifier = found.load(Request(text, target, place, options))
    classifier.module.eval()
    classifier.spec = text
    classifier.name = name or classifier.name
    classifier.layer = layer or classifier.layer
    _check_layer(classifier)
    return classifier.to(place)


def _check_layer(classifier: Classifier) -> None:
    if classifier.layer is None or LAYERS not in classifier.capabilities:
        return
    names = [name for name, _ in classifier.module.named_modules() if name]
    if classifier.layer not in names:
        raise ModelError(
            f"Model {classifier.name!r} has no layer {classifier.layer!r}.{nearest(classifier.layer, names)} "
            "List them with: [name for name, _ in module.named_modules()]."
        )
