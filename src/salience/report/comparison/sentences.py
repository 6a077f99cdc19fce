"""What a comparison came to in sentences: the headline, what each effect claims, and whether changing pixels agrees."""

from __future__ import annotations

import math
from dataclasses import dataclass

from salience.report import words
from salience.report.comparison import wording
from salience.report.comparison.findings import Effect, Findings, Intervention
from salience.report.comparison.material import Material
from salience.report.words import NBSP

SCALARS = {**words.SCALARS, "margin": "margin"}

FILLS = {"blur": "blurred", "mean": "filled with their mean colour"}


@dataclass(frozen=True)
class Verdict:
    """The headline of one model against the reference: ``state`` is that of its leading effect, or ``none``."""

    title: str
    lead: tuple[str, ...]
    state: str
    effect: Effect | None
    confirmed: int
    attribution: int


def verdict(material: Material, found: Findings) -> Verdict:
    """Return the headline of one model."""
    leads = found.leads()
    states = [e.state for e in leads]
    counts = states.count("confirmed"), states.count("attribution")
    if not leads:
        return Verdict("Nothing could be compared", ("No image has a map of every model.",), "none", None, 0, 0)
    first = leads[0]
    if not first.sure:
        return Verdict(_no_title(material, found), tuple(_no_lead(found, leads)), "none", None, *counts)
    told = [claim(material, found, first), confirmation(material, found, first)]
    told += _others(material, len(leads), *counts)
    return Verdict(_title(material, found, first), tuple(told), first.state, first, *counts)


def _title(material: Material, found: Findings, effect: Effect) -> str:
    """Say who leans on what, or holds it against the class, more than the other: as surely as it is known."""
    naming, may = material.naming(found.model), effect.state != "confirmed"
    thing = material.names[effect.concept].place or material.names[effect.concept].phrase
    rows = material.rows(effect.stratum, found.model)
    mean = float(material.values(effect.family, found.model, rows, effect.concept, against=False).mean())
    if naming.alone:
        if mean < 0:
            return f"{naming.model} {'may hold' if may else 'holds'} {thing} against the class"
        if effect.stratum.startswith(wording.CLASS):
            return f"{naming.model} {'may tell' if may else 'tells'} {naming.kind(effect.stratum)} by {thing}"
        return f"{naming.model} {'may go' if may else 'goes'} by {thing}"
    ahead, behind = naming.model, naming.reference
    if effect.effect < 0:
        ahead, behind, mean = behind, ahead, mean - effect.effect
    if mean <= 0:  # even the one that is ahead books it against the class: the other does so more
        return f"{behind} {'may hold' if may else 'holds'} {thing} against the class more than {ahead} does"
    return f"{ahead} {'may lean' if may else 'leans'} on {thing} more than {behind} does"


def _no_title(material: Material, found: Findings) -> str:
    tested = any(e.tested for e in found.effects)
    if material.comparison.alone:
        return f"No concept carries a class of {found.model} beyond chance" if tested else "Too few images to tell"
    pair = f"{material.comparison.reference} and {found.model}"
    if not tested:
        return f"Too few images to tell {pair} apart"
    return f"No difference between {pair} can be shown"


def _no_lead(found: Findings, leads: list[Effect]) -> list[str]:
    tested = [e for e in found.effects if e.tested]
    if not tested:
        most = max(e.n for e in found.effects)
        return [
            f"A test needs at least 30 independent images in a cell; here the largest has {most}. "
            "The effects below are estimates only."
        ]
    told = [f"None of {words.count(len(leads), 'concept')} differs beyond chance: every q is at least 0.05."]
    family = tested[0].family
    typical = found.detectable(family)
    if math.isfinite(typical):
        shares = f"{wording.least(100 * typical)} points of the attribution"
        size = wording.least(typical) if family == "ledger" else shares
        told.append(
            f"That does not mean that there is none: the smallest difference that these images would show with power "
            f"0.8 is {size} (the median over what was tested)."
        )
    return told


def _others(material: Material, concepts: int, confirmed: int, attribution: int) -> list[str]:
    verb = ("carry a class", "carries a class") if material.comparison.alone else ("differ", "differs")
    total = f"Of {words.count(concepts, 'concept')}, {confirmed or 'none'} "
    total += f"{'is' if confirmed < 2 else 'are'} confirmed by changing pixels"
    if attribution:
        total += f"; {attribution} more {verb[attribution == 1]} beyond chance in attribution only"
    return [total + "."]


def claim(material: Material, found: Findings, effect: Effect) -> str:
    """Return what an effect says, with the means it is the difference of, intervals, q and n."""
    phrase = material.names[effect.concept].phrase
    naming = material.naming(found.model)
    where = naming.stratum(effect.stratum)
    sure = f"{wording.q_text(effect.q)}, n{NBSP}={NBSP}{effect.n}"
    if effect.family == "ledger":
        scalar = SCALARS.get(str(material.comparison.settings["output"]), "scalar")
        beyond = "" if naming.alone else f" beyond {naming.reference}'s"
        added = wording.scalar_ends(effect.ends)
        return f"On {where}, {phrase} adds {added} to {naming.model}'s {scalar}{beyond} ({sure})."
    use = effect.family == "use"
    means = {
        m: material.mean(m, effect.stratum, effect.concept, of=found.model, absolute=use)
        for m in dict.fromkeys((found.model, naming.reference))
    }
    verb = "takes" if use else "carries"
    kind = " without regard to sign" if use else ""
    first = (
        f"On {where}, {phrase} {verb} {wording.share_ends(means[found.model])} of {naming.model}'s attribution{kind}"
    )
    if naming.alone:
        return f"{first} ({sure})."
    return (
        f"{first} and {wording.share_ends(means[naming.reference])} of {naming.reference}'s: "
        f"{wording.points(effect.ends)} ({sure})."
    )


def confirmation(material: Material, found: Findings, effect: Effect) -> str:
    """Return whether changing the concept's pixels agrees with an effect."""
    made = found.confirming(effect)
    if not made:
        if not effect.sure:
            return "Its pixels were not changed, since nothing about it is beyond chance."
        return "Its pixels were not changed, so this is attribution only."
    if all(math.isnan(i.q) for i in made):
        most = words.count(max(i.n for i in made), "image")
        return f"Its pixels were changed in {most} only, too few for a test: so this is attribution only."
    best = min(made, key=lambda i: (math.isnan(i.q), i.q, -abs(i.effect)))
    told = _changed(material, best)
    if effect.state == "confirmed":
        return f"Changing those pixels confirms it: {told}"
    return f"Changing those pixels does not confirm it, so this is attribution only: {told}"


def _changed(material: Material, i: Intervention) -> str:
    naming = material.naming(i.model)
    scalar = SCALARS.get(str(material.comparison.settings["output"]), "scalar")
    done = FILLS.get(i.fill, i.fill)
    falls = "falls" if i.effect >= 0 else "rises"
    size = wording.scalar_ends(i.ends if i.effect >= 0 else (-i.effect, -i.high, -i.low)).lstrip("+")
    more = "" if naming.alone else f" more than {naming.reference}'s"
    return (
        f"{done}, {naming.model}'s {scalar} {falls} by {size}{more}, beyond what as large an area elsewhere in the "
        f"same images does ({wording.q_text(i.q)}, n{NBSP}={NBSP}{i.n})."
    )
