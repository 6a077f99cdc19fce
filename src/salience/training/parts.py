"""Which part of a network is trained, and how the rest is computed once: the cut between the two."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from salience.errors import ModelError, nearest
from salience.models.classifier import Classifier, as_found, unpack_logits

_SAME = 1e-4
"""How far, relative to their size, logits computed from the cut may be from those of the whole network."""


@dataclass(frozen=True)
class Part:
    """The part of a network that is trained.

    Attributes
    ----------
    start
        Dotted name of the module with which it begins; empty for the whole network.
    modules
        Dotted names of the modules in it: all that run from ``start`` on.
    """

    start: str
    modules: frozenset[str]

    def set_up(self, module: nn.Module, training: bool) -> None:
        """Freeze all but this part, and put this part into training mode or, for validation, back to inference."""
        for name, inner in module.named_modules():
            mine = not self.start or name in self.modules
            inner.training = training and mine
            for parameter in inner.parameters(recurse=False):
                parameter.requires_grad_(mine)

    def state(self, module: nn.Module) -> dict[str, Tensor]:
        """Return weights and buffers of this part, by their names in the network; the tensors are its own."""
        own = {
            f"{name}." if name else "" for name, _ in module.named_modules() if not self.start or name in self.modules
        }
        return {
            key: tensor
            for key, tensor in module.state_dict().items()
            if key[: key.rfind(".") + 1] in own and isinstance(tensor, Tensor)
        }


def choose_part(classifier: Classifier, train: str, head: str) -> Part:
    """Return the part that ``train`` means: ``head``, ``last``, ``all``, or the name of a module to begin with.

    ``last`` begins with the last block: the last module to run that is one of the numbered modules of a kind, holds
    several modules with weights, and is no mere sequence (``layer4.1``, ``blocks.15``, ``features.17``).

    Raises
    ------
    ModelError
        When there is no such module, or no block.
    """
    module = classifier.module
    if train == "all":
        return Part("", frozenset(name for name, _ in module.named_modules()))
    order = _order(classifier)
    if train == "head":
        start = head
    elif train == "last":
        blocks = [name for name in order if _is_block(module, name) and order.index(name) < order.index(head)]
        inner = [name for name in blocks if not any(other.startswith(f"{name}.") for other in blocks)]
        if not inner:
            raise ModelError(
                f"Model {classifier.name!r} has no repeated blocks, so there is no last one. Name the module from "
                "which on it is to be trained, or say --train head or all."
            )
        start = inner[-1]
    else:
        start = train
    if start not in order:
        known = [name for name in order if name]
        why = "does not run" if start in dict(module.named_modules()) else "does not exist"
        raise ModelError(
            f"Module {start!r} of model {classifier.name!r} {why}, so nothing can be trained from it on."
            f"{nearest(start, known)} Say 'head', 'last', 'all', or the name of a module: {', '.join(known[-4:])}."
        )
    return Part(start, frozenset(order[order.index(start) :]))


def _is_block(module: nn.Module, name: str) -> bool:
    parent, _, last = name.rpartition(".")
    if not last[-1:].isdigit():
        return False
    block = module.get_submodule(name)
    if isinstance(block, nn.Sequential):  # a stage of blocks, or a convolution with what belongs to it
        return False
    siblings = list(module.get_submodule(parent).children())
    with_weights = sum(1 for m in block.modules() if next(m.parameters(recurse=False), None) is not None)
    alone = len(siblings) == 1  # the one block of a stage
    return with_weights > 1 and (alone or sum(type(s) is type(block) for s in siblings) > 1)


def _probe(classifier: Classifier) -> Tensor:
    drawn = torch.Generator().manual_seed(0)
    pixels = torch.rand(classifier.fixed_batch or 2, 3, *classifier.preprocessing.size, generator=drawn)
    return pixels.to(classifier.device, classifier.dtype)


def _order(classifier: Classifier) -> list[str]:
    """Return the names of all modules in the order in which they begin to run."""
    order: dict[str, None] = {}
    with as_found(classifier.module), torch.no_grad():
        for name, module in classifier.module.named_modules():
            module.register_forward_pre_hook(lambda _module, _args, name=name: order.setdefault(name))
        classifier.logits(_probe(classifier))
    return list(order)


# ---------------------------------------------------------------------- the cut


class _ReachedError(Exception):
    """The frozen part is done: what comes behind is not computed."""


@dataclass(frozen=True)
class Cut:
    """The place where a network is cut: what comes in front is computed once for every image.

    Attributes
    ----------
    name
        Names it in the key of what is kept.
    module
        The network.
    point
        Dotted name of the module at which it is cut.
    behind
        Whether the cut is behind that module; otherwise it is in front of it.
    tail
        From what arrives at the cut, (N, ...), to what the network returns.
    """

    name: str
    module: nn.Module
    point: str
    behind: bool
    tail: Callable[[Tensor], Any]

    @contextmanager
    def collecting(self) -> Iterator[Callable[[Tensor], Tensor]]:
        """Yield a function from normalised images (N, 3, H, W) to what arrives at the cut; hooks come off after."""
        arrived: list[Any] = []

        def before(_module: nn.Module, args: tuple[Any, ...]) -> None:
            arrived.append(args[0] if args else None)
            raise _ReachedError

        def behind(_module: nn.Module, _args: Any, output: Any) -> None:
            arrived.append(output)
            raise _ReachedError

        def collect(images: Tensor) -> Tensor:
            arrived.clear()
            try:
                self.module(images)
            except _ReachedError:
                return arrived.pop()  # type: ignore[no-any-return]  # checked where the cut is made
            raise ModelError(f"Module {self.point!r} did not run.")

        at = self.module.get_submodule(self.point)
        handle = at.register_forward_hook(behind) if self.behind else at.register_forward_pre_hook(before)
        try:
            with torch.no_grad():
                yield collect
        finally:
            handle.remove()


def cut_at(classifier: Classifier, part: Part, head: str, layer: str | None) -> Cut | None:
    """Return the cut in front of the part that is trained, or None where the whole network must run.

    A head alone is cut off at its input or, where the features of ``layer`` are needed, behind that layer: then it is
    given their mean. For a longer part the code of the modules around it is traced (torch.fx), from the one value that
    goes into ``part.start`` to the logits. Where that is not possible (several values cross the cut, or code that
    depends on values) or does not give the network's own logits, there is no cut, and training is slower and the same.
    """
    module = classifier.module
    if not part.start:
        return None
    if part.start == head:
        linear = module.get_submodule(head)
        if layer is None:
            cut = Cut(f"input of {head}", module, head, False, linear)
        else:
            cut = Cut(f"output of {layer}", module, layer, True, lambda features: linear(features.mean((2, 3))))
    else:
        tail = _trace_tail(module, part.start, layer)
        if tail is None:
            return None
        cut = Cut(f"input of {part.start}", module, part.start, False, tail)
    return cut if _gives_the_same(classifier, cut) else None


def _gives_the_same(classifier: Classifier, cut: Cut) -> bool:
    """Tell whether the network, cut, gives the logits of the whole one, each image's own."""
    with as_found(classifier.module), torch.no_grad():
        images = classifier.normalise(_probe(classifier))
        wanted = unpack_logits(classifier.module(images), len(images))
        with cut.collecting() as collect:
            arrived = collect(images)
        if not isinstance(arrived, Tensor) or len(arrived) != len(images):
            return False
        try:
            found = unpack_logits(cut.tail(arrived), len(images))
        except RuntimeError:  # the head does not take the mean of this layer
            return False
    return found.shape == wanted.shape and bool((found - wanted).norm() <= _SAME * wanted.norm())


