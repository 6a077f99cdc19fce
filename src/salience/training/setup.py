"""A backbone made ready to be trained: its new head, the part that learns, and what is computed once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from salience.engine.events import Listener
from salience.errors import MethodError, ModelError, SettingsError
from salience.models.card import load_backbone
from salience.models.classifier import GRADIENTS, LAYERS, Classifier, as_found
from salience.models.devices import resolve_device
from salience.models.heads import find_head, replace_head
from salience.models.layers import find_layer
from salience.training.inputs import Inputs, Pixels, keep_stem
from salience.training.loss import GuidedLoss
from salience.training.meter import Meter
from salience.training.networks import WIDTHS
from salience.training.parts import Cut, Part, choose_part, cut_at, innermost
from salience.training.recipe import Recipe, generator
from salience.training.samples import CHUNK, Decoded

SMALL = "small"


def is_small(backbone: str) -> bool:
    """Tell whether a backbone is ``small`` or ``small:...``, an untrained network of this package."""
    return backbone.partition(":")[0] == SMALL


def parse_backbone(text: str, recipe: Recipe) -> tuple[str, bool]:
    """Return the spec that loads a backbone, and whether it is trained from scratch.

    Raises
    ------
    SettingsError
        When there is no such small network, or less than all of it is to be trained.
    """
    if not is_small(text):
        return text, False
    _, colon, setting = text.partition(":")
    key, _, value = (setting or "width=16").partition("=")
    if (colon and not setting) or key != "width" or value not in map(str, WIDTHS):
        raise SettingsError(
            f"Backbone {text!r} is no small network; write small or small:width=W, with W one of "
            f"{', '.join(map(str, WIDTHS))}."
        )
    if recipe.train != "all":
        raise SettingsError("A small network comes untrained, so all of it must be trained: --train all.")
    return f"salience.training.networks:small_{value}", True


@dataclass(frozen=True, eq=False)
class Setup:
    """A backbone with its new head, and what of it is trained.

    Attributes
    ----------
    classifier
        The network; its head is a trial, each run draws its own.
    fingerprint
        Of the backbone with its own head.
    head
        Dotted name of the linear layer that was replaced.
    part, cut
        What is trained, and where the network is cut in front of it.
    loss
        With alpha = 1 where the recipe is not guided.
    layer
        For class activation maps, as the cards name it; None where it is found by itself.
    """

    classifier: Classifier
    fingerprint: str
    head: str
    part: Part
    cut: Cut | None
    loss: GuidedLoss
    layer: str | None


def set_up(spec: str, recipe: Recipe, classes: Sequence[str], size: int | None, device: str) -> Setup:
    """Load a backbone, give it a head for the classes, and find out whether it can be trained as the recipe says.

    Raises
    ------
    ModelError
        When it cannot be loaded, ends in no linear layer, or has no such part.
    MethodError
        When the loss needs class activation maps and the model has none.
    SettingsError
        When there is no such device.
    """
    place = resolve_device(device)
    loaded = load_backbone(spec, Path(), place)
    if not {GRADIENTS, LAYERS} <= loaded.capabilities:
        raise ModelError(f"Model {spec!r} only answers: it cannot be trained. Choose a model made of torch modules.")
    loaded.module.eval()
    seen = loaded.preprocessing
    classifier = Classifier(
        loaded.module,
        size=size or seen.size,
        mean=seen.mean,
        std=seen.std,
        interpolation=seen.interpolation,
        fit=seen.fit,
        crop=seen.crop,
        name=loaded.name,
        layer=loaded.layer,
        token_grid=loaded.token_grid,
    ).to(place)
    fingerprint = classifier.fingerprint()
    head = find_head(classifier)
    replace_head(classifier.module, head, len(classes), f"Model {spec!r}", generator(0, 0, "trial head"))
    classifier.classes = tuple(classes)
    part = choose_part(classifier, recipe.train, head)
    layer = find_layer(classifier).name if recipe.guided else loaded.layer
    watched = innermost(classifier.module, layer) if recipe.guided and layer else ""
    loss = GuidedLoss(recipe.alpha if recipe.guided else 1.0, watched, recipe.target)
    _try_loss(classifier, loss)
    cut = None if recipe.augment else cut_at(classifier, part, head, watched or None)
    return Setup(classifier, fingerprint, head, part, cut, loss, layer)


def _try_loss(classifier: Classifier, loss: GuidedLoss) -> None:
    """Find out before anything else is done whether the loss can be computed for this model."""
    height, width = classifier.preprocessing.size
    pixels = torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(0))
    with as_found(classifier.module), torch.no_grad(), loss.attach(classifier.module) as attached:
        try:
            logits = classifier.logits(pixels.to(classifier.device, classifier.dtype))
            attached(logits, torch.zeros(2, dtype=torch.int64, device=logits.device), pixels[:, 0].to(logits.device))
        except MethodError as error:
            raise MethodError(f"Model {classifier.name!r} cannot be guided by human maps: {error}") from error


def inputs_of(setup: Setup, decoded: Decoded, folder: Path, listen: Listener) -> Inputs:
    """Return what the network is given: pixels, or what arrives at the cut, computed once into ``folder``."""
    classifier = setup.classifier
    if setup.cut is None:
        return Pixels(decoded, classifier)
    meter = Meter(
        listen,
        classifier.name,
        len(decoded.samples),
        verb="encode",
        batch=CHUNK,
        device=str(classifier.device),
        calls=1,
    )
    kept = keep_stem(classifier, setup.cut, setup.part, decoded, folder, setup.fingerprint, meter.reached)
    meter.finish()
    return kept
