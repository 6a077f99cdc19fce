"""Models whose classes differ, brought to the classes of the reference."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from salience.comparison.strata import align_classes
from salience.errors import SettingsError
from salience.models.classifier import Classifier, unpack_logits

SAME_ORDER = "same-order"
"""Said in the place of a class map: the models count the same classes alike, whatever they call them."""
OTHER = "(another class)"
_BEHIND = 100.0


class Relabelled(nn.Module):
    """A model's logits over the classes of another: the log of summed exponentials where several become one.

    The softmax over them is then the sum of the model's own probabilities. What is no class of the other model is one
    more class, the last; a class that the model lacks stands far behind all others.

    Parameters
    ----------
    inner
        Returns logits (N, C).
    classes
        The other model's class (C,) that each class is, -1 where it is none.
    count
        Number of the other model's classes.
    """

    def __init__(self, inner: nn.Module, classes: npt.NDArray[np.int64], count: int) -> None:
        super().__init__()
        self.inner = inner
        self.count = count
        self.known = tuple(int(c) for c in classes)
        has_other = bool((classes < 0).any())
        self.width = count + has_other
        self.to_class: Tensor
        self.register_buffer("to_class", torch.from_numpy(np.where(classes < 0, count, classes)))

    def extra_repr(self) -> str:
        """Return what the printed form, and so the fingerprint, shows."""
        return f"classes={self.known}, count={self.count}"

    def __getattr__(self, name: str) -> Tensor | nn.Module:
        if name in ("account", "paid", "usual_batch", "__fingerprint__"):
            return getattr(self.inner, name)  # type: ignore[no-any-return]
        return super().__getattr__(name)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (N, count), and one more column where some class is another."""
        z = unpack_logits(self.inner(x), len(x))
        to = self.to_class.expand(len(z), -1)
        behind = z.detach().amin(1, keepdim=True) - _BEHIND
        top = behind.expand(-1, self.width).scatter_reduce(1, to, z.detach(), "amax")
        # a product with the zeros and ones of membership: unlike added in place, its sums have one order on a GPU too
        members = nn.functional.one_hot(self.to_class, self.width).to(z.dtype)
        sums = (z - top.gather(1, to)).exp() @ members
        return torch.where(sums > 0, sums.clamp_min(torch.finfo(z.dtype).tiny).log(), 0.0) + top


def in_classes_of(
    reference: Classifier, other: Classifier, class_map: Mapping[str, Mapping[str, str]] | str | None
) -> tuple[Classifier, frozenset[int]]:
    """Return a model that answers in the reference's classes, and the classes of the reference that it lacks.

    Without a class map, classes are matched by name; where a model has no names, as many classes in the same order are
    taken for the same. The model that is given is not changed.

    Raises
    ------
    SettingsError
        When classes of the two cannot be matched; the message tells what to write.
    """
    count = reference.num_classes
    pairs = class_map.get(other.name) if isinstance(class_map, Mapping) else None
    alike = class_map == SAME_ORDER or (pairs is None and (reference.classes is None or other.classes is None))
    if alike:
        if other.num_classes != count:
            raise SettingsError(
                f"Model {other.name!r} has {other.num_classes} classes and {reference.name!r} has {count}: say which "
                "class is which with --class-map FILE, a CSV with the columns model, from, to."
            )
        to = np.arange(count, dtype=np.int64)
    else:
        to = align_classes(other.class_names, reference.class_names, pairs, name=f"model {other.name!r}")
        if pairs is None:
            _check(reference, other, to)
    lacking = frozenset(range(count)) - frozenset(to.tolist())
    return _Alike(tuple(to.tolist()), count, reference.classes, reference.class_names)(other), lacking


@dataclass(frozen=True)
class _Alike:
    """Brings a model to the classes of another, ``to`` which its own are matched; where it is loaded again, too."""

    to: tuple[int, ...]
    count: int
    classes: tuple[str, ...] | None
    class_names: tuple[str, ...]

    def __call__(self, other: Classifier) -> Classifier:
        made = copy.copy(other)
        made.origin = None if other.origin is None else replace(other.origin, then=self)
        made.found_layers = {}
        made.classes = self.classes
        if self.to != tuple(range(self.count)):
            to = np.array(self.to, dtype=np.int64)
            made.module = Relabelled(other.module, to, self.count).to(other.device)
            made.classes = (*self.class_names, OTHER) if (to < 0).any() else self.class_names
            made.layer = None if other.layer is None else f"inner.{other.layer}"
            made._num_classes = None
        return made


def _check(reference: Classifier, other: Classifier, to: Sequence[int] | npt.NDArray[np.int64]) -> None:
    unknown = [c for c, t in zip(other.class_names, to, strict=True) if t < 0]
    absent = sorted(set(range(reference.num_classes)) - {int(t) for t in to})
    if not unknown and not absent:
        return
    told = f"{unknown[0]!r} of {other.name!r} is none of the reference's" if unknown else ""
    if absent:
        first = f"{reference.class_names[absent[0]]!r} of {reference.name!r} is none of {other.name!r}'s"
        told = f"{told}, and {first}" if told else first
    raise SettingsError(
        f"The models' classes differ: {told}. Say which class is which with --class-map FILE, a CSV with the columns "
        f"model, from, to; or, where both count the same classes alike, with --class-map {SAME_ORDER}."
    )
