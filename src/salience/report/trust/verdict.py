"""What the scores come to in words: which method to trust, how sure that is, and what to beware of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from salience.report import words
from salience.scores import FEWEST, HEADLINE, Scores, Setting
from salience.stats import Interval, interval

KINDS = {
    "soundness": (
        "Fails soundness",
        "A map for a wrong label makes that label look right: it could justify any answer.",
    ),
    "baselines": (
        "No better than a baseline",
        "A map that knows nothing of the model, or that ignores the label, scores as well.",
    ),
    "backgrounds": (
        "The ranking flips with the background",
        "Which method is better depends on what takes the place of the removed pixels: that says more about the hole "
        "than about the maps.",
    ),
    "smoothness": (
        "A lead that smoothing explains",
        "It is gone once both maps are blurred alike. Blurring adds no information, so the lead was never about what "
        "the maps know.",
    ),
}


@dataclass(frozen=True)
class Alarm:
    """Warnings of one kind: its name, what it means, and the sentences."""

    title: str
    meaning: str
    texts: tuple[str, ...]


@dataclass(frozen=True)
class Verdict:
    """The headline of one model.

    ``tone`` is ``right`` where a method is clearly better than every baseline, else ``wrong``.
    """

    title: str
    lead: tuple[str, ...]
    tone: str
    setting: Setting | None
    number: Interval | None
    parts: tuple[tuple[str, Interval], ...]
    best: str


def main_setting(scores: Scores, model: str, backgrounds: Sequence[str]) -> Setting | None:
    """Return where the headline is read: the first background that was asked for, and the least smoothing.

    That is the headline number where completeness and soundness were measured, else the first metric with a direction.
    """
    own = [s for s in scores.settings if s.model == model and scores.direction(s.metric) != "neither"]
    own = [s for s in own if scores.board(s).methods]
    if not own:
        return None
    order = {b: i for i, b in enumerate(backgrounds)}
    metric = own[0].metric
    return min(
        (s for s in own if s.metric == metric),
        key=lambda s: (s.smooth, order.get(s.background or "", len(order)), s.background or ""),
    )


def verdict(scores: Scores, model: str, backgrounds: Sequence[str]) -> Verdict:
    """Return the headline of a model."""
    setting = main_setting(scores, model, backgrounds)
    if setting is None:
        return Verdict(f"Nothing was scored on {model} yet", (), "wrong", None, None, (), "")
    rows = scores.ranking(setting.metric, setting.background, setting.smooth, model)
    rows = [r for r in rows if r["background"] == setting.background]
    own = [r for r in rows if r["kind"] == "method"]
    blind = [r for r in rows if r["kind"] != "method"]
    if not own:
        return Verdict(f"Only baselines were scored on {model}", (), "wrong", setting, None, (), "")
    best = own[0]
    lead = [_first(scores, setting, best, len(own))]
    if best["n"] < FEWEST:
        lead.append(f"Nothing can be claimed on fewer than {FEWEST} images: more would tell.")
        number = Interval(best["mean"], best["low"], best["high"], 0.95, best["n"])
        title = f"Too few images to trust a method on {model}"
        return Verdict(title, tuple(lead), "wrong", setting, number, (), best["method"])
    ahead = True
    if blind:
        gap = _lead(scores, setting, best["method"], blind[0]["method"])
        ahead = gap.low > 0
        lead.append(_against(best["method"], blind[0], gap))
    ties = [r["method"] for r in own[1:] if _lead(scores, setting, best["method"], r["method"]).low <= 0]
    if not ahead:
        title = f"No method has earned trust on {model}"
    elif ties:
        title = f"{best['method']} leads on {model}, not clearly ahead of {words.listed(ties, 2)}"
    else:
        title = f"Trust {best['method']} most on {model}"
    if ahead and len(own) > 1 and not ties:
        lead.append(f"It is clearly ahead of {'the other method' if len(own) == 2 else 'all other methods'}.")
    elif ties and not ahead:
        be = "is" if len(ties) == 1 else "are"
        lead.append(f"{words.listed(ties, 3)} {be} not clearly behind it.")
    lead += _elsewhere(scores, setting, best["method"])
    found = Interval(best["mean"], best["low"], best["high"], 0.95, best["n"])
    parts = _parts(scores, setting, best["method"])
    return Verdict(title, tuple(lead), "right" if ahead else "wrong", setting, found, parts, best["method"])


def where(setting: Setting) -> str:
    """Return background and smoothing in words."""
    under = f"background {setting.background}" if setting.background else "maps alone"
    return f"{under}, maps blurred by {setting.smooth:g} px" if setting.smooth else under


def _first(scores: Scores, setting: Setting, best: dict[str, Any], methods: int) -> str:
    images = words.count(best["n"], "image")
    among = f"Of {words.count(methods, 'method')}" if methods > 1 else "The one method scored"
    verb = f", {best['method']} comes first" if methods > 1 else f" is {best['method']}"
    what = "the smaller of worst completeness and worst soundness" if _is_headline(setting) else setting.metric
    better = scores.direction(setting.metric)
    return f"{among}{verb} by {what} ({better} is better), over {images}, {where(setting)}."


def _against(best: str, baseline: dict[str, Any], gap: Interval) -> str:
    number = Interval(baseline["mean"], baseline["low"], baseline["high"], 0.95, baseline["n"])
    if gap.low > 0:
        return f"It is clearly better than the best baseline, {baseline['method']} ({number}): by {gap}."
    if gap.high < 0:
        lost = Interval(-gap.value, -gap.high, -gap.low, gap.level, gap.n)
        return (
            f"Even so, the baseline {baseline['method']} ({number}) beats it, by {lost}: "
            f"until a method does better than that, believe none of these maps."
        )
    return (
        f"It is not clearly better than the baseline {baseline['method']} ({number}): the difference is {gap}. "
        "More images would tell."
    )


def _lead(scores: Scores, setting: Setting, first: str, second: str) -> Interval:
    """Return by how much the first is better than the second, paired; positive is better in either direction."""
    board = scores.board(setting)
    a, b = (board.methods.index(m) for m in (first, second))
    sign = -1 if scores.direction(setting.metric) == "lower" else 1
    return interval(
        float(sign * (board.means[a] - board.means[b])), sign * (board.drawn[a] - board.drawn[b]), board.units
    )


def _elsewhere(scores: Scores, setting: Setting, best: str) -> list[str]:
    """Say which method comes first under the other backgrounds, of the same metric and smoothing."""
    others: dict[str, list[str]] = {}
    for s in scores.settings:
        if (s.model, s.metric, s.smooth) == (setting.model, setting.metric, setting.smooth) and s != setting:
            rows = scores.ranking(s.metric, s.background, s.smooth, s.model)
            own = [r["method"] for r in rows if r["kind"] == "method" and r["background"] == s.background]
            if own and s.background:
                others.setdefault(own[0], []).append(s.background)
    same = others.pop(best, [])
    told = [f"Under {words.listed(same)} it comes first, too."] if same else []
    told += [f"Under {words.listed(under)}, {name} comes first instead." for name, under in others.items()]
    return told


def _is_headline(setting: Setting) -> bool:
    return setting.metric.startswith(HEADLINE)


def _parts(scores: Scores, setting: Setting, method: str) -> tuple[tuple[str, Interval], ...]:
    """Return the two numbers that the headline is the smaller of."""
    if not _is_headline(setting):
        return ()
    found = []
    for name, half in (("worst completeness", "worst-completeness"), ("worst soundness", "worst-soundness")):
        metric = half + setting.metric.removeprefix(HEADLINE)
        rows = scores.ranking(metric, setting.background, setting.smooth, setting.model)
        found += [
            (name, Interval(r["mean"], r["low"], r["high"], 0.95, r["n"]))
            for r in rows
            if r["method"] == method and r["background"] == setting.background
        ]
    return tuple(found) if len(found) == 2 else ()


def alarms(scores: Scores) -> list[Alarm]:
    """Return the warnings, those of a kind together."""
    return [Alarm(*KINDS[kind], tuple(texts)) for kind, texts in scores.findings().items() if texts]
