"""The page of a comparison as text and data: what it says, that its numbers are the run's, and what it copes with."""

from __future__ import annotations

import base64
import io
import json
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pytest
from PIL import Image

from parsed_page import Page
from salience.comparison.result import Comparison, read_comparison
from salience.report import write_report
from salience.report.bundles import INLINE_BYTES, Bundles
from salience.report.comparison import choice, wording
from salience.report.comparison.boards import forests, heat, matrix, scatter_view
from salience.report.comparison.cards import card
from salience.report.comparison.drawing import encode_labels
from salience.report.comparison.findings import Findings, findings
from salience.report.comparison.ledgers import MISSED, ledgers
from salience.report.comparison.material import Material, gather
from salience.report.comparison.page import render_comparison
from salience.report.comparison.sentences import claim, confirmation, verdict
from synthetic_comparison import FakeComparison

HOSTILE = "<img src=x onerror=alert(1)>"


def rendered(comparison: Comparison, inline_bytes: int = INLINE_BYTES) -> Page:
    return Page(render_comparison(comparison, Bundles(comparison.run.folder / "report", inline_bytes)))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Comparison]:
    """Comparisons, each written once."""
    known: dict[str, Comparison] = {}

    def make(**changes: Any) -> Comparison:
        key = repr(sorted(changes.items()))
        if key not in known:
            known[key] = FakeComparison(tmp_path_factory.mktemp("comparison"), **changes).write()
        return known[key]

    return make


@pytest.fixture(scope="module")
def main(made: Callable[..., Comparison]) -> Comparison:
    return made()


@pytest.fixture(scope="module")
def page(main: Comparison) -> Page:
    return rendered(main)


def looked(comparison: Comparison) -> tuple[Material, list[Findings]]:
    return gather(comparison), findings(comparison)


# ---------------------------------------------------------------------- what it says


def test_the_first_screen_leads_to_the_corner_caption(page: Page) -> None:
    assert "captioned leans on the bottom left corner more than cropped does" in page.text
    claims = [text for text in page.text.split("confirmed") if "Always in the bottom left corner" in text]
    assert claims
    assert "Changing those pixels confirms it: " in page.text
    assert "Of 6 concepts, 1 is confirmed by changing pixels" in page.text


def test_every_picture_of_the_first_claim_is_the_caption(main: Comparison) -> None:
    material, found = looked(main)
    hero = card(material, found[0], found[0].leads()[0].concept)
    patches = [p for g in hero.groups for p in g.patches]
    assert len(patches) == 4 * choice.EACH
    assert len({p.key for p in patches}) == len(patches)
    for patch in patches:
        labels = main.label_map(main.images[patch.image])
        rows, columns = np.nonzero(labels == patch.segment)
        assert rows.mean() > 0.8 * labels.shape[0]
        assert columns.mean() < 0.5 * labels.shape[1]


def test_claims_are_the_numbers_of_the_tables(main: Comparison) -> None:
    material, (found,) = looked(main)
    lead = found.leads()[0]
    row = main.confirmed.to_pylist()[0]
    assert (lead.concept, row["model"]) == (row["concept"], "captioned")
    assert (lead.family, lead.stratum) == ("direction", "class:synthetic")
    said = claim(material, found, lead)
    assert f"{100 * lead.effect:+.1f} points [{100 * lead.low:.1f}, {100 * lead.high:.1f}]" in said
    rows = material.rows(lead.stratum, found.model)
    means = {m: material.shares[m][rows, lead.concept].mean() for m in main.models}
    assert means["captioned"] - means["cropped"] == pytest.approx(lead.effect)
    assert f"{100 * means['captioned']:.1f}\N{NO-BREAK SPACE}%" in said
    of_lead = pc.and_(
        pc.equal(main.interventions["concept"], lead.concept), pc.equal(main.interventions["stratum"], lead.stratum)
    )
    fills = main.interventions.filter(of_lead).to_pylist()
    best = min(fills, key=lambda r: (r["q"], -abs(r["effect"])))
    assert f"{best['effect']:.2f} [{best['low']:.2f}, {best['high']:.2f}]" in confirmation(material, found, lead)


def test_accuracy_and_quadrants_stand_beside_the_headline(main: Comparison, page: Page) -> None:
    counts = {q: list(main.quadrants("captioned").values()).count(q) for q in ("only-reference", "both-wrong")}
    shown = {
        a["data-quadrant"]: re.search(r": ([\d,]+) images?$", a["aria-label"] or "")
        for _, a in page.elements
        if a.get("data-quadrant") and "aria-label" in a
    }
    for quadrant, count in counts.items():
        found = shown[quadrant]
        assert found is not None
        assert int(found[1]) == count
    assert "Accuracy does not tell them apart (McNemar's exact p = " in page.text
    assert "72 labelled images: who is right" in page.text


