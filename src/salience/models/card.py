"""The model card: one TOML file that says how to make a classifier.

    factory = "file.py:function"        # relative to the card, or "package.module:function"
    weights = "weights.safetensors"     # optional: the factory gives the architecture, this file the weights
    size = 224
    mean = [0.485, 0.456, 0.406]
    std = [0.229, 0.224, 0.225]
    interpolation = "bicubic"
    fit = "crop"
    crop = 0.875
    classes = "classes.txt"             # or a list

``backbone = "other.toml"`` stands in the place of ``factory`` for another model, named by its card or spec, whose
linear layer ``head = "fc"`` is replaced by one for the classes of this card; ``weights`` then hold all of it.
``pt2 = "program.pt2"`` stands in the place of ``factory`` for an exported program, ``model = "onnx:net.onnx"`` or
``model = "https://host/predict"`` for a model of which only outputs are known. A card without any of them describes
a model that is named beside it.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import Field

from salience.errors import ModelError, nearest
from salience.models.classifier import Classifier
from salience.models.description import Description, Positive, parse_options, validated
from salience.models.exported import load_exported
from salience.models.factories import make
from salience.models.heads import replace_head
from salience.models.registry import NAME, Request, adapters, make_name, parse_spec
from salience.models.weights import load_weights

SOURCES = ("factory", "pt2", "model", "backbone")
# what says how a model is asked, and which kinds of model it can be said of
ONNX_KEYS = frozenset({"scores", "output"})
HTTP_KEYS = frozenset(
    {
        "scores",
        "batch",
        "connections",
        "wire",
        "token_env",
        "timeout",
        "retries",
        "rate",
        "paid",
        "max_queries",
        "version",
    }
)


class Card(Description):
    """The keys of a model card."""

    factory: str | None = None
    pt2: str | None = None
    model: str | None = None
    backbone: str | None = None
    head: str | None = None
    weights: str | None = None
    name: Annotated[str, Field(pattern=f"^{NAME.pattern}$")] | None = None

    scores: Literal["logits", "probabilities"] = "logits"
    output: str | None = None
    batch: Positive = 16
    connections: Annotated[int, Field(ge=1, le=64)] = 1
    wire: Literal["npy", "json"] = "npy"
    token_env: str | None = None
    timeout: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 60.0
    retries: Annotated[int, Field(ge=0, le=100)] = 6
    rate: str | None = None
    paid: bool = True
    max_queries: Positive | None = None
    version: str = ""


def parse_card(path: Path) -> Card:
    """Read a card and check its keys.

    Raises
    ------
    ModelError
        When the file is missing or no TOML, a key is unknown, or a value is unusable.
    """
    return validated(Card, _values(path), f"Model card {str(path)!r}")


def _values(path: Path) -> dict[str, Any]:
    if not path.is_file():
        near = nearest(path.name, [p.name for p in path.parent.glob("*.toml")]) if path.parent.is_dir() else ""
        raise ModelError(f"There is no model card {str(path)!r}.{near} Check the path.")
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ModelError(f"Model card {str(path)!r} is no valid TOML: {error}.") from error


def read_card(path: Path) -> Card:
    """Read and check the card of a whole model: one that names what it describes.

    Raises
    ------
    ModelError
        When the card cannot be used, or does not name exactly one model.
    """
    where = f"Model card {str(path)!r}"
    card = parse_card(path)
    given = [key for key in SOURCES if getattr(card, key) is not None]
    if len(given) != 1:
        listed = (
            "both " + " and ".join(map(repr, given)) if given else "neither 'factory', 'pt2', 'model' nor 'backbone'"
        )
        raise ModelError(
            f"{where} gives {listed}: give one of them, "
            "factory = 'file.py:function' for a model in Python, pt2 = 'file.pt2' for an exported program, or "
            "model = 'onnx:file.onnx' or 'https://...' for one of which only outputs are known. A card of "
            "preprocessing alone goes behind --card, with the model itself behind --model."
        )
    _check_backbone(card, where)
    if card.weights is not None and card.factory is None and card.backbone is None:
        raise ModelError(
            f"{where} gives 'weights' with {given[0]!r}, but an exported program holds its own: leave them out."
        )
    if card.model is None:
        _refuse_keys(card, frozenset(), where)
    return card


def _check_backbone(card: Card, where: str) -> None:
    """Refuse a backbone without what makes it a classifier of the card's own classes, and a head without a backbone."""
    needed = [key for key in ("head", "weights", "classes") if getattr(card, key) is None]
    if card.backbone is not None and needed:
        raise ModelError(
            f"{where} gives 'backbone' and not {', '.join(map(repr, needed))}: needed are 'head', the name of the "
            "linear layer that is replaced, 'classes', what it tells apart, and 'weights', the trained ones."
        )
    if card.backbone is None and card.head is not None:
        raise ModelError(f"{where} gives 'head', which goes with 'backbone' alone. Take it out.")


