"""Slices of images that a comparison is read on: all, classes, and who is right; and whose class is whose."""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from salience.errors import SettingsError, nearest
from salience.stats import mcnemar_exact as mcnemar

__all__ = [
    "ALL",
    "QUADRANTS",
    "Stratum",
    "align_classes",
    "all_images",
    "by_class",
    "by_quadrant",
    "class_stratum",
    "mcnemar",
    "quadrants",
    "read_class_map",
]

ALL = "all"
"""The stratum of every image."""
QUADRANTS = ("both-right", "only-reference", "only-model", "both-wrong")
"""Who predicts an image's label: strata of a pair of models."""
_COLUMNS = ("model", "from", "to")
_GAPS = re.compile(r"[\s_-]+")

Numbers = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Stratum:
    """A slice of images: its name (``all``, ``class:NAME`` or a quadrant) and their places, rising."""

    name: str
    images: Numbers


def class_stratum(name: str) -> str:
    """Return the name of a class's stratum."""
    return f"class:{name}"


def all_images(count: int) -> Stratum:
    """Return the stratum of ``count`` images."""
    return Stratum(ALL, np.arange(count, dtype=np.int64))


def by_class(classes: Sequence[str | None]) -> list[Stratum]:
    """Return the stratum of each class that an image is of, in the order of their names; None is of no class."""
    return _split([None if c is None else class_stratum(c) for c in classes])


def by_quadrant(names: Sequence[str | None]) -> list[Stratum]:
    """Return the quadrants that an image is in, in their order; None is in none."""
    return sorted(_split(names), key=lambda s: QUADRANTS.index(s.name))


def _split(names: Sequence[str | None]) -> list[Stratum]:
    kinds = sorted({name for name in names if name is not None})
    code = {name: i for i, name in enumerate(kinds)}
    of = np.array([-1 if name is None else code[name] for name in names], dtype=np.int64)
    order = np.argsort(of, kind="stable")
    ends = np.searchsorted(of[order], np.arange(len(kinds) + 1))
    return [Stratum(name, order[ends[i] : ends[i + 1]]) for i, name in enumerate(kinds)]


def quadrants(labels: npt.ArrayLike, reference: npt.ArrayLike, model: npt.ArrayLike) -> list[str | None]:
    """Return the quadrant of each image, None where its label is unknown.

    Parameters
    ----------
    labels
        True classes (I,), -1 where unknown.
    reference, model
        Classes that the two models predict (I,), all as indices of the same classes; -1 for a class that is none of
        these, and so wrong for every label. See :func:`align_classes`.
    """
    truth, first, second = (np.asarray(x, dtype=np.int64) for x in (labels, reference, model))
    if not truth.shape == first.shape == second.shape or truth.ndim != 1:
        raise SettingsError(
            f"Labels {truth.shape} and predictions {first.shape}, {second.shape} must be vectors of equal length."
        )
    which = 2 * (first != truth) + (second != truth)
    return [QUADRANTS[w] if t >= 0 else None for w, t in zip(which.tolist(), truth.tolist(), strict=True)]


# ------------------------------------------------------------------ label spaces that differ