def test_limits_are_printed(page: Page) -> None:
    for text in ("Attribution is not causation.", "Another baseline", "Concepts are clusters.", "underpowered"):
        assert text in page.text
    assert "by colour and texture, since no encoder was given" in page.text
    assert "with power 0.8 is between" in page.text


def test_evidence_against_a_class_is_told_as_such(main: Comparison) -> None:
    """On real images, ``captioned`` books the caption against the class: nobody leans on it there."""
    material, (found,) = looked(main)
    lead = found.leads()[0]
    opposed = next(e for e in found.of(lead.concept, "direction") if e.stratum.startswith("class:real"))
    assert opposed.effect < 0
    alone = replace(found, effects=(replace(opposed, q=0.001, confirmed=True),))
    assert verdict(material, alone).title == (
        "captioned holds the bottom left corner against the class more than cropped does"
    )
    unsure = replace(found, effects=(replace(lead, effect=-lead.effect, confirmed=None),))
    assert verdict(material, unsure).title == "cropped may lean on the bottom left corner more than captioned does"


# ---------------------------------------------------------------------- figures


def test_forests_are_sorted_by_size_and_hold_every_concept(main: Comparison) -> None:
    material, (found,) = looked(main)
    made = {f.family: f for f in forests(material, found)}
    assert next(iter(made)) == "direction"
    assert set(made) == {"direction", "use", "ledger"}
    for forest in made.values():
        assert sorted(r.concept for r in forest.rows) == list(range(len(main.concepts)))
        order = [(["few", "none", "attribution", "confirmed"].index(r.state), r.size) for r in forest.rows]
        assert order == sorted(order, reverse=True)
        for row in forest.rows:
            assert row.ends[1] <= row.ends[0] <= row.ends[2]
    first = made["direction"].rows[0]
    assert first.state == "confirmed"
    assert first.name.place == "the bottom left corner"


def test_bars_are_means_and_the_difference_is_theirs(main: Comparison) -> None:
    material, (found,) = looked(main)
    made = card(material, found, found.leads()[0].concept)
    assert made.bars is not None
    first = made.bars.strata[0]
    assert [b.model for b in first.bars] == ["cropped", "captioned"]
    values = [float(b.text.split("\N{NO-BREAK SPACE}")[0].replace("\N{MINUS SIGN}", "-")) for b in first.bars]
    difference = float(first.difference.split()[0].replace("\N{MINUS SIGN}", "-"))
    assert values[1] - values[0] == pytest.approx(difference, abs=0.11)
    assert {s.family for s in made.bars.strata} == {"direction", "use"}


def test_counter_examples_go_the_other_way(main: Comparison) -> None:
    material, (found,) = looked(main)
    shown = 0
    for lead in found.leads():
        made = choice.counter(material, lead)
        rows = material.rows(lead.stratum, found.model)
        rows = rows[material.has[rows, lead.concept] > 0]
        values = material.values(lead.family, found.model, rows, lead.concept) * np.sign(lead.effect)
        assert made.against == (values <= 0).sum()
        assert made.of == len(rows)
        by_image = dict(zip(rows.tolist(), values.tolist(), strict=True))
        said = [by_image[p.image] for p in made.patches]
        assert said == sorted(said)
        assert all(v <= 0 for v in said)
        shown += len(said)
    assert shown


@pytest.mark.parametrize("where", ["all", "only-reference", "class:synthetic"])
def test_ledgers_add_up_to_the_change_of_the_difference(main: Comparison, where: str) -> None:
    material, (found,) = looked(main)
    view = {v.key: v for v in ledgers(material, found)}[where]
    booked = main.ledger(where).per_image()
    steps = {s.key: s.value for s in view.figure.steps}
    assert view.figure.total.value == pytest.approx(booked.change)
    assert sum(steps.values()) == pytest.approx(booked.change)
    for line in view.lines:
        if line.concept is not None:
            assert steps[line.key] == pytest.approx(booked.difference[line.concept])
    assert steps.get(MISSED, 0.0) == pytest.approx(-booked.gap, abs=1e-6)
    assert view.images == len(main.slice(where))


def test_the_quadrants_where_one_model_alone_is_wrong_come_first(main: Comparison) -> None:
    material, (found,) = looked(main)
    assert [v.key for v in ledgers(material, found)][:2] == ["only-reference", "only-model"]


def test_heat_map_and_scatter_show_the_effects(main: Comparison) -> None:
    material, (found,) = looked(main)
    table = heat(material, found)
    assert table is not None
    assert table.columns == ("real", "synthetic")
    number, _, _, cells = table.rows[0]
    effect = next(e for e in found.of(number, "direction") if e.stratum == "class:synthetic")
    assert cells[1] is not None
    assert cells[1].text == f"{100 * effect.effect:+.1f}"
    assert cells[1].shade == 1.0
    view = scatter_view(material, found, 400)
    assert view is not None
    assert view.figure.dots[-1].concept == number  # drawn last, so on top


