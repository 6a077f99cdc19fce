"""A measure's section on the page: what is asked, its picture, all of its numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from salience.behaviour import datasets, degradation, entropy, geometry, out_of_set, stability
from salience.behaviour.measures import FORMS, MEASURES, STATISTICS, headlines
from salience.behaviour.traits import Statistic
from salience.behaviour.view import CLEAN, OUT_OF_SET
from salience.errors import SettingsError
from salience.report import words
from salience.report.behaviour import wording
from salience.report.behaviour.areas import area_charts
from salience.report.behaviour.figures import Chart, Dot, Matrix, Series, chart, dot, histogram, matrix
from salience.report.behaviour.material import Material
from salience.report.trust.figures import Axis, axis
from salience.report.words import listed

MOST_CLASSES = 12
"""Classes in a section's table: of more, those with the lowest values."""


@dataclass(frozen=True)
class Reading:
    """What a statistic is, from the registry."""

    form: str
    title: str
    better: str
    span: str
    summary: str
    fools: str
    details: str
    reference: str


@dataclass(frozen=True)
class Mark:
    """A group's value in a row of a figure; ``bars`` is a distribution."""

    group: str
    tone: int
    dot: Dot
    text: str
    interval: str
    floor: str = ""
    bars: tuple[tuple[float, float, float], ...] = ()


@dataclass(frozen=True)
class Strip:
    """Rows of marks on one axis: conditions, or groups with their distributions."""

    title: str
    axis: Axis
    zero: float | None
    rows: tuple[tuple[str, tuple[Mark, ...]], ...]
    floored: bool = False
    spread: bool = False


@dataclass(frozen=True)
class NumberRow:
    """A statistic under one condition: a cell for each group, then for each difference (value, interval, q)."""

    form: str
    title: str
    condition: str
    means: tuple[tuple[str, str], ...]
    differences: tuple[tuple[str, str, str], ...]


@dataclass(frozen=True)
class ClassRow:
    """A class: images, and a cell for each group."""

    name: str
    images: int
    cells: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Section:
    """One measure."""

    measure: str
    title: str
    question: str
    readings: tuple[Reading, ...]
    strips: tuple[Strip, ...]
    charts: tuple[Chart, ...]
    chart_note: str
    matrices: tuple[Matrix, ...]
    odd: tuple[str, ...]
    numbers: tuple[NumberRow, ...]
    classes: tuple[ClassRow, ...]
    class_statistic: str
    classes_left: int


def sections(material: Material) -> list[Section]:
    """Return a section for each measure that was asked for."""
    return [_section(material, measure) for measure in material.audit.asked]


def _section(material: Material, measure: str) -> Section:
    classes, left = _classes(material, measure)
    charts, note = _CHARTS[measure](material) if measure in _CHARTS else ([], "")
    main = headlines(measure, "corrected")[0]
    return Section(
        measure=measure,
        title=wording.TITLES[measure],
        question=MEASURES[measure].question,
        readings=tuple(_reading(s) for form in FORMS for s in headlines(measure, form)),
        strips=tuple(_STRIPS[measure](material)),
        charts=tuple(charts),
        chart_note=note,
        matrices=tuple(_matrices(material)) if measure == "stability" else (),
        odd=tuple(_odd(material)) if measure == "stability" else (),
        numbers=tuple(_numbers(material, measure)),
        classes=tuple(classes),
        class_statistic=wording.statistic_title(main.name),
        classes_left=left,
    )


def _reading(s: Statistic) -> Reading:
    better = wording.direction_words(s.direction)
    if s.turned:
        turned = listed([wording.condition_title(c) for c in s.turned])
        better += f" With {turned}, {s.better(s.turned[0])} is better."
    return Reading(
        wording.FORMS[s.form],
        wording.statistic_title(s.name),
        better,
        wording.range_words(s.low, s.high),
        s.summary,
        s.fools,
        s.details,
        s.reference,
    )


# ---------------------------------------------------------------------- strips


def _mark(material: Material, of: Statistic, condition: str, group: str, scale: Axis, floor: Statistic | None) -> Mark:
    row = material.mean(of, condition, group)
    assert row is not None
    under = None if floor is None else material.mean(floor, condition, group)
    level = None if under is None else under["value"]
    value, interval = wording.value_text(row)
    told = "" if level is None else wording.two_digits(level)
    at = dot(scale, row["value"], row["low"], row["high"], level)
    return Mark(group, material.groups.index(group), at, value, interval, told)


