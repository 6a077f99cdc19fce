"""A second classifier with the same weights, for another thread: hooks and the modules' own state are apart."""

from __future__ import annotations

import copy

from torch import nn

from salience.errors import ModelError
from salience.models.blackbox import BlackBox
from salience.models.classifier import GRADIENTS, LAYERS, Classifier


def twin(classifier: Classifier) -> Classifier:
    """Return a classifier of a copied module, whose parameters lie in the memory of the original's.

    Two threads may then run and hook one each. Buffers are copied, as modules may write them. Black boxes that several
    threads may ask at a time are asked through both.

    Raises
    ------
    ModelError
        When the classifier is neither a torch module of this process nor such a black box, or its module cannot be
        copied.
    """
    asked_only = isinstance(classifier.module, BlackBox) and classifier.module.side_by_side
    inside = asked_only or {GRADIENTS, LAYERS} <= classifier.capabilities
    if not inside or classifier.account is not None or classifier.paid:
        raise ModelError(f"Model {classifier.name!r} is no torch module of this process, so it has no twin.")
    if asked_only:
        other = copy.copy(classifier)
        other.module = copy.copy(classifier.module)
        return other
    # the very storage, in a parameter of its own: flags and layout of the original may change meanwhile
    shared = {id(p): nn.Parameter(p.data, requires_grad=p.requires_grad) for p in classifier.module.parameters()}
    other = copy.copy(classifier)
    try:
        other.module = copy.deepcopy(classifier.module, shared)
    except Exception as error:  # a module may hold anything
        raise ModelError(f"The module of {classifier.name!r} cannot be copied: {error}") from error
    other.found_layers = dict(classifier.found_layers)
    return other
