"""The card of a concept: what it is, how it is used, whether changing its pixels agrees, and what speaks against it."""

from __future__ import annotations

import base64
import io
import math
from collections import Counter as Counts
from dataclasses import dataclass

import numpy as np
from PIL import Image

from salience.report import words
from salience.report.comparison import choice, sentences, wording
from salience.report.comparison.chips import Chip, chips
from salience.report.comparison.figures import Ends, Spread, around_zero, percents, places, spread
from salience.report.comparison.findings import Effect, Findings, Intervention
from salience.report.comparison.material import Material
from salience.report.comparison.wording import ConceptName
from salience.report.trust.figures import Axis

MOST_STRATA = 4
"""Slices whose bars are shown on a card; the heat map has the others."""

MOST_CLASSES = 6

SHORT_FILLS = {"blur": "blurred", "mean": "mean colour"}

INK = (200, 62, 134)
"""Colour of the map of places: seen on light and on dark."""


@dataclass(frozen=True)
class Bar:
    """A model's mean share on a slice: value and ends in per cent of the axis, and in words."""

    model: str
    side: str
    ends: Ends
    text: str


@dataclass(frozen=True)
class Stratum:
    """A slice of the images: each model's bar, and what the difference comes to."""

    key: str
    name: str
    family: str
    bars: tuple[Bar, ...]
    difference: str
    q: str
    n: int
    state: str


@dataclass(frozen=True)
class Bars:
    """Slices on one axis of shares; ``zero`` is where zero lies, in per cent."""

    axis: Axis
    zero: float
    strata: tuple[Stratum, ...]


@dataclass(frozen=True)
class Change:
    """What changing a concept's pixels did, beyond changing equally large other ones: a row for each fill."""

    fill: str
    where: str
    reference: str
    model: str
    difference: str
    q: str
    n: int


@dataclass(frozen=True)
class Count:
    """In how many images of a class or quadrant a concept is."""

    name: str
    having: int
    of: int


@dataclass(frozen=True)
class Card:
    """Everything that is said of one concept and model."""

    number: int
    name: ConceptName
    state: str
    claim: str
    lead: Effect | None
    added: str
    """What the leading effect adds to the scalar, with its interval; empty where it is one of shares."""
    chips: tuple[Chip, ...]
    bars: Bars | None
    changes: tuple[Change, ...]
    changed: str
    groups: tuple[choice.Group, ...]
    counter: choice.Counter | None
    spread: Spread | None
    spread_text: str
    classes: tuple[Count, ...]
    other_classes: int
    quadrants: tuple[Count, ...]
    places: str
    images: int
    segments: int


def card(material: Material, found: Findings, concept: int) -> Card:
    """Return the card of a concept for one model against the reference."""
    own = found.of(concept)
    lead = own[0] if own else None
    row = material.concepts[concept]
    having = np.flatnonzero(material.has[:, concept] > 0)
    about = spread(_values(material, lead)) if lead else None
    classes, others = _classes(material, having)
    return Card(
        number=concept,
        name=material.names[concept],
        state=lead.state if lead else "few",
        claim=sentences.claim(material, found, lead) if lead else "There is no effect of this concept in the run.",
        lead=lead,
        added=wording.scalar_ends(lead.ends) if lead and lead.family == "ledger" else "",
        chips=chips(material, concept),
        bars=_bars(material, found, concept),
        changes=tuple(_change(material, i) for i in (found.confirming(lead) if lead else [])),
        changed=sentences.confirmation(material, found, lead) if lead else "",
        groups=tuple(choice.groups(material, concept, lead, found.model)),
        counter=choice.counter(material, lead) if lead else None,
        spread=about,
        spread_text=_spread_text(material, lead, about) if lead and about else "",
        classes=classes,
        other_classes=others,
        quadrants=_quadrants(material, found.model, having),
        places=_places(material, concept),
        images=int(row["images"]),
        segments=int(row["segments"]),
    )


# ---------------------------------------------------------------------- bars


