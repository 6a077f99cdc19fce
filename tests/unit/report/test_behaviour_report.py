"""The page of an audit: what it says is what the audit found."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html import unescape
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from parsed_page import Page
from salience.behaviour.audit import Audit
from salience.behaviour.group_effects import ALL
from salience.behaviour.measures import MEASURES, headlines, statistic
from salience.behaviour.wording import Verdict
from salience.report import write_report
from salience.report.behaviour import overview as first
from salience.report.behaviour.gallery import MOST_IMAGES
from salience.report.behaviour.material import Material
from salience.report.behaviour.overview import overview, verdict
from salience.report.behaviour.page import render_audit
from salience.report.behaviour.sections import sections
from salience.report.behaviour.wording import told
from salience.report.bundles import INLINE_BYTES, Bundles
from synthetic_audit import groups, net, write_audit


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def audit(tmp_path_factory: pytest.TempPathFactory) -> Audit:
    """Two groups of three runs, with everything in it."""
    return write_audit(tmp_path_factory.mktemp("audit"), groups(3), count=8, background="blur")


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> Audit:
    """One model whose maps are 4x4."""
    return write_audit(
        tmp_path_factory.mktemp("single"),
        net("alone", 3, size=16),
        count=6,
        second=False,
        broken=False,
        measures="entropy,out-of-set,geometry",
    )


def rendered(audit: Audit, inline_bytes: int = INLINE_BYTES) -> Page:
    return Page(render_audit(audit, Bundles(audit.run.folder / "report", inline_bytes)))


@pytest.fixture(scope="module")
def page(audit: Audit) -> Page:
    return rendered(audit)


# ---------------------------------------------------------------------- the first screen


def test_everything_the_audit_says_is_on_the_page(audit: Audit, page: Page) -> None:
    for sentence in audit.sentences():
        assert sentence.replace("-0", "\N{MINUS SIGN}0") in page.text
    for note in audit.notes:
        assert note in page.text


def judged(monkeypatch: pytest.MonkeyPatch, audit: Audit, *found: tuple[str, str, Verdict]) -> str:
    """The title where measures of a form were judged so."""
    rows = [{"group": "guided", "measure": m, "form": f, "verdict": v} for m, f, v in found]
    monkeypatch.setattr(Audit, "overview", lambda self: rows)
    return first.verdict(Material(audit)).title


def test_the_title_says_who_is_better_in_what(monkeypatch: pytest.MonkeyPatch, audit: Audit) -> None:
    stable, robust = MEASURES["stability"].topic, MEASURES["out-of-set"].topic
    better = ("stability", "corrected", "better")
    assert judged(monkeypatch, audit, better) == f"guided is better in {stable}"
    worse = ("out-of-set", "corrected", "worse")
    assert judged(monkeypatch, audit, better, worse) == f"guided is better in {stable} and worse in {robust}"
    published = ("stability", "published", "better")
    assert judged(monkeypatch, audit, published) == f"As published only, guided is better in {stable}"
    assert judged(monkeypatch, audit, published, worse) == f"guided is worse in {robust}"
    focus = ("entropy", "corrected", "different")
    assert judged(monkeypatch, audit, focus).startswith("guided and plain differ in ")
    assert judged(monkeypatch, audit, ("entropy", "corrected", "not shown")).endswith("is shown")


def test_with_few_runs_the_title_says_that_nothing_can_be_shown(tmp_path: Path) -> None:
    few = write_audit(tmp_path, groups(2), count=6, second=False, broken=False, measures="entropy,stability")
    assert verdict(Material(few)).title == "No difference can be shown with 2 runs a group"
    found = rendered(few)
    assert "cannot be shown" in found.text
    assert not verdict(Material(few)).others


def test_the_overview_has_every_answer_with_its_interval(audit: Audit, page: Page) -> None:
    rows = audit.overview()
    numbers = [n for b in overview(Material(audit)) for line in b.lines for n in (*line.published, *line.corrected)]
    assert len(numbers) == len(rows)
    assert sorted(f"{n.value} {n.interval}" for n in numbers) == sorted(told(r) for r in rows)
    assert sum(bool(n.verdict) for n in numbers) == len(rows) // 2  # the reference is not judged
    for row in rows:
        if row["difference"] is not None:
            gap = {k: row[f"difference{'' if k == 'value' else '_' + k}"] for k in ("value", "low", "high")}
            assert told(gap, sign=True) in page.text


# ---------------------------------------------------------------------- sections


def test_there_is_a_section_for_each_measure_with_what_fools_it(audit: Audit, page: Page) -> None:
    ids = {a.get("id") for t, a in page.elements if t == "section"}
    assert set(audit.asked) <= ids
    for measure in audit.asked:
        for form in ("published", "corrected"):
            for one in headlines(measure, form):
                assert one.summary in page.text
                assert one.fools in page.text


def test_pictures_show_all_conditions_groups_and_runs(audit: Audit) -> None:
    found = {s.measure: s for s in sections(Material(audit))}
    published, corrected = found["geometry"].strips
    assert (len(published.rows), len(corrected.rows)) == (12, 24)
    assert all(len(marks) == 2 and all(m.dot.floor is not None for m in marks) for _, marks in corrected.rows)
    assert len(found["out-of-set"].charts) == 7  # salt and pepper in both forms, five corruptions
    assert [len(c.lines) for c in found["out-of-set"].charts] == [2] * 7
    assert len(found["out-of-set"].strips) == 2  # the second dataset
    assert [len(m.names) for m in found["stability"].matrices] == [3, 3]
    kinds = [line.kind for c in found["degradation"].charts for line in c.lines]
    assert kinds.count("dashed") == kinds.count("solid") == 4  # two orders, two groups
    assert all(mark.bars for s in found["entropy"].strips for _, marks in s.rows for mark in marks)


def test_curves_are_the_means_of_the_table(audit: Audit) -> None:
    of = statistic("out-of-set", "published", "ssim")
    material = Material(audit)
    drawn = next(s for s in sections(material) if s.measure == "out-of-set").charts[0]
    heights = [y for line in drawn.lines for _, y in line.dots]
    rows = [material.mean(of, c, g) for g in material.groups for c in material.conditions(of) if c != ALL]
    values = [r["value"] for r in rows if r is not None]
    assert len(heights) == len(values) == 14
    assert sorted(range(14), key=lambda i: -heights[i]) == sorted(range(14), key=lambda i: values[i])


def test_degradation_curves_hold_the_area_of_the_table(audit: Audit) -> None:
    material = Material(audit)
    charts = next(s for s in sections(material) if s.measure == "degradation").charts
    for chart, name in zip(charts, ("most-first", "least-first"), strict=True):
        for line in chart.lines:
            if line.kind == "dashed":
                continue
            points = [tuple(map(float, p.split(","))) for p in line.line.split()]
            area = sum((b[0] - a[0]) * (a[1] + b[1]) / 2 for a, b in pairwise(points))
            row = material.mean(statistic("degradation", "corrected", name), "blur", material.groups[line.tone])
            assert row is not None
            assert 1 - area / (chart.width * chart.height) == pytest.approx(row["value"], abs=0.02)


# ---------------------------------------------------------------------- galleries


def test_galleries_hold_the_extreme_images_in_order_with_all_their_maps(audit: Audit, page: Page) -> None:
    for measure, gallery in page.data["galleries"].items():
        wanted = audit.extremes(measure, MOST_IMAGES, lowest=measure != "entropy")
        assert [page.data["ids"][str(i)] for i in gallery["images"]] == [w["image_id"] for w in wanted]
        for image in gallery["images"]:
            assert f"p{image}" in page.pictures
            for model in range(len(gallery["models"])):
                assert f"s{image}.{measure}.{model}" in page.pictures
    assert set(page.data["galleries"]) == set(audit.asked)


def test_many_pictures_go_into_sidecars(audit: Audit) -> None:
    found = rendered(audit, 20_000)
    assert found.data["files"]
    assert all((audit.run.folder / "report" / f).exists() for f in found.data["files"])
    assert max(found.data["places"].values()) == len(found.data["files"])


def test_images_that_are_gone_are_told(tmp_path: Path) -> None:
    made = write_audit(tmp_path, net("one", 1), count=4, second=False, broken=False, measures="entropy")
    gone = next((tmp_path / "photos").rglob("*.png"))
    gone.unlink()
    found = rendered(made)
    missing = [k for k in found.pictures if k.startswith("w")]
    assert len(missing) == 1
    assert str(tmp_path) not in found.text


# ---------------------------------------------------------------------- other audits


def test_a_single_model_and_a_small_grid(single: Audit) -> None:
    found = rendered(single)
    assert "How alone behaves" in found.text
    by = "\N{MULTIPLICATION SIGN}"
    for where in ("Here", "Under flips and turns"):
        assert f"The published SSIM needs maps of 7 {by} 7 and more. {where} 4 {by} 4 maps have none." in found.text
    assert "arrows judge" not in found.text
    assert {a.get("id") for t, a in found.elements if t == "section"} & set(MEASURES) == set(single.asked)


def test_failures_are_listed_without_paths(audit: Audit, page: Page) -> None:
    assert page.text.count("disc/empty.png") >= len(audit.models)
    assert str(audit.run.folder.parent) not in page.text.replace(str(audit.run.info.get("command")), "")


def test_the_page_is_the_first_of_its_run_and_holds_on_its_own(audit: Audit) -> None:
    path = write_report(audit.run.folder)
    source = path.read_text(encoding="utf-8")
    titles = re.findall(r'<a href="[^"]+"(?: aria-current="page")?>([A-Z]\w+)</a>', source)
    assert titles[:3] == ["Behaviour", "Trust", "Maps"]
    assert not re.search(r'(?:src|href)="https?:', source)
    assert unescape(verdict(Material(audit)).title) in unescape(source)
