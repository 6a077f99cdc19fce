"""What a comparison found, in sentences: every number with its interval, nothing that was not shown."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pyarrow as pa

from salience.comparison.confirmation import BEYOND_CHANCE
from salience.comparison.result import Comparison
from salience.comparison.strata import ALL

MOST = 5
"""Claims that are told of each kind; the others are in the table."""

_WHERE = {
    ALL: "over all images",
    "both-right": "on images that both get right",
    "only-reference": "on images that only {reference} gets right",
    "only-model": "on images that only {model} gets right",
    "both-wrong": "on images that both get wrong",
}
_UNIT = {
    "margin": "of the margin",
    "logit": "of the logit",
    "logprob": "of the log probability",
    "prob": "of the probability",
}


def claims(comparison: Comparison) -> list[str]:
    """Return what differs, the largest first; each concept once.

    Confirmed effects come first. Where there is none, effects beyond chance by attribution alone are told as such, and
    where there is none either, how large a difference would have been found.
    """
    found = _once(comparison.confirmed.to_pylist())
    if found:
        return [sentence(comparison, row) for row in found[:MOST]]
    order = np.argsort(-comparison.sizes, kind="stable")
    rows = comparison.effects.take(pa.array(order, pa.int64())).to_pylist()
    sure = _once([r for r in rows if r["q"] is not None and r["q"] < BEYOND_CHANCE])
    if sure:
        return [sentence(comparison, row) for row in sure[:MOST]]
    return [_nothing(comparison, rows)]


def sentence(comparison: Comparison, row: dict[str, Any]) -> str:
    """Return one row of ``effects`` as a sentence."""
    model, reference = row["model"], comparison.reference
    name = comparison.concept_name(row["concept"])
    where = _where(row["stratum"], model, reference)
    if row["family"] == "ledger":
        amount = f"{row['effect']:+.3g}{_interval(row, '.3g')} {_UNIT[comparison.settings['output']]}"
        told = f"{_capital(where)}, {name} adds {amount}"
        told += "" if comparison.alone else f" to {model} beyond what it adds to {reference}"
    else:
        form = f".{percent_digits(row['effect'], row['low'], row['high'])}%"
        amount = f"{row['effect']:+{form}}{_interval(row, form)}"
        if comparison.alone:
            told = f"{_capital(where)}, {name} carries {amount} of the attribution of {model}"
        else:
            more = "more" if row["effect"] > 0 else "less"
            verb = "speaks for the class" if row["family"] == "direction" else "is used"
            told = (
                f"{_capital(where)}, {name} {verb} {more} in {model} than in {reference}: {amount} of the attribution"
            )
    return f"{told} (n = {row['n']}{_chance(row)}); {_verdict(row)}."


def percent_digits(effect: float, low: float | None, high: float | None) -> int:
    """Return how many decimals of a per cent tell a share: those in which its interval is seen, one at least."""
    ends = [v for v in (low, high) if v is not None and math.isfinite(v)]
    size = 100 * (max(ends) - min(ends) if len(ends) == 2 and max(ends) > min(ends) else abs(effect))
    return 1 if size == 0 else min(4, max(1, 1 - math.floor(math.log10(size))))


def _where(stratum: str, model: str, reference: str) -> str:
    head, colon, name = stratum.partition(":")
    if colon and head == "class":
        return f"on images explained for {name}"
    return _WHERE[stratum].format(model=model, reference=reference)


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _interval(row: dict[str, Any], form: str) -> str:
    if row["low"] is None or row["high"] is None:
        return ""
    return f" [{row['low']:+{form}}, {row['high']:+{form}}]"


def _chance(row: dict[str, Any]) -> str:
    return "" if row["q"] is None else f", q = {row['q']:.2g}"


def _verdict(row: dict[str, Any]) -> str:
    if row["confirmed"]:
        return "changing its pixels confirms it"
    if row["confirmed"] is None:
        return "by attribution only, not tested by changing its pixels"
    return "by attribution only, changing its pixels does not confirm it"


def _once(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the first row of each model and concept."""
    first: dict[tuple[str, int], dict[str, Any]] = {}
    for row in rows:
        first.setdefault((row["model"], row["concept"]), row)
    return list(first.values())


def _nothing(comparison: Comparison, rows: list[dict[str, Any]]) -> str:
    n = len(comparison.images)
    who = (
        f"that a concept carries a class of {comparison.reference}"
        if comparison.alone
        else f"of {' or '.join(comparison.others)} from {comparison.reference}"
    )
    what = "It cannot be shown " + who if comparison.alone else "No difference " + who + " can be shown"
    if rows and all(r["effect"] == 0 for r in rows):
        return f"{what} on these {n} images: every effect is exactly zero."
    tested = [r["detectable"] for r in rows if r["family"] == "direction" and r["p"] is not None and r["detectable"]]
    if tested:
        return (
            f"{what} on these {n} images; one of {float(np.median(tested)):.1%} of the attribution within a class "
            "would have been found with a power of 0.8 (the median over concepts and classes)."
        )
    return f"{what} on these {n} images: there are too few images of each class for a test."
