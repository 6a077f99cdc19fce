"""What the page's script is given: everything but the pictures, as JSON that is safe inside HTML."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from salience.report.figures import CURVES, curve_of
from salience.report.gather import Column, Entry, Material, Part
from salience.report.pictures import TINY, view_size
from salience.report.words import kind_of_failure, number, percent, scalar, short_names

Ranges = Mapping[tuple[int, int, int, int], tuple[float, float]]
"""(part, image, column, target) -> lowest and highest raw value of the map."""

_UNSAFE = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}


def safe_json(value: Any) -> Markup:
    """Return JSON that can stand inside a script element, whatever names are in it."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for character, escape in _UNSAFE.items():
        text = text.replace(character, escape)
    return Markup(text)  # the five characters that could end the element or start another are escaped


def map_key(part: int, image: int, column: int, target: int) -> str:
    """Name the picture of a map."""
    return f"m{part}.{image}.{column}.{target}"


def photo_key(geometry: int, image: int) -> str:
    """Name the picture of a photograph as the models of one geometry see it."""
    return f"p{geometry}.{image}"


def geometries(parts: Sequence[Part]) -> list[int]:
    """Return for each part the number of the first part that sees images cut and resized the same way."""
    seen: dict[tuple[object, ...], int] = {}
    return [
        seen.setdefault((p.size, p.preprocessing.interpolation, p.preprocessing.fit, p.preprocessing.crop), i)
        for i, p in enumerate(parts)
    ]


def payload(
    material: Material,
    ranges: Ranges,
    missing: Mapping[str, str],
    damaged: Mapping[tuple[int, int], str],
    places: Sequence[int],
    files: Sequence[str],
) -> dict[str, Any]:
    """Return the data of the page.

    Parameters
    ----------
    material
        The run.
    ranges
        Raw values of the maps that were drawn.
    missing
        Photo key -> why the photograph cannot be shown.
    damaged
        (part, column) -> why its maps could not be read.
    places
        For each image of each part in turn, the number of the sidecar with its pictures, 0 for the page itself.
    files
        The sidecars.
    """
    count = len(material.images)
    of = geometries(material.parts)
    return {
        "images": [{"id": i.image_id, "said": i.label_text} for i in material.images],
        "models": [
            {
                "name": part.name,
                "geometry": of[k],
                "size": list(part.size),
                "shown": list(view_size(part.size)),
                "tiny": max(part.size) <= TINY,
                "classes": _class_names(part),
                "columns": [_column(c, damaged.get((k, j))) for j, c in enumerate(part.columns)],
                "entries": [_entry(e, k, ranges, places[k * count + e.image] if places else 0) for e in part.entries],
            }
            for k, part in enumerate(material.parts)
        ],
        "missing": dict(missing),
        "files": list(files),
    }


def _column(column: Column, damaged: str | None) -> dict[str, Any]:
    return {
        "method": column.method,
        "summary": column.summary,
        "scale": column.scale,
        "grid": list(column.grid),
        "enlarged": column.enlarged,
        "rule": column.target,
        "output": scalar(column.output),
        **({"damaged": damaged} if damaged else {}),
    }


def _entry(entry: Entry, part: int, ranges: Ranges, place: int) -> dict[str, Any]:
    out: dict[str, Any] = {
        "maps": {
            str(column): [
                {
                    "target": cell.target,
                    "score": number(cell.score),
                    "range": [number(v) for v in ranges[part, entry.image, column, cell.target]],
                    "notes": _notes(cell.diagnostics),
                    **_gap(cell.diagnostics),
                    **_curve(cell.diagnostics),
                }
                for cell in cells
                if (part, entry.image, column, cell.target) in ranges
            ]
            for column, cells in entry.cells.items()
        },
        "place": place,
    }
    if entry.predicted is not None:
        out |= {
            "predicted": entry.predicted,
            "chance": round(entry.probability, 6) if math.isfinite(entry.probability) else 0,
            "chanceText": percent(entry.probability, 1),
            "top": [[c, round(p, 5), percent(p, 1)] for c, p in entry.top],
        }
    if entry.label is not None:
        out["label"] = entry.label
    if entry.dropped:
        out["dropped"] = entry.dropped
    if entry.failures:
        out["failures"] = [[f.method, kind_of_failure(f.kind), f.message] for f in entry.failures]
    return out


def _notes(diagnostics: Mapping[str, float]) -> list[list[str]]:
    """Return what was measured beside a map as (name, value, meaning)."""
    notes = []
    for name, value in diagnostics.items():
        if "@" in name:
            continue  # a point of a curve
        title = name.replace("_", " ")
        shown = number(value)
        if name == "completeness_gap":
            change = diagnostics.get("output_change")
            if change and math.isfinite(value / change):
                shown += f" ({percent(abs(value / change), 1)} of the change)"
            meaning = "how much the sum of the map misses of the output's change; 0 is complete"
        elif name == "output_change":
            title, meaning = "change of the output", "from the baseline to the image: what the map should add up to"
        elif name == "forward_passes":
            shown, meaning = f"{value:,.0f}", "what this map cost, the image itself among them"
        else:
            meaning = ""
        notes.append([title, shown, meaning])
    return notes


def _gap(diagnostics: Mapping[str, float]) -> dict[str, float]:
    gap = diagnostics.get("completeness_gap")
    return {} if gap is None or not math.isfinite(gap) else {"gap": round(abs(gap), 6)}


def _curve(diagnostics: Mapping[str, float]) -> dict[str, Any]:
    curve = curve_of(diagnostics)
    return (
        {} if curve is None else {"curve": {"of": CURVES[curve[0]], "points": [[n, round(v, 4)] for n, v in curve[1]]}}
    )


def _class_names(part: Part) -> dict[str, list[str]]:
    """Return number -> (name, short name) of the classes that occur."""
    used = {c for e in part.entries for c, _ in e.top} | {e.label for e in part.entries if e.label is not None}
    used |= {cell.target for e in part.entries for cells in e.cells.values() for cell in cells}
    short = short_names(part.classes)
    names = {index: part.class_name(index) for index in sorted(used)}
    return {str(index): [name, short.get(name, name)] for index, name in names.items()}
