"""Layers for class activation maps: which one to take, and its activations as maps (N, K, h, w)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from salience.errors import MethodError, nearest
from salience.models.classifier import GRADIENTS, LAYERS, Classifier, as_found


@dataclass(frozen=True)
class Layer:
    """One module whose output is read as a grid of features.

    ``layout`` is ``nchw``, ``nhwc`` or ``tokens`` (N, T, K); for tokens the last rows x columns of them are the
    patches, and what stands before (class token, registers) is left out.
    """

    name: str
    layout: str
    grid: tuple[int, int]

    def maps(self, activation: Tensor) -> Tensor:
        """Bring an activation (or its gradient) of this layer to (N, K, h, w), as a view where possible."""
        if self.layout == "nchw":
            return activation
        if self.layout == "nhwc":
            return activation.permute(0, 3, 1, 2)
        h, w = self.grid
        patches = activation[:, activation.shape[1] - h * w :]
        return patches.transpose(1, 2).reshape(len(activation), -1, h, w)


class Capture:
    """The activation of one layer during one forward pass."""

    def __init__(self) -> None:
        self.activation: Tensor | None = None


def first_tensor(output: Any) -> Tensor | None:
    """Return the tensor that a module's output consists of or begins with, or None."""
    if isinstance(output, Tensor):
        return output
    if isinstance(output, (tuple, list)) and output and isinstance(output[0], Tensor):
        return output[0]
    hidden = getattr(output, "last_hidden_state", None)
    return hidden if isinstance(hidden, Tensor) else None


def _replace_first(output: Any, tensor: Tensor) -> Any:
    if isinstance(output, Tensor):
        return tensor
    if isinstance(output, tuple) and not hasattr(output, "_fields"):
        return (tensor, *output[1:])
    if isinstance(output, list):
        return [tensor, *output[1:]]
    output.last_hidden_state = tensor
    return output


@contextmanager
def capture(classifier: Classifier, layer: Layer) -> Iterator[Capture]:
    """Record the activation of ``layer`` so that outputs can be differentiated by it.

    Where nothing before the layer asks for a gradient (the input is constant, the weights are frozen), the graph
    begins at the layer: what comes before runs without one, and a backward pass costs the head alone. The module
    goes on with a copy, so that in-place operations behind the layer do not touch what was recorded. A module that
    is called several times in a forward pass is read at its last call.
    """
    held = Capture()

    def hook(module: nn.Module, args: Any, output: Any) -> Any:
        tensor = first_tensor(output)
        if tensor is None:
            raise MethodError(f"Layer {layer.name!r} returns {type(output).__name__}, which holds no tensor to map.")
        if not tensor.requires_grad:
            tensor = tensor.detach().requires_grad_()
        held.activation = tensor
        return _replace_first(output, tensor.clone())

    handle = classifier.module.get_submodule(layer.name).register_forward_hook(hook)
    try:
        yield held
    finally:
        handle.remove()


def find_layer(classifier: Classifier, name: str | None = None) -> Layer:
    """Find the layer for class activation maps, or describe the one that is named.

    The rule: the last module in order of execution whose output is a grid of more than one cell that still reaches
    the logits, cell by cell. For convolutional nets this is the last feature map. For vision transformers it is the
    last repeated block whose patch tokens have an influence: the last block where the head pools all patches, the
    last but one where the head reads the class token alone (behind the last attention, patches are dead ends).

    Raises
    ------
    MethodError
        When the model offers no layers, none fits, or the named one does not exist or has no grid.
    """
    wanted = name or classifier.layer
    if LAYERS not in classifier.capabilities:
        raise MethodError(
            f"Model {classifier.name!r} ({classifier.spec}) gives no access to its layers, which class activation maps "
            f"need. Choose a method that needs {_instead(classifier)}."
        )
    known = classifier.found_layers.get(wanted)
    if known is None:
        known = classifier.found_layers[wanted] = _search(classifier, wanted)
    return known


def _instead(classifier: Classifier) -> str:
    has_gradients = GRADIENTS in classifier.capabilities
    return "gradients or outputs alone, e.g. 'gradient' or 'ig'" if has_gradients else "outputs alone"


def _search(classifier: Classifier, wanted: str | None) -> Layer:
    modules = dict(classifier.module.named_modules())
    if wanted is not None and (wanted not in modules or wanted == ""):
        raise MethodError(
            f"Model {classifier.name!r} has no layer {wanted!r}.{nearest(wanted, modules)} "
            "List them with: [name for name, _ in module.named_modules()]."
        )
    seen = _trace(classifier, modules, wanted)
    if wanted is not None:
        if not seen:
            raise MethodError(
                f"Layer {wanted!r} of model {classifier.name!r} has no output that a map can be made of: "
                "(N, K, h, w), (N, h, w, K) or (N, tokens, K), with more than one cell, that reaches the logits."
            )
        return seen[-1]
    blocks = [entry for entry in seen if entry.layout != "tokens" or _is_block(entry.name, modules)]
    if not blocks:
        raise MethodError(
            f"No layer of model {classifier.name!r} has a grid of features that reaches the logits (in a model that "
            "was never trained, the head may be all zeros). Name one with the setting 'layer', or choose a method that "
            "needs gradients alone."
        )
    return blocks[-1]


