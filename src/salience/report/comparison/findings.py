"""The effects of a comparison, one by one: what each says, how sure it is, and which of a concept's leads."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from statistics import median
from typing import Any

from salience.comparison.result import Comparison
from salience.report.comparison.figures import Ends

LEVEL = 0.05
"""Below it a q-value counts as beyond chance."""

FAMILIES = ("direction", "use", "ledger")
"""In the order in which they lead: what speaks for a class, then how much is used at all, then what it adds up to."""


@dataclass(frozen=True)
class Effect:
    """A row of the table ``effects``; numbers that are not known are NaN. ``size``: see ``Comparison.sizes``."""

    concept: int
    model: str
    family: str
    stratum: str
    n: int
    effect: float
    low: float
    high: float
    d_z: float
    p: float
    q: float
    p_max: float
    detectable: float
    confirmed: bool | None
    size: float

    @property
    def ends(self) -> Ends:
        """Return the effect with the ends of its interval, NaN where there is none."""
        return self.effect, self.low, self.high

    @property
    def tested(self) -> bool:
        """Whether it has a p-value."""
        return not math.isnan(self.p)

    @property
    def sure(self) -> bool:
        """Whether it is beyond chance."""
        return self.q < LEVEL

    @property
    def tier(self) -> int:
        """Return how sure it is: 3 where confirmed, 2 beyond chance, 1 tested, 0 not tested."""
        return {"confirmed": 3, "attribution": 2, "none": 1, "few": 0}[self.state]

    @property
    def state(self) -> str:
        """Return ``confirmed``, ``attribution`` (beyond chance, not confirmed), ``none`` or ``few`` (not tested)."""
        if not self.tested:
            return "few"
        if not self.sure:
            return "none"
        return "confirmed" if self.confirmed else "attribution"


@dataclass(frozen=True)
class Intervention:
    """A row of the table ``interventions``; numbers that are not known are NaN."""

    concept: int
    model: str
    fill: str
    stratum: str
    n: int
    reference_drop: float
    model_drop: float
    effect: float
    low: float
    high: float
    p: float
    q: float

    @property
    def ends(self) -> Ends:
        """Return the effect with the ends of its interval."""
        return self.effect, self.low, self.high


def effects(comparison: Comparison) -> list[Effect]:
    """Return all effects."""
    rows = zip(comparison.effects.to_pylist(), comparison.sizes.tolist(), strict=True)
    return [Effect(**{**_known(row), "confirmed": row["confirmed"]}, size=size) for row, size in rows]


def interventions(comparison: Comparison) -> list[Intervention]:
    """Return all interventions."""
    return [Intervention(**_known(row)) for row in comparison.interventions.to_pylist()]


def _known(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row with NaN for what is not known."""
    return {k: math.nan if v is None else v for k, v in row.items()}


@dataclass(frozen=True)
class Findings:
    """What is known of one model against the reference, or of one model alone."""

    model: str
    effects: tuple[Effect, ...]
    interventions: tuple[Intervention, ...]

    def of(self, concept: int, family: str | None = None) -> list[Effect]:
        """Return a concept's effects, or those of one family, the ones that say most first.

        The surest come first; among equals the families in their order, and the largest.
        """
        found = [e for e in self._by_concept.get(concept, ()) if family in (None, e.family)]
        return sorted(found, key=lambda e: (-e.tier, FAMILIES.index(e.family), -e.size))

    def families(self) -> list[str]:
        """Return the families that there are effects of, the one of the first lead first."""
        best: dict[str, int] = {}
        for e in self.effects:
            best[e.family] = max(best.get(e.family, 0), e.tier)
        return sorted(best, key=lambda f: (-best[f], FAMILIES.index(f)))

    def leads(self) -> list[Effect]:
        """Return for each concept the effect that says most.

        They are sorted as :attr:`Comparison.confirmed` is: by the largest of each concept's surest effects.
        """
        found = []
        for concept in self._by_concept:
            own = self.of(concept)
            found.append((own[0], max(e.size for e in own if e.tier == own[0].tier)))
        return [lead for lead, _ in sorted(found, key=lambda pair: (-pair[0].tier, -pair[1], pair[0].concept))]

    def by_size(self, family: str) -> list[Effect]:
        """Return for each concept its leading effect of a family: the surest, then by absolute effect times quality."""
        found = (self.of(concept, family)[:1] for concept in self._by_concept)
        return sorted((e for first in found for e in first), key=lambda e: (-e.tier, -e.size, e.concept))

    def confirming(self, effect: Effect) -> list[Intervention]:
        """Return the interventions that decide on an effect: of its stratum, or of all images where it is small."""
        own = [i for i in self.interventions if i.concept == effect.concept]
        for tested in (True, False):
            for stratum in (effect.stratum, "all"):
                found = [i for i in own if i.stratum == stratum and not (tested and math.isnan(i.q))]
                if found:
                    return found
        return []

    def detectable(self, family: str) -> float:
        """Return the median smallest effect that tested cells of a family could show; NaN where nothing was tested."""
        found = [e.detectable for e in self.effects if e.family == family and not math.isnan(e.p + e.detectable)]
        return median(found) if found else math.nan

    @cached_property
    def _by_concept(self) -> dict[int, list[Effect]]:
        out: dict[int, list[Effect]] = {}
        for effect in self.effects:
            out.setdefault(effect.concept, []).append(effect)
        return out


def findings(comparison: Comparison) -> list[Findings]:
    """Return what is known of each model that is compared."""
    all_effects, all_interventions = effects(comparison), interventions(comparison)
    return [
        Findings(
            model,
            tuple(e for e in all_effects if e.model == model),
            tuple(i for i in all_interventions if i.model == model),
        )
        for model in comparison.others
    ]