class _Tracer(fx.Tracer):
    """Traces the code of the modules around certain others; everything else is one call."""

    def __init__(self, opened: frozenset[str]) -> None:
        super().__init__()
        self._opened = opened

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Tell whether a module is one call."""
        return module_qualified_name not in self._opened


def _trace_tail(module: nn.Module, start: str, layer: str | None) -> fx.GraphModule | None:
    """Return what comes from the input of ``start`` on as a module that shares the network's modules, or None."""
    parts = start.split(".")
    around = frozenset(".".join(parts[:i]) for i in range(1, len(parts)))
    if layer in around:  # it would be taken apart, and could not be watched
        return None
    try:
        graph = _Tracer(around).trace(module)
    except Exception:  # tracing runs foreign code on stand-ins, which may raise anything
        return None
    nodes = list(graph.nodes)
    at = next((n for n in nodes if n.op == "call_module" and n.target == start), None)
    if at is None or len(at.args) != 1 or at.kwargs or not isinstance(at.args[0], fx.Node):
        return None
    value, tail = at.args[0], fx.Graph()
    copied: dict[fx.Node, fx.Node] = {value: tail.placeholder("arrived")}
    for node in nodes[nodes.index(at) :]:
        if any(source not in copied for source in node.all_input_nodes):
            return None
        copied[node] = tail.node_copy(node, copied.__getitem__)
    return fx.GraphModule(module, tail)


def innermost(module: nn.Module, name: str) -> str:
    """Return the module that gives the output of a sequence: its last one, and so on inwards.

    A sequence around the cut is taken apart when the tail is traced; its last module runs in any case.
    """
    while isinstance(found := module.get_submodule(name), nn.Sequential) and len(found):
        name = f"{name}.{next(reversed(found._modules))}"
    return name
