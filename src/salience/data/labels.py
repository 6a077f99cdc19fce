"""Labels: what a source says about an image, and which class of a model that is."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from salience.data.base import ImageRef, Label
from salience.errors import ImagesError

_INDEX = re.compile(r"[+-]?\d+(\.0*)?")
_GAPS = re.compile(r"[\s_-]+")


@dataclass(frozen=True)
class Labels:
    """Class indices of images.

    Parameters
    ----------
    values
        One class index for each image; None where it is unknown.
    note
        What the user should know: what was assumed, or why labels are missing. Empty where all is plain.
    """

    values: list[int | None]
    note: str = ""


# ------------------------------------------------------------------ reading


def parse_labels(labels: Any, where: Callable[[int], str], *, names: bool = False) -> list[Label | None]:
    """Return labels as they are meant: all class indices, or all class names; None for empty ones.

    Parameters
    ----------
    labels
        A sequence, array or tensor. Text that reads as whole numbers throughout is taken for class indices.
    where
        Says for messages where the label with a given position stands.
    names
        Take text for names even where it reads as numbers.

    Raises
    ------
    ImagesError
        When a label is neither, or when some are indices and others names; the message says where.
    """
    items = labels.tolist() if hasattr(labels, "tolist") else list(labels)
    texts = [item for item in items if isinstance(item, str) and item.strip()]
    numeric = not names and all(_INDEX.fullmatch(text.strip()) for text in texts)
    parsed = [_parse(item, where, position, numeric) for position, item in enumerate(items)]
    first = next((i for i, label in enumerate(parsed) if label is not None), None)
    if first is None:
        return parsed
    kind = _kind(items[first], parsed[first], names)
    for position, label in enumerate(parsed):
        if label is not None and _kind(items[position], label, names) != kind:
            raise ImagesError(
                f"{where(position)} is {items[position]!r}, but {where(first)} is {items[first]!r}: labels are either "
                "class indices or class names. If they are all names, give them as names (column 'name')."
            )
    return parsed


def _kind(item: Any, label: Label | None, names: bool) -> bool:
    """Tell whether a label is an index; text that reads as a number counts as one, so that mixtures are found."""
    return isinstance(label, int) or (not names and isinstance(item, str) and bool(_INDEX.fullmatch(item.strip())))


def _parse(item: Any, where: Callable[[int], str], position: int, numeric: bool) -> Label | None:
    if item is None or (isinstance(item, float) and math.isnan(item)):
        return None
    if isinstance(item, str):
        text = item.strip()
        if not text:
            return None
        return int(float(text)) if numeric and "." in text else int(text) if numeric else text
    if hasattr(item, "item"):  # a NumPy scalar in a plain list
        item = item.item()
    if isinstance(item, float) and item.is_integer():  # a column of integers with gaps becomes one of floats
        return int(item)
    if isinstance(item, bool) or not isinstance(item, int):
        raise ImagesError(f"{where(position)} is {item!r}: a class index (0, 1, ...) or a class name is needed.")
    return item


# ------------------------------------------------------------------ resolving


def resolve_labels(
    refs: Sequence[ImageRef],
    label_names: Sequence[str] | None,
    class_names: Sequence[str] | None,
    num_classes: int,
    *,
    titles: Mapping[Label, str] | None = None,
) -> Labels:
    """Find the class of a model for each image's label; never a wrong one without saying so.

    Class indices are taken as they are. Names are looked for among the model's class names; case does not matter,
    ``_``, ``-`` and space are equal, and one synonym out of a name such as ``"tench, Tinca tinca"`` is enough. Where
    no name is found, names that are all whole numbers below ``num_classes`` are class indices; otherwise, when there
    are as many names as classes, their sorted order is the order of the classes (torchvision's ``ImageFolder``);
    otherwise no image has a label. The note tells which it was.

    Parameters
    ----------
    refs
        The images.
    label_names
        All label names of the source, also those of images that a limit left out.
    class_names
        The model's class names, in the order of its outputs; None where unknown.
    num_classes
        Number of the model's outputs.
    titles
        Human names of labels. Names are looked for by them too, and class indices are compared with them.

    Raises
    ------
    ImagesError
        When a class index is out of range; the message names image, label and range.
    """
    titles = titles or {}
    for ref in refs:
        if isinstance(ref.label, int) and not 0 <= ref.label < num_classes:
            raise ImagesError(
                f"{ref.where} has label {ref.label}, but the model has {num_classes} classes: 0 to {num_classes - 1} "
                "are possible. Are these labels of another data set, or counted from 1?"
            )
    names = sorted({r.label for r in refs if isinstance(r.label, str)} | set(label_names or ()))
    finder = _Finder(class_names or ())
    if not names:
        indices = [r.label if isinstance(r.label, int) else None for r in refs]
        return Labels(indices, _disagreement(refs, titles, finder))
    table, note = _resolve_names(names, finder, num_classes, titles)
    values = [table.get(r.label) if isinstance(r.label, str) else r.label for r in refs]
    return Labels(values, note)


class _Finder:
    """Finds a class by name: as it is written, then with case and gaps aside, then by its synonyms."""

    def __init__(self, class_names: Sequence[str]) -> None:
        self.levels: tuple[dict[str, set[int]], ...] = ({}, {}, {})
        for index, name in enumerate(class_names):
            self.levels[0].setdefault(name, set()).add(index)
            self.levels[1].setdefault(_plain(name), set()).add(index)
            for part in filter(None, map(_plain, name.split(","))):
                self.levels[2].setdefault(part, set()).add(index)

    def find(self, name: str) -> set[int]:
        """Return the classes that a name can mean, by the strictest reading that finds any: several are ambiguous."""
        return next((found for found in self._readings(name) if found), set())

    def find_all(self, name: str) -> set[int]:
        """Return the classes that a name can mean by any reading."""
        return set().union(*self._readings(name))

    def _readings(self, name: str) -> list[set[int]]:
        exact, plain, synonyms = self.levels
        parts = {_plain(part) for part in name.split(",")}
        levels = ((exact, {name}), (plain, {_plain(name)}), (synonyms, {_plain(name)}), (synonyms, parts))
        return [{index for key in wanted for index in level.get(key, ())} for level, wanted in levels]


def _plain(name: str) -> str:
    return _GAPS.sub(" ", name).strip().casefold()


def _resolve_names(
    names: Sequence[str], finder: _Finder, num_classes: int, titles: Mapping[Label, str]
) -> tuple[dict[str, int], str]:
    found: dict[str, set[int]] = {}
    for name in names:
        found[name] = finder.find(name)
        if not found[name] and name in titles:
            # A title is often shortened ("maillot" for "maillot, tank suit"), so its loosest reading must be unique.
            found[name] = finder.find_all(titles[name])
    table = {name: next(iter(classes)) for name, classes in found.items() if len(classes) == 1}
    if any(found.values()):
        lost = [name for name in names if name not in table]
        if not lost:
            return table, ""
        return table, (
            f"{len(lost)} of {len(names)} label names are no class of this model or mean several: {_some(lost)}. "
            "Their images have no label."
        )
    if all(name.isdecimal() for name in names):
        indices = {name: int(name) for name in names}
        if len(set(indices.values())) == len(names) and max(indices.values()) < num_classes:
            return indices, _numbers_note(names, num_classes)
    if len(names) == num_classes:
        return {name: index for index, name in enumerate(names)}, (
            "No label name is a class name of this model, but there are as many: their sorted order is taken for the "
            f"order of its classes ({', '.join(f'{n} = {i}' for i, n in enumerate(names[:3]))}, ...)."
        )
    return {}, (
        f"No label name ({_some(names)}) is a class name of this model, and {len(names)} names cannot be the order of "
        f"its {num_classes} classes: the images have no label."
    )


def _numbers_note(names: Sequence[str], num_classes: int) -> str:
    note = "The label names are numbers and are taken for class indices."
    if len(names) == num_classes and list(names) != sorted(names, key=int):
        # ImageFolder sorts as text: "10" comes before "2".
        note += " A model trained on such folders with torchvision's ImageFolder counts them as text (0, 1, 10, 2): "
        note += "give it class names in that order."
    return note


def _disagreement(refs: Sequence[ImageRef], titles: Mapping[Label, str], finder: _Finder) -> str:
    """Say when the names that come with class indices belong to other classes of the model."""
    used = sorted({r.label for r in refs if isinstance(r.label, int)})
    wrong = [(label, titles[label], finder.find_all(titles[label])) for label in used if label in titles]
    wrong = [(label, title, classes) for label, title, classes in wrong if classes and label not in classes]
    if not wrong:
        return ""
    label, title, classes = wrong[0]
    return (
        f"{len(wrong)} of {len(used)} labels have a name that is another class of this model: {label} is named "
        f"{title!r}, which is its class {min(classes)}. Check that the labels count classes as the model does."
    )


def _some(names: Sequence[str]) -> str:
    return ", ".join(repr(n) for n in names[:3]) + (", ..." if len(names) > 3 else "")
