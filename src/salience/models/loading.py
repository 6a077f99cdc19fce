"""One function that loads a classifier from whatever names it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import torch

from salience.errors import ModelError, SettingsError, nearest
from salience.models.classifier import LAYERS, Classifier
from salience.models.devices import resolve_device
from salience.models.origin import Origin
from salience.models.rate import Rate, parse_rate
from salience.models.registry import Request, adapters, check_name, parse_spec, redacted, split_name


def load_model(
    spec: str | os.PathLike[str],
    *,
    name: str | None = None,
    device: str | torch.device = "auto",
    layer: str | None = None,
    card: str | os.PathLike[str] | None = None,
    rate: str | float | None = None,
) -> Classifier:
    """Load a classifier, in eval mode and on its device.

    Parameters
    ----------
    spec
        The path of a model card (``.toml``), ``timm:NAME``, ``torchvision:NAME``, ``hf:ID``, ``pt2:PATH``,
        ``onnx:PATH``, a URL, ``pkg.module:function`` or ``file.py:function``; ``NAME=SPEC`` names it.
    name
        Name in tables and on the page, in place of the one in the spec; without either, the card's or the
        architecture's.
    device
        ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.
    layer
        Dotted name of the module whose output class activation maps use, in place of the one that is found.
    card
        A model card for a spec that carries no description: size, mean, std, class names, how it is asked.
    rate
        Images a second that are sent to a model behind a URL at most, as a number or as ``50/s``, ``600/m``.

    Raises
    ------
    ModelError
        When the spec names nothing that can be loaded; the message says what to do.
    SettingsError
        When there is no such device, or a rate is given for a model that is computed here.

    Examples
    --------
    >>> model = load_model("lite0=salience.models.zoo:efficientnet_lite0", device="cpu")  # doctest: +SKIP
    """
    given, text = split_name(os.fspath(spec))
    name = given if name is None else check_name(name)
    place = resolve_device(device)
    found, target, options = parse_spec(text)
    if card is not None and not found.takes_card:
        raise ModelError(f"Model {text!r} describes itself; a card beside it (--card) is {_for_which()}.")
    described = None if card is None else Path(card)
    classifier = found.load(Request(text, target, place, options, card=described))
    classifier.module.eval()
    if rate is not None:
        _limit([classifier], rate)
    classifier.spec = redacted(text)
    classifier.origin = Origin(text, name or classifier.name, layer, None if card is None else os.fspath(card))
    classifier.name = name or classifier.name
    classifier.layer = layer or classifier.layer
    _check_layer(classifier)
    return classifier.to(place)


def load_models(
    specs: Sequence[str],
    *,
    device: str | torch.device = "auto",
    card: str | os.PathLike[str] | None = None,
    rate: str | float | None = None,
) -> list[Classifier]:
    """Load several classifiers; the card is for those that carry none, the rate for those behind a URL.

    Raises
    ------
    SalienceError
        As :func:`load_model`, and when no model has a use for the card or the rate.
    """
    takes = [parse_spec(split_name(spec)[1])[0].takes_card for spec in specs]
    if card is not None and not any(takes):
        raise ModelError(f"--card is {_for_which()}; every --model here describes itself.")
    loaded = [
        load_model(spec, device=device, card=card if wanted else None)
        for spec, wanted in zip(specs, takes, strict=True)
    ]
    if rate is not None:
        _limit(loaded, rate)
    return loaded


def _for_which() -> str:
    return "for models that carry no description: " + ", ".join(
        f"{a.prefix}:" for a in adapters().values() if a.takes_card
    )


def _limit(classifiers: Sequence[Classifier], rate: str | float) -> None:
    """Limit how fast those classifiers are asked that are not computed here."""
    per_second = parse_rate(str(rate))
    accounts = [c.account for c in classifiers if c.account is not None]
    if not accounts:
        names = ", ".join(repr(c.name) for c in classifiers)
        raise SettingsError(f"A rate limits what is sent to a model behind a URL; {names} is computed here.")
    for account in accounts:
        account.rate = Rate(per_second)


def _check_layer(classifier: Classifier) -> None:
    if classifier.layer is None or LAYERS not in classifier.capabilities:
        return
    names = [name for name, _ in classifier.module.named_modules() if name]
    if classifier.layer not in names:
        raise ModelError(
            f"Model {classifier.name!r} has no layer {classifier.layer!r}.{nearest(classifier.layer, names)} "
            "List them with: [name for name, _ in module.named_modules()]."
        )