def read_class_map(path: str | Path) -> dict[str, dict[str, str]]:
    """Read which class of the reference each class of a model is.

    Parameters
    ----------
    path
        A CSV file (comma, semicolon or tab; UTF-8) with the columns ``model``, ``from`` (name or index of a class of
        that model) and ``to`` (name or index of the reference's class); others are passed over. Several classes may be
        one class of the reference.

    Returns
    -------
    dict
        By model: from its class to the reference's.

    Raises
    ------
    SettingsError
        When the file cannot be read, lacks a column or a cell, or gives one class two meanings; the message names the
        row, counted with the header as row 1.
    """
    header, records = _read_csv(Path(path))
    missing = [c for c in _COLUMNS if c not in header]
    if missing:
        raise SettingsError(
            f"{path} has no column {' and no column '.join(map(repr, missing))}: a class map has the columns 'model', "
            f"'from' and 'to'; here are {', '.join(map(repr, header))}."
        )
    at = [header.index(c) for c in _COLUMNS]
    found: dict[str, dict[str, str]] = {}
    for row, cells in records:
        if len(cells) != len(header):
            raise SettingsError(f"{path}, row {row}: {len(cells)} cells where the header has {len(header)}.")
        model, start, end = (cells[k].strip() for k in at)
        if not (model and start and end):
            empty = _COLUMNS[[model, start, end].index("")]
            raise SettingsError(f"{path}, row {row}: the column {empty!r} is empty. Leave out rows that map nothing.")
        if found.setdefault(model, {}).setdefault(start, end) != end:
            raise SettingsError(
                f"{path}, row {row}: class {start!r} of {model!r} is to be {end!r}, but an earlier row says "
                f"{found[model][start]!r}. A class has one meaning."
            )
    if not found:
        raise SettingsError(f"{path} maps nothing: it has a header but no rows.")
    return found


def _read_csv(path: Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            head = stream.readline()
            stream.seek(0)
            records = list(csv.reader(stream, delimiter=max(",;\t", key=head.count), strict=True))
    except UnicodeDecodeError as error:
        raise SettingsError(f"{path} is not UTF-8 text: save it as UTF-8.") from error
    except (OSError, csv.Error) as error:
        raise SettingsError(f"The class map {path} cannot be read: {error}.") from error
    if not records:
        raise SettingsError(f"{path} is empty: a class map has the columns 'model', 'from' and 'to'.")
    return [cell.strip() for cell in records[0]], [(n, cells) for n, cells in enumerate(records[1:], 2) if cells]


def align_classes(
    model: Sequence[str], reference: Sequence[str], pairs: Mapping[str, str] | None = None, *, name: str = "the model"
) -> Numbers:
    """Return the reference's class (C,) that each of a model's C classes is, -1 where it is none of them.

    Parameters
    ----------
    model, reference
        Class names in the order of the outputs.
    pairs
        From a class of the model to one of the reference, as :func:`read_class_map` gives it, by name or index. Other
        classes are matched by name; case does not matter, and ``_``, ``-`` and space are equal.
    name
        What the model is called, for messages.

    Raises
    ------
    SettingsError
        When a class that is mapped does not exist, or a name is matched but stands for several classes.
    """
    there: dict[str, list[int]] = {}
    for i, c in enumerate(reference):
        there.setdefault(_plain(c), []).append(i)
    found = np.full(len(model), -1, dtype=np.int64)
    given = {
        _index(start, model, name): _index(end, reference, "the reference") for start, end in (pairs or {}).items()
    }
    for i, c in enumerate(model):
        matches = [given[i]] if i in given else there.get(_plain(c), [])
        if len(matches) > 1 and i not in matches:  # two classes of one name are told apart by their place, if any
            raise SettingsError(
                f"Class {c!r} of {name} may be any of the reference's classes {matches}, which share that name. "
                "Say which in a class map, by index."
            )
        if matches:
            found[i] = matches[0] if len(matches) == 1 else i
    return found


def _plain(name: str) -> str:
    return _GAPS.sub(" ", name).strip().casefold()


def _index(given: str, names: Sequence[str], who: str) -> int:
    """Return the class that a name or, where no class is called that, an index means."""
    found = [i for i, n in enumerate(names) if n == given] or [
        i for i, n in enumerate(names) if _plain(n) == _plain(given)
    ]
    if len(found) == 1:
        return found[0]
    if not found and given.isdecimal() and int(given) < len(names):
        return int(given)
    if found:
        raise SettingsError(f"{given!r} is the name of the classes {found} of {who}: give the index of one.")
    raise SettingsError(f"{given!r} of the class map is no class of {who}.{nearest(given, names)}")
