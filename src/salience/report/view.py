"""What the page's templates are given: headline, facts, summaries."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from salience.report import words
from salience.report.figures import CURVES, Bin, Chart, chart, curve_of, histogram
from salience.report.gather import Column, Material, Part
from salience.report.pictures import PERCENTILE

LISTED_CLASSES = 6


@dataclass(frozen=True)
class Often:
    """A class and how often it was predicted; ``share`` is relative to the most frequent class."""

    index: int
    name: str
    short: str
    count: int
    share: float


@dataclass(frozen=True)
class Seen:
    """What one model says it sees, in numbers."""

    predicted: int
    labelled: int
    right: int
    accuracy: float | None
    confidence: float | None
    classes: int
    top: list[Often]
    others: int
    failures: int
    pending: int
    bins: list[Bin]


def summarise(part: Part) -> Seen:
    """Count what a model predicted."""
    entries = [e for e in part.entries if e.predicted is not None]
    known = [e.right for e in entries if e.right is not None]
    often = Counter(e.predicted for e in entries if e.predicted is not None).most_common()
    short = words.short_names(part.classes)
    top = [
        Often(c, name, short.get(name, name), n, n / often[0][1])
        for c, n in often[:LISTED_CLASSES]
        for name in [part.class_name(c)]
    ]
    return Seen(
        predicted=len(entries),
        labelled=len(known),
        right=sum(known),
        accuracy=sum(known) / len(known) if known else None,
        confidence=sum(e.probability for e in entries) / len(entries) if entries else None,
        classes=len(often),
        top=top,
        others=max(0, len(often) - LISTED_CLASSES),
        failures=sum(len(e.failures) for e in part.entries),
        pending=sum(e.predicted is None and not e.failures for e in part.entries),
        bins=histogram((e.probability, e.right) for e in entries),
    )


def context(material: Material) -> dict[str, Any]:
    """Return the variables of ``page.html.j2`` but for the data of its script."""
    info, parts = material.run.info, material.parts
    columns = [c for p in parts for c in p.columns]
    environment = info.get("environment", {})
    return {
        "version": environment.get("salience") or "",
        "created": str(info.get("created", ""))[:10],
        "headline": words.headline([p.name for p in parts] or list(info["models"]), len(material.images)),
        "lead": _lead(material),
        "notice": notice(material),
        "command": [shlex.quote(str(word)) for word in info.get("command") or []],
        "facts": facts(material),
        "method_rows": method_rows(columns),
        "images": material.images,
        "failures": material.failures,
        "parts_of_run": parts,
        "seen": [summarise(p) for p in parts],
        "model_options": [(i, p.name) for i, p in enumerate(parts)],
        "percentile": PERCENTILE,
        "scales_used": {c.scale for c in columns},
        "grid_notes": _grid_notes(parts),
        "outcomes": _outcomes(material),
        "gap_sorts": _gap_sorts(parts),
        "costs": [c for p in parts for c in costs(p)],
        "charts": [(p.name, c) for p in parts for c in _charts(p)],
        "many_targets": any(len(cells) > 1 for p in parts for e in p.entries for cells in e.cells.values()),
    }


def _lead(material: Material) -> str:
    info, parts = material.run.info, material.parts
    columns = [c for p in parts for c in p.columns]
    methods = len(dict.fromkeys(c.method for c in columns))
    classes = parts[0].classes if parts else ()
    targets = dict.fromkeys(words.target(c.target, classes) for c in columns)
    outputs = dict.fromkeys(words.scalar(c.output) for c in columns)
    scores = [(p.name, p.accuracy) for p in parts if p.accuracy is not None]
    spent = [words.duration(info["seconds"])] if info.get("seconds") else []
    last = [v for v in (info.get("last") or {}).values() if v.get("computed") and v.get("seconds")]
    if last:
        spent.append(words.rate(sum(v["computed"] for v in last) / sum(v["seconds"] for v in last)))
    return words.lead(methods, list(targets), list(outputs), scores, spent)


def notice(material: Material) -> str:
    """Return what should be known of a run that is not complete; empty for one that is."""
    status = material.run.info.get("status", "complete")
    if status == "complete":
        return ""
    return {
        "interrupted": "This run was interrupted: the page shows what was finished. The same command carries it on.",
        "running": "This run was not finished when the page was written. Write the page again for the rest.",
        "failed": "This run ended with an error: the page shows what was finished. The same command carries it on.",
    }.get(status, f"The state of this run is {status!r}: the page shows what was finished.")


def facts(material: Material) -> list[tuple[str, list[tuple[str, str]]]]:
    """Return how a run was made: titles, each with (name, value) of what is known."""
    info = material.run.info
    settings, environment, images = info.get("settings", {}), info.get("environment", {}), info.get("images", {})
    run = [
        ("images", f"{words.place(str(images.get('source', '')))} ({images.get('kind', 'unknown')})"),
        ("begun", str(info.get("created", "")).replace("T", " ").replace("Z", " UTC")),
        ("finished", str(info.get("updated", "")).replace("T", " ").replace("Z", " UTC")),
        ("time", words.duration(info["seconds"]) if info.get("seconds") else ""),
        ("limit", words.count(images["limit"], "image") if images.get("limit") else ""),
        ("seed", str(settings.get("seed", ""))),
        ("maps stored as", str(settings.get("map_dtype", ""))),
    ]
    software = [(name, str(value)) for name, value in environment.items() if value]
    found = [("Run", run)]
    found += [(p.name if len(material.parts) > 1 else "Model", _model_facts(p)) for p in material.parts]
    found.append(("Software", software))
    return [(title, [(n, v) for n, v in rows if v]) for title, rows in found]


def _model_facts(part: Part) -> list[tuple[str, str]]:
    info, plan = part.info, part.info.get("plan", {})
    see = part.preprocessing
    fit = "both sides fitted" if see.fit == "squash" else "short side fitted, centre kept"
    if see.fit == "crop" and see.crop < 1:
        fit = f"centre crop of {words.percent(see.crop, 1)}"
    spec = words.place(str(info.get("spec") or ""))
    return [
        ("name", part.name),
        ("given as", spec if spec != part.name else ""),
        ("architecture", str(info.get("architecture", ""))),
        ("parameters", words.big(info["parameters"]) if info.get("parameters") else ""),
        ("input", f"{words.grid(*part.size)}, {see.interpolation}, {fit}"),
        ("classes", f"{len(part.classes):,}"),
        ("weights", str(info.get("fingerprint", ""))[:12]),
        ("plan", _plan(plan)),
    ]


def _plan(plan: Mapping[str, Any]) -> str:
    if not plan:
        return ""
    return (
        f"batches of {plan.get('batch')}, {str(plan.get('memory_format', '')).replace('_', ' ')}, "
        f"{words.count(int(plan.get('threads', 1)), 'thread')}, {plan.get('device')}"
    )


def method_rows(columns: list[Column]) -> list[dict[str, str]]:
    """Return the methods with their settings, a row for each that differs."""
    rows: dict[tuple[str, str], dict[str, str]] = {}
    for c in columns:
        settings = [f"{k} {v}" for k, v in c.settings.items() if k != "layer"]
        settings += [f"layer {c.layer}"] if c.layer else []
        row = {
            "method": c.method,
            "summary": c.summary,
            "settings": ", ".join(settings) or words.DASH,
            "reference": c.reference,
        }
        rows.setdefault((c.method, row["settings"]), row)
    return list(rows.values())


def _grid_notes(parts: list[Part]) -> list[str]:
    notes: dict[str, None] = {}
    for part in parts:
        for c in part.columns:
            if c.enlarged:
                names = [o.method for o in part.columns if o.enlarged and o.grid == c.grid]
                be = "is" if len(names) == 1 else "are"
                notes[
                    f"{words.listed(names, most=6)} {be} stored at {'its' if be == 'is' else 'their'} own grid of "
                    f"{words.grid(*c.grid)} and enlarged bilinearly here."
                ] = None
    return list(notes)


@dataclass(frozen=True)
class Cost:
    """What the maps of one black-box method took: forward passes an image, and how settled the map was half-way."""

    model: str
    method: str
    images: int
    least: int
    most: int
    half: float | None


def costs(part: Part) -> list[Cost]:
    """Return what the black-box methods of a model spent on an image, clean pass included."""
    found = []
    for place, column in enumerate(part.columns):
        cells = [e.cells[place][0] for e in part.entries if e.cells.get(place)]
        spent = [int(c.diagnostics["forward_passes"]) for c in cells if "forward_passes" in c.diagnostics]
        if not spent:
            continue
        curves = [curve for c in cells if (curve := curve_of(c.diagnostics)) and curve[0] == "agreement"]
        middles = [max((p for p in points if p[0] <= points[-1][0] / 2), default=None) for _, points in curves]
        half = [m[1] for m in middles if m]
        found.append(
            Cost(part.name, column.method, len(spent), min(spent), max(spent), sum(half) / len(half) if half else None)
        )
    return found


def _charts(part: Part) -> list[Chart]:
    """Return the mean convergence of the black-box methods, one chart for each kind of figure."""
    kinds: dict[str, dict[str, list[tuple[int, float]]]] = {}
    for place, column in enumerate(part.columns):
        sums: dict[tuple[str, int], list[float]] = {}
        for entry in part.entries:
            curve = curve_of(entry.cells[place][0].diagnostics) if entry.cells.get(place) else None
            for queries, value in curve[1] if curve else ():
                sums.setdefault((curve[0] if curve else "", queries), []).append(value)
        for (kind, queries), values in sorted(sums.items()):
            points = kinds.setdefault(kind, {}).setdefault(column.method, [])
            points.append((queries, sum(values) / len(values)))
    return [
        chart(CURVES[kind], curves)
        for kind, curves in kinds.items()
        if any(len(points) > 1 for points in curves.values())
    ]


def _outcomes(material: Material) -> list[tuple[str, str]]:
    entries = [e for p in material.parts for e in p.entries]
    found = [("all", "All")]
    if any(e.right is not None for e in entries):
        found += [("right", "Right"), ("wrong", "Wrong")]
        if any(e.predicted is not None and e.right is None for e in entries):
            found.append(("unlabelled", "No label"))
    found.append(("failed", "Failed"))
    if any(e.predicted is None and not e.failures for e in entries):
        found.append(("pending", "Pending"))
    return found


def _gap_sorts(parts: list[Part]) -> list[tuple[str, str]]:
    methods = {
        part.columns[c].method: None
        for part in parts
        for e in part.entries
        for c, cells in e.cells.items()
        if any("completeness_gap" in cell.diagnostics for cell in cells)
    }
    return [(f"gap:{m}", f"Largest completeness gap of {m}") for m in methods]
