"""The layer that classifies: finding it, and putting one for other classes in its place."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from salience.errors import ModelError, nearest
from salience.models.classifier import Classifier, as_found


def linear_at(module: nn.Module, name: str, where: str) -> nn.Linear:
    """Return the linear layer of that dotted name.

    Raises
    ------
    ModelError
        When there is no such module, or it is no linear layer.
    """
    linears = {n: m for n, m in module.named_modules() if isinstance(m, nn.Linear)}
    if name not in linears:
        listed = ", ".join(list(linears)[-5:]) or "none"
        raise ModelError(
            f"{where}: {name!r} is no linear layer of {type(module).__name__}.{nearest(name, linears)} "
            f"The last of its linear layers: {listed}."
        )
    return linears[name]


def find_head(classifier: Classifier) -> str:
    """Return the dotted name of the linear layer whose output are the logits, found by a pass of two random images.

    Raises
    ------
    ModelError
        When the model does not end in a linear layer.
    """
    names = {m: n for n, m in classifier.module.named_modules() if isinstance(m, nn.Linear)}
    outputs: list[tuple[str, Tensor]] = []

    def hook(module: nn.Module, _args: object, output: object) -> None:
        if isinstance(output, Tensor):
            outputs.append((names[module], output))  # type: ignore[index]  # hooked are linear layers alone

    generator = torch.Generator().manual_seed(0)
    rows = classifier.fixed_batch or 2
    probe = torch.rand(rows, 3, *classifier.preprocessing.size, generator=generator)
    with as_found(classifier.module), torch.no_grad():
        handles = [m.register_forward_hook(hook) for m in names]
        try:
            logits = classifier.logits(probe.to(classifier.device, classifier.dtype))
        finally:
            for handle in handles:
                handle.remove()
        found = [name for name, output in outputs if output.shape == logits.shape and torch.equal(output, logits)]
    if not found:
        raise ModelError(
            f"Model {classifier.name!r} ({type(classifier.module).__name__}) does not end in a linear layer "
            "(torch.nn.Linear) that gives the logits, so it cannot get a head for other classes. Choose another."
        )
    return found[-1]


def replace_head(
    module: nn.Module, name: str, classes: int, where: str, generator: torch.Generator | None = None
) -> nn.Linear:
    """Put a linear layer with ``classes`` outputs in the place of the one named ``name``, and return it.

    Without a generator its weights are zero: they are to be loaded. With one they are drawn as
    :func:`initialise_linear` does. The global generators are not touched.

    Raises
    ------
    ModelError
        When there is no such linear layer.
    """
    old = linear_at(module, name, where)
    new: nn.Linear = nn.utils.skip_init(  # type: ignore[no-untyped-call]
        nn.Linear,
        old.in_features,
        classes,
        bias=old.bias is not None,
        device=old.weight.device,
        dtype=old.weight.dtype,
    )
    new.train(old.training)
    if generator is None:
        for parameter in new.parameters():
            nn.init.zeros_(parameter)
    else:
        initialise_linear(new, generator)
    parent, _, last = name.rpartition(".")
    setattr(module.get_submodule(parent), last, new)
    return new


def initialise_linear(linear: nn.Linear, generator: torch.Generator) -> None:
    """Draw weights and biases uniformly within 1 / sqrt(inputs), as torch does, from a generator on the processor."""
    bound = 1 / math.sqrt(linear.in_features)
    with torch.no_grad():
        for parameter in linear.parameters():
            drawn = torch.rand(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.copy_((2 * drawn - 1) * bound)