def describe(request: Request, keys: frozenset[str]) -> tuple[Card, Path, str]:
    """Return what is said of a model that carries no description: by its card, over that by the spec's options.

    Parameters
    ----------
    request
        What an adapter was asked for.
    keys
        The keys beyond those of every :class:`~salience.models.description.Description` that mean something to it.

    Returns
    -------
    tuple
        The card, the folder that its class names are relative to, and what describes the model, for messages.

    Raises
    ------
    ModelError
        When a key is unknown, unusable or means nothing here, or the card describes another model.
    """
    options = parse_options(request.options)
    if request.card is None:
        where, values = f"Model {request.spec!r}", {}
    else:
        where, values = f"Model card {str(request.card)!r}", _values(request.card)
    card = validated(Card, {**values, **options}, where)
    other = next((key for key in SOURCES if getattr(card, key) not in (None, request.spec)), None)
    if other is not None:
        raise ModelError(
            f"{where} names a model of its own ({other} = {getattr(card, other)!r}), and cannot describe "
            f"{request.spec!r} too. Give the card itself as --model, or take {other!r} out of it."
        )
    _refuse_keys(card, keys, where)
    own = request.card is not None and "classes" not in options
    return card, request.card.parent if own and request.card else Path(), where


def _refuse_keys(card: Card, keys: frozenset[str], where: str) -> None:
    """Refuse keys that would be ignored."""
    for key in Card.model_fields:
        if key in card.model_fields_set and key in (ONNX_KEYS | HTTP_KEYS) - keys:
            kind = "an ONNX file (onnx:)" if key in ONNX_KEYS - HTTP_KEYS else "a model behind a URL (http:, https:)"
            kind = "a model of which only outputs are known (onnx:, http:, https:)" if key == "scores" else kind
            raise ModelError(f"{where} gives {key!r}, which is for {kind} alone. Take it out.")


def load_card(path: Path, device: torch.device | None = None) -> Classifier:
    """Make the classifier that a card describes, named by its ``name`` or by the file.

    Raises
    ------
    ModelError
        When the card, its factory, its weights or its class names cannot be used.
    """
    card = read_card(path)
    where, base = f"Model card {str(path)!r}", path.parent
    device = device or torch.device("cpu")
    if card.model is not None:
        classifier = _load_described(card.model, path, device)
    elif card.pt2 is not None:
        classifier = load_exported(base / card.pt2, card, base, where, device)
    elif card.backbone is not None:
        classifier = _load_trained(card, base, where, device)
    else:
        made = make(card.factory or "", base, where)
        if card.weights is not None:
            module = made.module if isinstance(made, Classifier) else made
            load_weights(module, base / card.weights, where)
        classifier = card.build(made, base, where)
    classifier.name = card.name or make_name(path.stem)
    return classifier


def _load_trained(card: Card, base: Path, where: str, device: torch.device) -> Classifier:
    """Load a backbone, give it a head for the card's classes, and load the weights of both."""
    made = load_backbone(card.backbone or "", base, device)
    classifier = card.build(made, base, where)
    replace_head(classifier.module, card.head or "", len(classifier.classes or ()), where)
    load_weights(classifier.module, base / (card.weights or ""), where)
    return classifier


def load_backbone(spec: str, base: Path, device: torch.device) -> Classifier:
    """Load the classifier that ``spec`` names; the path of a card or of a Python file in it is relative to ``base``.

    Raises
    ------
    ModelError
        When the spec names nothing that can be loaded.
    """
    found, target, options = parse_spec(spec)
    if found.prefix == "card":
        return load_card(base / target, device)
    if found.prefix == "python" and target.rpartition(":")[0].endswith(".py"):
        target = str(base / target)
    return found.load(Request(spec, target, device, options, base))


def _load_described(spec: str, path: Path, device: torch.device) -> Classifier:
    found, target, options = parse_spec(spec)
    if not found.takes_card:
        kinds = ", ".join(f"{a.prefix}:" for a in adapters().values() if a.takes_card)
        raise ModelError(
            f"Model card {str(path)!r} gives model = {spec!r}, which describes itself. A card can describe {kinds}; "
            f"name this one directly: --model {spec}."
        )
    return found.load(Request(spec, target, device, options, path.parent, path))