def _strip(
    material: Material, of: Statistic, title: str, conditions: Sequence[str], floor: Statistic | None = None
) -> Strip | None:
    """Return a strip of conditions, each with a mark for each group."""
    there = [(c, [g for g in material.groups if material.mean(of, c, g)]) for c in conditions]
    there = [(c, groups) for c, groups in there if groups]
    if not there:
        return None
    reach = []
    for s in (of, floor):
        found = [material.mean(s, c, g) for c, groups in there for g in groups] if s else []
        reach += [row[k] for row in found if row for k in ("value", "low", "high") if row[k] is not None]
    low, high = (v if np.isfinite(v) else None for v in (of.low, of.high))
    scale = axis([0.0, *reach], low, high)
    rows = tuple(
        (wording.condition_title(c), tuple(_mark(material, of, c, g, scale, floor) for g in groups))
        for c, groups in there
    )
    return Strip(title, scale, 0.0 if scale.low < 0 else None, rows, floor is not None)


def _spread(material: Material, of: Statistic, title: str, conditions: Sequence[str]) -> Strip | None:
    """Return the distributions of a statistic over images: a row for each group and condition."""
    found = [
        (g, c, material.by_image(of, c, g)) for g in material.groups for c in conditions if material.mean(of, c, g)
    ]
    found = [x for x in found if len(x[2])]
    if not found:
        return None
    scale = axis(np.concatenate([v for _, _, v in found]).tolist(), of.low, of.high)
    rows = []
    for group, condition, values in found:
        mark = replace(_mark(material, of, condition, group, scale, None), bars=histogram(values, scale))
        name = group if len(conditions) == 1 else f"{group}, {wording.condition_title(condition)}"
        rows.append((name, (mark,)))
    return Strip(title, scale, None, tuple(rows), spread=True)


def _entropy_strips(material: Material) -> list[Strip]:
    found = [
        _spread(material, entropy.HISTOGRAM, "As published: entropy of grey values", [CLEAN]),
        _spread(material, entropy.SPATIAL, "Corrected: entropy of where the salience is", [CLEAN]),
    ]
    return [s for s in found if s]


def _dataset_strips(material: Material) -> list[Strip]:
    both = [CLEAN, OUT_OF_SET]
    found = [
        _spread(material, datasets.SPATIAL_ENTROPY, "On the second dataset: how focused maps are", both),
        _spread(material, datasets.CONFIDENCE, "On the second dataset: how sure the model is", both),
    ]
    return [s for s in found if s]


def _geometry_strips(material: Material) -> list[Strip]:
    found = [
        _strip(material, of, title, [c for c in material.conditions(of) if c != wording.ALL], floor)
        for of, floor, title in (
            (geometry.SSIM, geometry.SSIM_FLOOR, "As published: SSIM with the change undone"),
            (geometry.EQUIVARIANCE, geometry.FLOOR, "Corrected: correlation with the change undone"),
        )
    ]
    return [s for s in found if s]


def _stability_strips(material: Material) -> list[Strip]:
    found = [
        _spread(material, stability.SSIM, "As published: SSIM over pairs of runs", [CLEAN]),
        _spread(material, stability.PEARSON, "Correlation over pairs of runs", [CLEAN]),
    ]
    return [s for s in found if s]


def _degradation_strips(material: Material) -> list[Strip]:
    of = degradation.SCORE
    gain = [c for c in material.conditions(degradation.AREA) if c != wording.ALL]
    found = [
        _strip(material, of, "As published: probability that is left", material.conditions(of)),
        _strip(material, degradation.AREA, "Corrected: area between the curves", gain, degradation.RANDOM),
    ]
    return [s for s in found if s]


_STRIPS: dict[str, Callable[[Material], list[Strip]]] = {
    "entropy": _entropy_strips,
    "out-of-set": _dataset_strips,
    "geometry": _geometry_strips,
    "stability": _stability_strips,
    "degradation": _degradation_strips,
}

# ---------------------------------------------------------------------- curves