def test_models_against_the_reference_stand_side_by_side(made: Callable[..., Comparison]) -> None:
    comparison = made(models=("cropped", "captioned", "between"))
    material, found = looked(comparison)
    table = matrix(material, found)
    assert table is not None
    assert table.columns == ("captioned", "between")
    number, _, where, cells = table.rows[0]
    assert where == "images of synthetic"
    for column, cell in zip(found, cells, strict=True):
        effect = next(e for e in column.of(number, "direction") if e.stratum == "class:synthetic")
        assert cell is not None
        assert cell.text == f"{100 * effect.effect:+.1f}"
    shown = rendered(comparison)
    assert "Concepts by model" in shown.text
    assert [a["value"] for t, a in shown.elements if t == "input" and a.get("name") == "part"] == ["0", "1"]
    assert matrix(material, found[:1]) is None


# ---------------------------------------------------------------------- data and pictures


def test_the_page_needs_nothing_but_itself(page: Page) -> None:
    for tag, attributes in page.elements:
        for name in ("src", "href"):
            link = attributes.get(name) or "#"
            assert link.startswith(("#", "data:")), (tag, link)
    assert not re.search(r"url\((?![\"']?#)|@import|https?://(?!www\.w3\.org/2000/svg)", page.blocks["style"])
    assert page.data["files"] == []


def test_pictures_are_there_for_all_patches_and_images(main: Comparison, page: Page) -> None:
    wanted = {a["data-patch"] for _, a in page.elements if a.get("data-patch")}
    assert wanted <= set(page.pictures)
    for entry in page.data["entries"]:
        keys = {f"{kind}{entry['image']}" for kind in "pld"} | {f"m{entry['image']}.{n}" for n in (0, 1)}
        assert keys <= set(page.pictures)
    patch = Image.open(io.BytesIO(base64.b64decode(page.pictures[next(iter(wanted))])))
    assert patch.size == (112, 112)


def test_label_maps_survive_as_pictures(main: Comparison) -> None:
    labels = main.label_map(main.images[1]) + 250  # beyond one byte
    decoded = np.asarray(Image.open(io.BytesIO(encode_labels(labels)))).astype(np.int32)
    np.testing.assert_array_equal(decoded[..., 0] + 256 * decoded[..., 1], labels)


def test_lists_have_every_image_of_a_concept(main: Comparison, page: Page) -> None:
    for concept in range(len(main.concepts)):
        values = json.loads(base64.b64decode(page.pictures[f"v{concept}"]))
        assert [main.images[i] for i in values["images"]] == main.slice(concept=concept)
        for model, shares in zip(main.models, values["shares"], strict=True):
            np.testing.assert_allclose(shares, main.shares(model)[values["images"], concept], rtol=1e-3, atol=1e-9)


def test_an_images_own_numbers_add_up(main: Comparison, page: Page) -> None:
    values = json.loads(base64.b64decode(page.pictures["d3"]))
    for n, model in enumerate(main.models):
        gap = main.gap(model, main.images[3])
        assert sum(values["totals"][n]) == pytest.approx(values["change"][n] + gap, abs=1e-4)


def test_many_pictures_go_into_sidecars_but_the_first_claim_stays(main: Comparison) -> None:
    few = rendered(main, inline_bytes=60_000)
    assert few.data["files"]
    kept = json.loads(few.blocks["pictures"])
    hero = re.search(r'class="patches patches-hero" data-place="(\d+)"', few.source)
    assert hero is not None
    assert hero[1] == "0"
    shown = re.search(r'patches-hero".*?</div>', few.source, re.DOTALL)
    assert shown is not None
    assert set(re.findall(r'data-patch="([^"]+)"', shown[0])) <= set(kept)
    places = {p["place"] for p in few.data["concepts"]} | {e["place"] for e in few.data["entries"]}
    assert max(places) <= len(few.data["files"])


# ---------------------------------------------------------------------- what it copes with


def test_no_difference_says_what_could_have_been_found(made: Callable[..., Comparison]) -> None:
    comparison = made(planted=False)
    material, (found,) = looked(comparison)
    said = verdict(material, found)
    assert said.title == "No difference between cropped and captioned can be shown"
    assert said.state == "none"
    assert "every q is at least 0.05" in said.lead[0]
    assert f"{wording.least(100 * found.detectable('direction'))} points" in said.lead[1]
    assert "No difference between cropped and captioned can be shown" in rendered(comparison).text