def _bars(material: Material, found: Findings, concept: int) -> Bars | None:
    """Return the slices that say most: some of the families of shares by class, and the use over all images."""
    own = [e for e in found.of(concept, "direction") if e.tested][:MOST_STRATA] + found.of(concept, "use")[:1]
    if not own:
        return None
    own.sort(key=lambda e: -e.tier)  # what the card claims is shown first
    models = material.comparison.models if material.comparison.alone else (material.comparison.reference, found.model)
    sides = ("model",) if material.comparison.alone else ("reference", "model")
    ends = {
        (e.family, e.stratum, m): material.mean(m, e.stratum, concept, of=found.model, absolute=e.family == "use")
        for e in own
        for m in models
    }
    line = around_zero([100 * v for three in ends.values() for v in three])
    naming = material.naming(found.model)
    strata = []
    for e in own:
        bars = []
        for model, side in zip(models, sides, strict=True):
            three = ends[e.family, e.stratum, model]
            if math.isfinite(three[0]):
                scaled = (100 * three[0], 100 * three[1], 100 * three[2])
                bars.append(Bar(model, side, percents(line, scaled), wording.share_ends(three)))
        name = naming.stratum(e.stratum)
        name = f"{name[0].upper()}{name[1:]}" + (", without sign" if e.family == "use" else "")
        difference, chance = wording.effect_text(e.family, e.ends), wording.q_text(e.q)
        strata.append(Stratum(e.stratum, name, e.family, tuple(bars), difference, chance, e.n, e.state))
    return Bars(line, round(100 * line.share(0.0), 2), tuple(strata))


# ---------------------------------------------------------------------- interventions


def _change(material: Material, i: Intervention) -> Change:
    digits = wording.digits_of(i.ends)

    def text(value: float) -> str:
        return wording.signed(value, digits) if math.isfinite(value) else words.DASH

    fill, where = SHORT_FILLS.get(i.fill, i.fill), material.naming(i.model).stratum(i.stratum)
    difference, chance = wording.scalar_ends(i.ends, digits), wording.q_text(i.q)
    return Change(fill, where, text(i.reference_drop), text(i.model_drop), difference, chance, i.n)


# ---------------------------------------------------------------------- distributions


def _values(material: Material, effect: Effect) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    rows = material.rows(effect.stratum, effect.model)
    rows = rows[material.has[rows, effect.concept] > 0]
    return material.values(effect.family, effect.model, rows, effect.concept)


def _spread_text(material: Material, effect: Effect, found: Spread) -> str:
    """Say in how many images a difference goes which way."""
    total = found.below + found.zero + found.above
    if not total:
        return "None of these images has the concept."
    naming = material.naming(effect.model)
    where = "" if effect.stratum == "all" else f" {naming.stratum(effect.stratum).replace('images ', '', 1)}"
    base = f"In {found.above} of the {words.count(total, 'image')}{where} with this concept "
    if material.comparison.alone:
        return f"{base}it speaks for the class, in {found.below} against it."
    ending = f", in {found.zero} alike" if found.zero else ""
    return f"{base}{naming.model} gives it more, in {found.below} {naming.reference} does{ending}."


def _classes(material: Material, having: np.ndarray[tuple[int], np.dtype[np.int64]]) -> tuple[tuple[Count, ...], int]:
    targets = material.comparison.targets
    all_of, own = Counts(targets.tolist()), Counts(targets[having].tolist())
    most = sorted(own, key=lambda c: (-own[c], c))
    found = [Count(material.class_names.get(c, f"class {c}"), own[c], all_of[c]) for c in most[:MOST_CLASSES]]
    return tuple(found), max(0, len(most) - MOST_CLASSES)


def _quadrants(material: Material, model: str, having: np.ndarray[tuple[int], np.dtype[np.int64]]) -> tuple[Count, ...]:
    quadrants = np.array(material.quadrants(model))
    naming = material.naming(model)
    return tuple(
        Count(naming.quadrant(q), int((quadrants[having] == q).sum()), int((quadrants == q).sum()))
        for q in QUADRANTS
        if (quadrants == q).any()
    )


QUADRANTS = ("both-right", "only-reference", "only-model", "both-wrong")


def _places(material: Material, concept: int) -> str:
    """Return where a concept's segments lie as a small picture: a data URL."""
    s = material.segments
    own = s.concept == concept
    shade = places(s.row[own], s.column[own], s.area[own])
    pixels = np.empty((*shade.shape, 4), dtype=np.uint8)
    pixels[..., :3], pixels[..., 3] = INK, np.rint(255 * shade)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(out.getvalue()).decode()