def _noise_charts(material: Material) -> tuple[list[Chart], str]:
    """Return curves over the strength of each kind of disturbance, with bands."""
    made = []
    for of, told in (
        (out_of_set.SSIM, "SSIM, as published"),
        (out_of_set.CHANCE_CORRECTED, "beyond chance"),
    ):
        kinds: dict[str, list[str]] = {}
        for condition in material.conditions(of):
            if condition != wording.ALL:
                kinds.setdefault(wording.kind_of(condition), []).append(condition)
        rows = [material.mean(of, c, g) for of_kind in kinds.values() for c in of_kind for g in material.groups]
        reach = [r[k] for r in rows if r for k in ("value", "low", "high") if r[k] is not None]
        scale = axis([0.0, 1.0, *(max(-1.0, v) for v in reach)], -1.0, 1.0, most=7)
        for kind, of_kind in kinds.items():
            made.append(_noise_chart(material, of, f"{wording.kind_title(kind)}: {told}", kind, of_kind, scale))
    return made, "Bands are 95 % intervals. 1: the map stays as it was. 0, the line, is chance in corrected panels."


def _noise_chart(
    material: Material, of: Statistic, title: str, kind: str, conditions: Sequence[str], scale: Axis
) -> Chart:
    share = {c: i / max(1, len(conditions) - 1) for i, c in enumerate(conditions)}
    series = []
    for tone, group in enumerate(material.groups):
        found = [(share[c], material.mean(of, c, group)) for c in conditions]
        points = tuple((x, r["value"], r["low"], r["high"]) for x, r in found if r)
        if points:
            series.append(Series(group, tone, points))
    told = "; ".join(f"{s.name} goes from {s.points[0][1]:.2f} to {s.points[-1][1]:.2f}" for s in series)
    ticks = [(share[c], c.removeprefix(f"{kind}-")) for c in conditions]
    return chart(title, series, ticks, scale, words=f"{title}. {told}.", zero=0.0)


_CHARTS: dict[str, Callable[[Material], tuple[list[Chart], str]]] = {
    "out-of-set": _noise_charts,
    "degradation": area_charts,
}

# ---------------------------------------------------------------------- runs


def _matrices(material: Material) -> list[Matrix]:
    found = []
    for tone, group in enumerate(material.groups):
        names, values = material.audit.similarity(group)
        if len(names) < 2:
            continue
        odd = material.audit.odd_run(group)
        stands = odd.model if odd is not None and odd.stands_out else ""
        told = f"Mean correlation of the maps of each two runs of {group}"
        found.append(matrix(group, tone, names, values, odd=stands, words=told))
    return found


def _odd(material: Material) -> list[str]:
    found = [material.audit.odd_run(g) for g in material.groups]
    return [str(f) for f in found if f is not None and f.stands_out]


# ---------------------------------------------------------------------- numbers


def _numbers(material: Material, measure: str) -> list[NumberRow]:
    """Return all statistics: over all conditions, or under each where their mean has no meaning."""
    rows = []
    for of in (s for s in STATISTICS.values() if s.measure == measure):
        conditions = material.conditions(of)
        for condition in [wording.ALL] if wording.ALL in conditions else conditions:
            means = [material.mean(of, condition, g) for g in material.groups]
            gaps = [material.difference(of, condition, g) for g in material.groups[1:]]
            rows.append(
                NumberRow(
                    wording.FORMS[of.form],
                    wording.statistic_title(of.name),
                    "" if condition in (wording.ALL, CLEAN) else wording.condition_title(condition),
                    tuple((words.DASH, "") if r is None else wording.value_text(r) for r in means),
                    tuple(
                        (words.DASH, "", "")
                        if r is None
                        else (*wording.value_text(r, sign=True), wording.chance_text(r["q"]))
                        for r in gaps
                    ),
                )
            )
    return rows


def _classes(material: Material, measure: str) -> tuple[list[ClassRow], int]:
    """Return the measure's corrected answer by class, and how many classes are left out."""
    of = headlines(measure, "corrected")[0]
    found: dict[int, dict[str, dict[str, object]]] = {}
    for group in material.groups:
        try:
            rows = material.audit.by_class(*of.key, group=group)
        except SettingsError:
            continue
        for row in rows:
            found.setdefault(row["index"], {})[group] = row
    if len(found) < 2:
        return [], 0

    def mean(index: int) -> float:
        return float(np.mean([float(str(r["value"])) for r in found[index].values()]))

    order = sorted(found) if len(found) <= MOST_CLASSES else sorted(found, key=mean)[:MOST_CLASSES]
    out = []
    for index in order:
        first = next(iter(found[index].values()))
        cells = tuple(
            wording.value_text(found[index][g]) if g in found[index] else (words.DASH, "") for g in material.groups
        )
        images = max(int(str(r["images"])) for r in found[index].values())
        out.append(ClassRow(str(first["class"]), images, cells))
    return out, len(found) - len(order)