def test_a_model_against_itself_differs_nowhere(made: Callable[..., Comparison], main: Comparison) -> None:
    comparison = made(models=("cropped", "cropped-again"))
    material, (found,) = looked(comparison)
    assert all(e.effect == 0 for e in found.effects)
    made_card = card(material, found, 0)
    assert made_card.spread is not None
    assert made_card.spread.limit == 0
    assert made_card.counter is not None
    assert made_card.counter.against == 0
    assert verdict(material, found).title == "No difference between cropped and cropped-again can be shown"
    assert "cropped-again" in rendered(comparison).text


def test_one_model_alone(made: Callable[..., Comparison]) -> None:
    comparison = made(models=("captioned",))
    alone = rendered(comparison)
    assert "captioned tells synthetic by the bottom left corner" in alone.text
    assert "What carries its classes" in alone.text
    assert not [a for _, a in alone.elements if (a.get("class") or "").startswith("plane scatter")]
    assert alone.data["alone"] is True
    assert alone.data["images"]["quadrants"] == [[]]


def test_without_labels_there_is_no_accuracy(made: Callable[..., Comparison]) -> None:
    blind = rendered(made(labels=False))
    assert "There are no labels: the models agree on" in blind.text
    assert "who is right" not in blind.text.split("What they use differently")[0]
    assert set(blind.data["images"]["labels"]) == {-1}


def test_without_a_ledger_the_page_says_so(made: Callable[..., Comparison]) -> None:
    comparison = made(ledger=False, interventions=False)
    without = rendered(comparison)
    assert "There is no ledger: this method's maps do not add up" in without.text
    assert "captioned may lean on the bottom left corner" in without.text
    assert "Its pixels were not changed, so this is attribution only." in without.text
    assert "totals" not in json.loads(base64.b64decode(without.pictures["d0"]))


def test_few_images_are_estimates_only(made: Callable[..., Comparison]) -> None:
    few = rendered(made(images=12))
    assert "Too few images to tell cropped and captioned apart" in few.text
    assert "here the largest has 12" in few.text
    assert "nan" not in few.text.lower().replace("explanan", "").split("how this was made")[0]


def test_many_classes_are_tested_together(made: Callable[..., Comparison]) -> None:
    classes = tuple(f"kind {i}, of many" for i in range(1000))
    comparison = made(images=64, classes=classes)
    material, (found,) = looked(comparison)
    assert heat(material, found) is None
    assert found.families()[0] != "direction"
    many = rendered(comparison)
    assert len(many.source) < 4_000_000
    assert "kind 1" in many.text


def test_failures_notes_and_missing_photographs_are_shown(tmp_path: Path) -> None:
    notes = ("In 3 of 72 images the maps miss more than 5 % of the change.",)
    fake = FakeComparison(tmp_path, failed=(3,), missing=(1, 2), notes=notes, status="interrupted")
    shown = rendered(fake.write())
    assert notes[0] in shown.text
    assert "This run was interrupted" in shown.text
    assert "image could not be read" in shown.text
    assert str(tmp_path) not in shown.source.replace("file:", "")
    missing = [e for e in shown.data["entries"] if "missing" in e]
    assert {shown.data["images"]["ids"][e["image"]] for e in missing} == {fake.name(1), fake.name(2)}
    assert "The file is no longer where it was." in missing[0]["missing"]


def test_names_cannot_become_markup(tmp_path: Path) -> None:
    classes = (f"real {HOSTILE}", "synthetic")
    fake = FakeComparison(tmp_path, images=12, classes=classes, names={0: f"{HOSTILE.replace('/', '')}.png"})
    shown = rendered(fake.write())
    assert not [a for t, a in shown.elements if t == "img" and a.get("src") == "x"]
    assert HOSTILE in shown.text


def test_groups_are_the_units(made: Callable[..., Comparison]) -> None:
    comparison = made(grouped=2)
    (found,) = findings(comparison)
    assert max(e.n for e in found.effects) == len(comparison.images) // 2
    assert "groups of images" in rendered(comparison).text


def test_the_report_of_a_run_is_its_comparison(main: Comparison) -> None:
    index = write_report(main.run.folder)
    assert "captioned leans on the bottom left corner" in index.read_text(encoding="utf-8")
    assert (index.parent / "maps.html").is_file()


def test_the_same_run_gives_the_same_page(main: Comparison, page: Page) -> None:
    assert rendered(read_comparison(main.run.folder)).source == page.source


def test_rendering_needs_no_torch(main: Comparison) -> None:
    code = (
        "import sys; from salience.comparison.result import read_comparison;"
        "from salience.report.bundles import Bundles; from salience.report.comparison.page import render_comparison;"
        f"c = read_comparison({str(main.run.folder)!r}); render_comparison(c, Bundles(c.run.folder));"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
