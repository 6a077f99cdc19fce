"""Which segments stand for a concept: typical ones, the ones each model favours, random ones, and counter-examples."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from salience.report.comparison.figures import Floats
from salience.report.comparison.findings import Effect
from salience.report.comparison.material import Material, Rows

EACH = 3
"""Patches of each of the four kinds."""

MOST_COUNTER = 6
"""Counter-examples that are shown."""


@dataclass(frozen=True)
class Patch:
    """One segment that is shown: place of its image among the compared ones, its number there, what is said of it."""

    image: int
    segment: int
    said: str

    @property
    def key(self) -> str:
        """Return the name of its picture."""
        return f"s{self.image}.{self.segment}"


@dataclass(frozen=True)
class Group:
    """Patches of one kind (``near``, ``most``, ``least`` or ``random``), under a title."""

    kind: str
    title: str
    patches: tuple[Patch, ...]


@dataclass(frozen=True)
class Counter:
    """Images with the concept where the claim does not hold: how many of how many, and the most opposed ones."""

    against: int
    of: int
    patches: tuple[Patch, ...]


def groups(material: Material, concept: int, lead: Effect | None, model: str) -> list[Group]:
    """Return twelve patches of a concept, or as many as there are, no segment twice and few images twice.

    Where one of the kinds has less than its three, there are more random ones.
    """
    s = material.segments
    own = np.flatnonzero(s.concept == concept)
    alone = material.comparison.alone
    base = material.comparison.reference
    favour = s.share[model][own] - (0.0 if alone else s.share[base][own])
    within = np.isin(s.image[own], material.rows(lead.stratum, model)) if lead else np.ones(len(own), dtype=np.bool_)
    random = np.random.Generator(np.random.Philox(key=[int(material.comparison.settings["seed"]), concept]))
    towards, away = (
        (f"Speaks most for {model}'s class", "Speaks most against it")
        if alone
        else (
            f"Counts most for {model}",
            f"Counts most for {base}",
        )
    )
    orders: list[tuple[str, str, Rows]] = [
        ("near", "Typical: nearest to its centre", np.argsort(-s.similarity[own], kind="stable")),
        ("most", towards, _sorted(-favour, within & (favour > 0))),
        ("least", away, _sorted(favour, within & (favour < 0))),
        ("random", "Drawn at random", random.permutation(len(own))),
    ]
    taken: set[int] = set()
    seen: set[int] = set()
    found = []
    for kind, title, order in orders:
        wanted = EACH if kind != "random" else EACH * len(orders) - len(taken)
        chosen = _pick(order.tolist(), wanted, own, s.image, taken, seen)
        found.append(Group(kind, title, tuple(_patch(material, int(own[i]), model) for i in chosen)))
    return found


def counter(material: Material, effect: Effect) -> Counter:
    """Return the images of an effect's stratum that have its concept and yet differ the other way, or not at all."""
    rows = material.rows(effect.stratum, effect.model)
    rows = rows[material.has[rows, effect.concept] > 0]
    values = material.values(effect.family, effect.model, rows, effect.concept) * np.sign(effect.effect)
    against = np.flatnonzero(values <= 0) if effect.effect else np.zeros(0, dtype=np.int64)
    most = against[np.argsort(values[against], kind="stable")][:MOST_COUNTER]
    patches = [_largest(material, int(rows[i]), effect) for i in most]
    return Counter(len(against), len(rows), tuple(patches))


def _sorted(values: Floats, allowed: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> Rows:
    """Return the places of allowed values as these rise."""
    order = np.argsort(values, kind="stable")
    found: Rows = order[allowed[order]]
    return found


def _pick(order: Sequence[int], wanted: int, own: Rows, image: Rows, taken: set[int], seen: set[int]) -> list[int]:
    """Return the first few that are not taken, of images not yet seen where there are enough."""
    chosen: list[int] = []
    for fresh in (True, False):
        for i in order:
            if len(chosen) == wanted:
                return chosen
            of = int(image[own[i]])
            if i not in taken and not (fresh and of in seen):
                chosen.append(i)
                taken.add(i)
                seen.add(of)
    return chosen


def _largest(material: Material, image: int, effect: Effect) -> Patch:
    """Return the segment of an image that most makes it a counter-example."""
    s = material.segments
    own = np.flatnonzero((s.image == image) & (s.concept == effect.concept))
    given = s.share[effect.model][own]
    if not material.comparison.alone:
        given = given - s.share[material.comparison.reference][own]
    return _patch(material, int(own[np.argmin(given * np.sign(effect.effect))]), effect.model)


def _patch(material: Material, at: int, model: str) -> Patch:
    s = material.segments
    sides: Iterable[str] = (
        material.comparison.models
        if material.comparison.alone
        else (
            material.comparison.reference,
            model,
        )
    )
    given = ", ".join(f"{m} {100 * s.share[m][at]:.1f} %" for m in sides).replace("-", "\N{MINUS SIGN}")
    image = int(s.image[at])
    return Patch(image, int(s.segment[at]), f"{material.pictures[image].image_id}: {given}")
