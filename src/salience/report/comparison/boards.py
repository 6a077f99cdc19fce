"""The figures over all concepts: the forest of effects, the scatter, the heat map of classes, the matrix of models."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from salience.comparison.wording import percent_digits
from salience.report.comparison import wording
from salience.report.comparison.figures import Ends, Scatter, around_zero, percents, scatter
from salience.report.comparison.findings import Effect, Findings
from salience.report.comparison.material import Material
from salience.report.comparison.wording import ConceptName
from salience.report.trust.figures import Axis

MOST_CLASSES = 16
"""Columns of the heat map; of more classes those with the largest effects are shown."""

STATES = {
    "confirmed": ("confirmed", "Attribution and intervention agree in sign, both beyond chance."),
    "attribution": ("attribution only", "Beyond chance in the maps, but changing the pixels does not confirm it."),
    "none": ("not shown", "Not beyond chance."),
    "few": ("too few", "Too few independent images for a test."),
}

FAMILY_TEXTS = {
    "direction": "toward the class",
    "use": "use, without sign",
    "ledger": "what it adds up to",
}


def family_meaning(family: str, material: Material, model: str) -> str:
    """Return what a family's effects are."""
    names = material.naming(model)
    less = "" if names.alone else f", less {names.reference}'s"
    if family == "direction":
        return (
            f"How much of its attribution {names.model} gives to a concept, in favour of the class that is explained"
            f"{less}: the mean over the images of one class. Of each concept the class that says most is shown."
        )
    if family == "use":
        return (
            f"How much of its attribution {names.model} spends on a concept, for or against the class{less}: the mean "
            "over all images."
        )
    scalar = str(material.comparison.settings["output"])
    return f"What a concept adds to {names.model}'s {scalar}{less}: the mean over the images of a slice, in its units."


# ---------------------------------------------------------------------- forest


@dataclass(frozen=True)
class Row:
    """A concept's leading effect of a family: places in per cent of the axis, and words."""

    rank: int
    concept: int
    name: ConceptName
    where: str
    stratum: str
    ends: Ends
    text: str
    q: str
    n: int
    state: str
    size: float
    others: int
    detectable: str


@dataclass(frozen=True)
class Forest:
    """The effects of a family, a row for each concept: the surest first, then by absolute effect times quality."""

    family: str
    title: str
    meaning: str
    unit: str
    axis: Axis
    zero: float
    rows: tuple[Row, ...]


def forests(material: Material, found: Findings) -> list[Forest]:
    """Return the forest of each family."""
    return [_forest(material, found, family) for family in found.families()]


def _forest(material: Material, found: Findings, family: str) -> Forest:
    scale = 1.0 if family == "ledger" else 100.0
    leads = found.by_size(family)
    line = around_zero([scale * v for e in leads for v in e.ends])
    naming = material.naming(found.model)
    largest = max(leads, key=lambda e: abs(e.effect))
    digits = 1 + wording.digits_of(largest.ends) if family == "ledger" else percent_digits(*largest.ends)
    rows = []
    for rank, e in enumerate(leads, 1):
        three = (scale * e.ends[0], scale * e.ends[1], scale * e.ends[2])
        others = sum(o.sure for o in found.of(e.concept)) - e.sure
        rows.append(
            Row(
                rank=rank,
                concept=e.concept,
                name=material.names[e.concept],
                where=naming.stratum(e.stratum),
                stratum=e.stratum,
                ends=percents(line, three),
                text=wording.signed(scale * e.effect, digits) + wording.bracket(e.ends, scale, digits),
                q=wording.q_text(e.q),
                n=e.n,
                state=e.state,
                size=e.size,
                others=others,
                detectable=_detectable(e),
            )
        )
    unit = "in units of the scalar" if family == "ledger" else "points: per cent of the attribution"
    return Forest(
        family,
        FAMILY_TEXTS[family],
        family_meaning(family, material, found.model),
        unit,
        line,
        round(100 * line.share(0.0), 2),
        tuple(rows),
    )


def _detectable(effect: Effect) -> str:
    if not math.isfinite(effect.detectable):
        return ""
    return wording.least(effect.detectable if effect.family == "ledger" else 100 * effect.detectable)


# ---------------------------------------------------------------------- scatter


@dataclass(frozen=True)
class ScatterDot:
    """What is said of a dot of the scatter."""

    name: ConceptName
    state: str
    where: str
    reference: str
    model: str
    difference: str


@dataclass(frozen=True)
class ScatterView:
    """Mean shares of the two models, a dot for each concept where its leading effect of shares is."""

    figure: Scatter
    dots: dict[int, ScatterDot]


