"""The page of an evaluation, put together: everything that its template and its script are given."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from salience.report import view, words
from salience.report.bundles import Bundles
from salience.report.frame import STYLES, Links, render
from salience.report.gather import Material, gather
from salience.report.payload import safe_json
from salience.report.trust.boards import BoardView, PlaneView, boards, planes
from salience.report.trust.curves import sweeps
from salience.report.trust.drill import Drill
from salience.report.trust.panels import PanelsView, curve_options, panels
from salience.report.trust.ranks import RanksView, ranks
from salience.report.trust.verdict import Verdict, alarms, verdict
from salience.scores import Scores

SCRIPTS = ("dom.js", "page.js", "choices.js", "pictures.js", "trust.js", "trust-image.js")


@dataclass(frozen=True)
class Choices:
    """What can be chosen on the page; places in these lists name the variants of a figure."""

    metrics: tuple[str, ...]
    backgrounds: tuple[str, ...]
    smooths: tuple[float, ...]


@dataclass(frozen=True)
class ModelView:
    """One model's part of the page."""

    name: str
    verdict: Verdict
    images: int
    boards: list[BoardView]
    planes: list[PlaneView]
    ranks: list[RanksView]
    panels: list[PanelsView]


def render_scores(scores: Scores, bundles: Bundles, links: Links = ()) -> str:
    """Return the HTML of the page of scores; the pictures of its images go into ``bundles``."""
    choices = choices_of(scores)
    models = list(dict.fromkeys(s.model for s in scores.settings))
    found = sweeps(scores.curves)
    curves = panels(scores, found, choices.backgrounds, choices.smooths)
    parts = [_model(scores, name, choices, curves.get(name, [])) for name in models]
    material = None if scores.run is None else gather(scores.run)
    drills = _drills(scores, material, models, choices, bundles)
    data = {
        "models": drills,
        "choices": {"metrics": choices.metrics, "backgrounds": choices.backgrounds, "smooths": choices.smooths},
        "directions": {m: scores.direction(m) for m in choices.metrics},
        "means": _means(parts),
        "files": bundles.files,
    }
    return render(
        "trust.html.j2",
        styles=(*STYLES, "page.css", "trust.css"),
        scripts=SCRIPTS,
        links=links,
        files=bundles.files,
        payload=safe_json(data),
        pictures=safe_json(bundles.inline),
        parts_of_run=parts,
        model_options=[(i, p.name) for i, p in enumerate(parts)],
        metrics=[(i, _metric_text(scores, m)) for i, m in enumerate(choices.metrics)],
        backgrounds=list(enumerate(choices.backgrounds)),
        smooths=[(i, "not blurred" if not s else f"blurred by {s:g} px") for i, s in enumerate(choices.smooths)],
        curve_options=list(enumerate(curve_options(found))),
        rank_overs=list(dict.fromkeys((v.key[0], v.over) for p in parts for v in p.ranks)),
        seeded=[m for m, others in scores.repeats.items() if others],
        alarms=alarms(scores),
        several=len(parts) > 1,
        shown_images=[len(d["entries"]) for d in drills],
        all_images=[d["of"] for d in drills],
        metric_rows=_metric_rows(scores),
        headline=parts[0].verdict.title if parts else "Nothing was scored yet",
        **_made(scores, material),
    )


def choices_of(scores: Scores) -> Choices:
    """Return metrics (the headline first), backgrounds in the order in which they were asked for, and smoothings."""
    metrics = tuple(dict.fromkeys(s.metric for s in scores.settings))
    found = list(dict.fromkeys(s.background for s in scores.settings if s.background is not None))
    asked = _asked(scores)
    found.sort(key=lambda b: (asked.index(b) if b in asked else len(asked), b))
    return Choices(metrics, tuple(found), tuple(sorted({s.smooth for s in scores.settings})))


def _asked(scores: Scores) -> list[str]:
    stage = {} if scores.run is None else scores.run.info.get("stages", {}).get("evaluate", {})
    return list(stage.get("settings", {}).get("backgrounds", []))