def _is_block(name: str, modules: dict[str, nn.Module]) -> bool:
    """Tell whether a module is a transformer's repeated block: a numbered, composite entry beside others like it."""
    parent, _, last = name.rpartition(".")
    if not last[-1:].isdigit() or sum(1 for _ in modules[name].children()) < 2:
        return False
    siblings = list(modules[parent].children())
    return len(siblings) == 1 or sum(type(s) is type(modules[name]) for s in siblings) > 1


def _trace(classifier: Classifier, modules: dict[str, nn.Module], wanted: str | None) -> list[Layer]:
    """Run a probe batch and list, in order of execution, the layers that have a grid and reach the logits."""
    rows = classifier.fixed_batch or 3  # unlike every usual number of tokens, so that the batch axis is known
    generator = torch.Generator().manual_seed(0)
    height, width = classifier.preprocessing.size
    probe = torch.rand(rows, 3, height, width, generator=generator).to(classifier.device, classifier.dtype)
    outputs: list[tuple[str, Tensor]] = []
    with as_found(classifier.module):
        handles = []
        try:
            for name, module in modules.items():
                # a module that hands its input on is no layer of its own, unless it is asked for
                if name == wanted or (wanted is None and name and not isinstance(module, nn.Identity)):

                    def hook(_m: nn.Module, _a: Any, output: Any, name: str = name) -> Any:
                        tensor = first_tensor(output)
                        if tensor is None or not tensor.requires_grad or tensor.ndim not in (3, 4):
                            return None
                        outputs.append((name, tensor))
                        # behind the hook goes a copy: an in-place operation must not change what was recorded
                        return _replace_first(output, tensor.clone())

                    handles.append(module.register_forward_hook(hook))
            with torch.enable_grad():
                logits = classifier.logits(probe.requires_grad_())
                weights = torch.linspace(-1, 1, logits.shape[1], device=logits.device, dtype=logits.dtype)
                outputs = [(n, t) for n, t in outputs if t.requires_grad]
                if not outputs:
                    return []
                gradients = torch.autograd.grad((logits * weights).sum(), [t for _, t in outputs], allow_unused=True)
        finally:
            for handle in handles:
                handle.remove()
    tokens = {t.shape[1] for _, t in outputs if t.ndim == 3}
    layers = []
    for (name, tensor), gradient in zip(outputs, gradients, strict=True):
        layer = _describe(name, tensor, rows, tokens, classifier)
        if layer is not None and gradient is not None and bool(layer.maps(gradient).abs().sum() > 0):
            layers.append(layer)
    return layers


def _describe(name: str, tensor: Tensor, rows: int, tokens: set[int], classifier: Classifier) -> Layer | None:
    shape = tuple(tensor.shape)
    if shape[0] != rows:
        return None
    if tensor.ndim == 4:
        if shape[2] in tokens and (shape[2] == shape[3] or shape[1] < shape[2]):  # (N, heads, T, T) or (N, heads, T, d)
            return None
        size = classifier.preprocessing.size
        first, last = (shape[1], shape[2]), (shape[2], shape[3])
        if _like_input(last, size) and not (_like_input(first, size) and _skew(first, size) < _skew(last, size)):
            return Layer(name, "nchw", last) if math.prod(last) > 1 else None
        return Layer(name, "nhwc", first) if _like_input(first, size) and math.prod(first) > 1 else None
    found = classifier.token_grid or token_grid(shape[1], classifier.preprocessing.size)
    if found is None or math.prod(found) > shape[1]:
        return None
    return Layer(name, "tokens", found)


def _skew(grid: tuple[int, int], size: tuple[int, int]) -> int:
    return abs(grid[0] * size[1] - grid[1] * size[0])


def _like_input(grid: tuple[int, int], size: tuple[int, int]) -> bool:
    """Tell whether two axes have the input's proportions: to a cell's rounding, and exactly where it is square."""
    return _skew(grid, size) <= (0 if size[0] == size[1] else sum(size))


def token_grid(count: int, size: tuple[int, int]) -> tuple[int, int] | None:
    """Infer (rows, columns) of the patch tokens among ``count`` tokens of an input of ``size``.

    Up to eight tokens may stand before the patches (class, distillation, registers); the fewest that leave a grid
    with the input's proportions are taken.
    """
    for prefix in range(min(9, count - 1)):
        patches = count - prefix
        rows = round(math.sqrt(patches * size[0] / size[1]))
        if rows > 0 and patches % rows == 0:
            columns = patches // rows
            if rows * size[1] == columns * size[0] and patches > 1:
                return rows, columns
    return None