def scatter_view(material: Material, found: Findings, side: float) -> ScatterView | None:
    """Return the scatter; None for one model alone or without effects of shares."""
    if material.comparison.alone:
        return None
    family = next((f for f in found.families() if f != "ledger"), None)
    leads = found.by_size(family)[::-1] if family else []
    if not leads:
        return None
    naming = material.naming(found.model)
    places: dict[int, tuple[Ends, Ends]] = {}
    dots = {}
    for e in leads:
        pair = [
            material.mean(m, e.stratum, e.concept, of=found.model, absolute=e.family == "use")
            for m in (naming.reference, naming.model)
        ]
        places[e.concept] = (_hundredfold(pair[0]), _hundredfold(pair[1]))
        dots[e.concept] = ScatterDot(
            material.names[e.concept],
            e.state,
            naming.stratum(e.stratum),
            wording.share_ends(pair[0]),
            wording.share_ends(pair[1]),
            wording.points(e.ends),
        )
    return ScatterView(scatter(places, side), dots)


def _hundredfold(ends: Ends) -> Ends:
    return 100 * ends[0], 100 * ends[1], 100 * ends[2]


# ---------------------------------------------------------------------- concepts by class, concepts by model


@dataclass(frozen=True)
class Cell:
    """An effect in a table of many: its size from -1 to 1 for the colour, and words."""

    shade: float
    text: str
    reach: str
    full: str
    state: str


@dataclass(frozen=True)
class Heat:
    """Concepts (rows) by classes or models (columns); ``left`` columns are not shown."""

    columns: tuple[str, ...]
    rows: tuple[tuple[int, ConceptName, str, tuple[Cell | None, ...]], ...]
    limit: str
    left: int


def heat(material: Material, found: Findings) -> Heat | None:
    """Return the effects of concepts by class, of classes with enough images for a test; None without any."""
    every = {e.stratum for e in found.effects if e.family == "direction"}
    own = {(e.concept, e.stratum): e for e in found.effects if e.family == "direction" and e.tested}
    strata: dict[str, float] = {}
    for e in own.values():
        strata[e.stratum] = max(strata.get(e.stratum, 0.0), abs(e.effect) * (1 + e.sure))
    if not strata:
        return None
    most = sorted(strata, key=lambda s: -strata[s])[:MOST_CLASSES]
    shown = sorted(most, key=lambda s: material.comparison.classes.index(wording.class_of(s)))
    concepts = [e.concept for e in found.by_size("direction") if e.tested]
    limit = max((abs(own[c, s].effect) for c in concepts for s in shown if (c, s) in own), default=0.0)
    rows = tuple((c, material.names[c], "", tuple(_cell(own.get((c, s)), limit) for s in shown)) for c in concepts)
    short = tuple(material.naming(found.model).kind(s) for s in shown)
    return Heat(short, rows, f"{100 * limit:.1f}", len(every) - len(shown))


def matrix(material: Material, all_found: Sequence[Findings]) -> Heat | None:
    """Return each concept's effect for every model, where it is largest for one of them; None for less than two."""
    if len(all_found) < 2:
        return None
    by = {(f.model, e.concept, e.family, e.stratum): e for f in all_found for e in f.effects}
    leads: dict[int, Effect] = {}
    for f in all_found:
        for e in f.leads():
            known = leads.get(e.concept)
            if known is None or (e.tier, e.size) > (known.tier, known.size):
                leads[e.concept] = e
    ranked = sorted(leads.values(), key=lambda e: (-e.tier, -e.size, e.concept))
    limits: dict[bool, float] = {}
    for e in ranked:
        for f in all_found:
            other = by.get((f.model, e.concept, e.family, e.stratum))
            money = e.family == "ledger"
            limits[money] = max(limits.get(money, 0.0), abs(other.effect) if other else 0.0)
    rows = []
    for e in ranked:
        cells = [by.get((f.model, e.concept, e.family, e.stratum)) for f in all_found]
        where = material.naming(e.model).stratum(e.stratum)
        unit = f"{where}{', without sign' if e.family == 'use' else ''}{', scalar' if e.family == 'ledger' else ''}"
        limit = limits[e.family == "ledger"]
        rows.append((e.concept, material.names[e.concept], unit, tuple(_cell(c, limit) for c in cells)))
    return Heat(tuple(f.model for f in all_found), tuple(rows), "", 0)


def _cell(effect: Effect | None, limit: float) -> Cell | None:
    if effect is None or not math.isfinite(effect.effect):
        return None
    scale, digits = (1, 2) if effect.family == "ledger" else (100, 1)
    text = wording.signed(scale * effect.effect, digits)
    reach = wording.bracket(effect.ends, scale, digits).lstrip()
    full = f"{wording.q_text(effect.q)}, n = {effect.n}, {STATES[effect.state][0]}"
    return Cell(round(effect.effect / limit, 3) if limit else 0.0, text, reach, full, effect.state)