def _model(scores: Scores, name: str, choices: Choices, curves: list[PanelsView]) -> ModelView:
    found = boards(scores, name, choices.metrics, choices.backgrounds, choices.smooths)
    table = scores.table
    images = {i for i, m in zip(table["image_id"].to_pylist(), table["model"].to_pylist(), strict=True) if m == name}
    told = verdict(scores, name, choices.backgrounds)
    if told.setting is not None:  # the page opens where the headline is read
        first = (
            choices.metrics.index(told.setting.metric),
            choices.backgrounds.index(told.setting.background) if told.setting.background else None,
            choices.smooths.index(told.setting.smooth),
        )
        found.sort(key=lambda v: (v.metric, v.background, v.smooth) != first)
    return ModelView(
        name,
        told,
        len(images),
        found,
        planes(scores, name, choices.backgrounds, choices.smooths),
        ranks(scores, name, choices.metrics, choices.backgrounds, choices.smooths),
        curves,
    )


def _drills(
    scores: Scores, material: Material | None, models: Sequence[str], choices: Choices, bundles: Bundles
) -> list[dict[str, Any]]:
    if material is None:
        bundles.close()
        return [{"name": m, "entries": [], "of": 0} for m in models]
    smooth = choices.smooths[0] if choices.smooths else 0.0
    drills = [
        Drill(scores, material.run, m, k, material.images, bundles, smooth, choices.backgrounds)
        for k, m in enumerate(models)
    ]
    for drill in drills:
        drill.draw()
    bundles.close()
    entries = [entry for drill in drills for entry in drill.data["entries"]]
    for entry, place in zip(entries, bundles.places, strict=True):
        entry["place"] = place
    return [drill.data for drill in drills]


def _means(parts: Sequence[ModelView]) -> list[dict[str, dict[str, str]]]:
    """Return for each model the means with intervals, by place of setting and name of method: for single images."""
    return [
        {
            board.key: {row.name: f"{row.text} {row.reach}" for row in board.rows}
            for board in part.boards
            if not board.smooth
        }
        for part in parts
    ]


def _metric_text(scores: Scores, metric: str) -> str:
    better = {"higher": " (higher is better)", "lower": " (lower is better)", "neither": ""}[scores.direction(metric)]
    return f"{metric}{better}"


def _metric_rows(scores: Scores) -> list[dict[str, str]]:
    present = {s.metric for s in scores.settings}
    rows = []
    for name, entry in scores.metrics.items():
        if name not in present:
            continue
        low, high = (entry.get(k) for k in ("low", "high"))
        ends = f"{'no bound' if low is None else f'{low:g}'} to {'no bound' if high is None else f'{high:g}'}"
        own = [f"{k} {v}" for k, v in (entry.get("settings") or {}).items() if v is not None]
        rows.append(
            {
                "metric": name,
                "summary": str(entry.get("summary", "")),
                "better": {"higher": "higher", "lower": "lower"}.get(str(entry["direction"]), "neither"),
                "range": ends,
                "sign": {"raw": "as it is", "absolute": "absolute values", "positive": "positive part"}.get(
                    str(entry.get("sign")), ""
                ),
                "settings": ", ".join(own) or words.DASH,
                "reference": str(entry.get("reference", "")),
            }
        )
    return rows


def _made(scores: Scores, material: Material | None) -> dict[str, Any]:
    """Return how the run was made, for ``made.html.j2`` and the footer."""
    if material is None:
        return {
            "version": "",
            "created": "",
            "notice": "",
            "command": [],
            "facts": [],
            "method_rows": [],
            "failures": [],
            "images": [],
            "in_run": False,
        }
    info = material.run.info
    return {
        "version": info.get("environment", {}).get("salience") or "",
        "created": str(info.get("created", ""))[:10],
        "notice": view.notice(material),
        "command": [shlex.quote(str(word)) for word in info.get("command") or []],
        "facts": [*view.facts(material), ("Evaluation", _facts(info["stages"]["evaluate"]))],
        "method_rows": view.method_rows([c for p in material.parts for c in p.columns]),
        "failures": material.failures,
        "images": material.images,
        "in_run": True,
    }


def _facts(stage: Mapping[str, Any]) -> list[tuple[str, str]]:
    settings = stage.get("settings", {})
    rows = [
        ("labels", str(settings.get("labels", ""))),
        ("backgrounds", ", ".join(settings.get("backgrounds", []))),
        ("maps blurred by", ", ".join(f"{s:g} px" for s in settings.get("smooth", []))),
        ("seed", str(settings.get("seed", ""))),
        ("pool", str(settings.get("pool") or "")[:12]),
        ("intervals", "95 % bootstrap over images, 2,000 draws, paired between methods"),
    ]
    return [(name, value) for name, value in rows if value]
