"""The page of a comparison in a real browser: axe, first screen, cards, lists and downloads, single images, keys."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from browsing import check_axe, opening, until, written

from salience.comparison.result import Comparison
from synthetic_comparison import FakeComparison

pytestmark = pytest.mark.browser

HOSTILE = "<img src=x onerror=document.title='owned'>"
READY = "document.querySelectorAll('.drill-pictures canvas').length >= 2"


@pytest.fixture(scope="module")
def comparison(tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    return FakeComparison(tmp_path_factory.mktemp("compared"), names={4: f"{HOSTILE}.png"}).write()


@pytest.fixture
def visit(browser: Any, comparison: Comparison) -> Iterator[Callable[..., Any]]:
    """Open the page of the run, or of another one, and check at the end that nothing went wrong in its script."""
    with opening(browser) as opened:

        def go(
            width: int = 1280,
            scheme: str = "light",
            inline_bytes: int = 8_000_000,
            hash: str = "",  # noqa: A002
            of: Comparison | None = None,
        ) -> Any:
            page = opened(written((of or comparison).run.folder, inline_bytes), width, scheme, hash)
            until(page, READY)
            return page

        yield go


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_no_accessibility_violations_and_no_overflow(visit: Callable[..., Any], scheme: str, width: int) -> None:
    page = visit(width, scheme)
    for made in page.locator("details").all():
        made.evaluate("d => d.open = true")
    check_axe(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.locator("#card-next").click()
    page.locator('[data-choice="family"]').select_option(label="what it adds up to")
    page.locator('#ledger [data-choice="slice"]:visible').select_option(label="All images")
    page.locator('#drill-picks [data-choice="concept"]').select_option(label="Concept 1")
    until(page, f"document.querySelector('#count').textContent.includes('image') && {READY}")
    check_axe(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize(("width", "height"), [(1280, 860), (390, 860)])
def test_the_first_claim_and_its_picture_stand_above_the_fold(
    visit: Callable[..., Any], width: int, height: int
) -> None:
    page = visit(width)
    assert page.locator("h1").first.inner_text() == "captioned leans on the bottom left corner more than cropped does"
    until(page, "document.querySelectorAll('.patches-hero img').length === 12")
    box = page.locator(".claim").first.bounding_box()
    patches = page.locator(".patches-hero").first.bounding_box()
    assert patches["y"] + patches["height"] < height
    assert box["y"] + box["height"] < height
    assert page.locator(".claim .state").first.inner_text() == "confirmed"


def test_every_claim_opens_to_the_images_behind_it(visit: Callable[..., Any], comparison: Comparison) -> None:
    page = visit()
    page.locator(".claim [data-list]").click()
    wanted = comparison.slice(concept=0)
    until(page, f"document.querySelector('#count').textContent.startsWith('{len(wanted)} images')")
    shown = [one.get_attribute("data-id") for one in page.locator("#thumbs [data-id]").all()]
    assert shown == wanted
    assert page.locator('#drill-picks [data-choice="concept"]').evaluate("s => s.value") == "0"
    assert page.evaluate("document.activeElement.id") == "images"
    for quadrant in ("only-reference", "both-right"):
        page.locator(f'.quadrants [data-quadrant="{quadrant}"]').click()
        ids = comparison.slice(quadrant)
        until(page, f"document.querySelector('#count').textContent.startsWith('{len(ids)} image')")
        assert [one.get_attribute("data-id") for one in page.locator("#thumbs [data-id]").all()] == ids
    page.locator(".forest tbody tr:first-child [data-list]").click()
    both = comparison.slice("class:synthetic", concept=0)
    until(page, f"document.querySelector('#count').textContent.startsWith('{len(both)} images')")


def test_lists_are_downloaded_whole(visit: Callable[..., Any], comparison: Comparison, tmp_path: Path) -> None:
    page = visit()
    page.locator(".claim [data-list]").click()
    until(page, "document.querySelector('#drill-picks [data-choice=\"concept\"]').value === '0'")
    page.locator('#drill-picks [data-choice="order"]').select_option(label="most in captioned")
    until(page, "location.hash.includes('order=model')")
    with page.expect_download() as waiting:
        page.locator("#download").click()
    path = tmp_path / waiting.value.suggested_filename
    waiting.value.save_as(path)
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert sorted(r["image_id"] for r in rows) == sorted(comparison.slice(concept=0))
    shares = {m: comparison.shares(m)[:, 0] for m in comparison.models}
    place = {i: n for n, i in enumerate(comparison.images)}
    quadrants = comparison.quadrants("captioned")
    differences = []
    for row in rows:
        at = place[row["image_id"]]
        assert row["quadrant"] == quadrants[row["image_id"]]
        assert row["label"] == comparison.classes[comparison.labels[at]]
        for model in comparison.models:
            assert float(row[f"share of {model}"]) == pytest.approx(shares[model][at], rel=1e-3, abs=1e-9)
        differences.append(float(row["share of captioned"]) - float(row["share of cropped"]))
    assert differences == sorted(differences, reverse=True)


def test_cards_are_turned_by_keys_and_links(visit: Callable[..., Any]) -> None:
    page = visit()
    assert page.locator("#card-before").is_disabled()
    first = page.locator(".concept h3").inner_text()
    page.locator("#card-next").focus()
    page.keyboard.press("Enter")
    assert page.locator(".concept h3").inner_text() != first
    assert page.locator("#card-before").is_enabled()
    page.locator(".forest tbody tr:first-child [data-card]").click()
    assert page.locator(".concept h3").inner_text() == first
    assert page.evaluate("document.activeElement.id") == "concept"
    until(page, "document.querySelectorAll('.concept .patch img').length >= 12")
    page.locator("#card-pick").select_option(index=2)
    until(page, "document.querySelectorAll('.concept .counter .patch img').length > 0")


def test_quality_is_explained_on_focus_and_escape_hides_it(visit: Callable[..., Any]) -> None:
    page = visit()
    chip = page.locator(".chip").first
    tip = page.locator(f"[id='{chip.get_attribute('aria-describedby')}']")
    assert not tip.is_visible()
    page.locator(".counter").scroll_into_view_if_needed()
    page.locator("#card-next").focus()
    while page.evaluate("!document.activeElement.classList.contains('chip')"):
        page.keyboard.press("Tab")
    assert tip.is_visible()
    assert "found again" in tip.inner_text()
    page.keyboard.press("Escape")
    assert not tip.is_visible()


def test_a_patch_opens_its_image_with_the_concept_marked(visit: Callable[..., Any]) -> None:
    page = visit()
    patch = page.locator(".patches-hero button").nth(4)
    said = patch.get_attribute("title").split(": ")[0]
    patch.click()
    until(page, f"document.querySelector('.drill-head h3').textContent === {said!r}")
    assert page.locator(".own-ledger [aria-pressed=true]").inner_text() == "Concept 0"
    page.locator(".own-ledger [aria-pressed=true]").click()
    until(page, "!document.querySelector('.own-ledger [aria-pressed=true]')")
    assert page.evaluate("document.activeElement.textContent") == "Concept 0"


def _pixel(page: Any, figure: int, right: float, down: float) -> list[int]:
    found: list[int] = page.evaluate(
        """([figure, right, down]) => {
          const sheet = document.querySelectorAll('.drill-pictures canvas')[figure];
          const at = [Math.floor(right * sheet.width), Math.floor(down * sheet.height)];
          return [...sheet.getContext('2d').getImageData(at[0], at[1], 1, 1).data];
        }""",
        [figure, right, down],
    )
    return found


def test_the_captions_map_is_red_in_the_model_that_goes_by_it_only(visit: Callable[..., Any]) -> None:
    page = visit()  # it opens at an image where the caption counts most
    caption = (0.2, 0.93)
    reference, model = _pixel(page, 1, *caption), _pixel(page, 2, *caption)
    assert model[0] - model[2] > 80  # red: for the class
    assert reference[0] - reference[2] < 60
    veiled = _pixel(page, 2, 0.8, 0.3)
    assert min(veiled[:3]) > 150  # outside of the marked concept


def test_an_images_ledger_adds_up(visit: Callable[..., Any]) -> None:
    page = visit()
    for place in (0, 7):
        page.locator("#thumbs [data-id]").nth(place).click()
        name = page.locator("#thumbs [data-id]").nth(place).get_attribute("data-id")
        until(page, f"document.querySelector('.drill-head h3').textContent === {name!r}")
        texts = page.locator(".own-ledger tbody .mean").all_inner_texts()
        values = [float(t.replace("\N{MINUS SIGN}", "-")) for t in texts]
        assert sum(values[:-1]) == pytest.approx(values[-1], abs=0.006 * len(values))


def test_keys_move_through_the_images(visit: Callable[..., Any]) -> None:
    page = visit()
    page.locator("#thumbs [data-id]").first.click()
    first = page.locator("#thumbs [data-id]").nth(1).get_attribute("data-id")
    page.keyboard.press("ArrowRight")
    until(page, f"document.querySelector('.drill-head h3')?.textContent === {first!r}")
    until(page, "document.activeElement.getAttribute('aria-selected') === 'true'")
    page.keyboard.press("End")
    last = page.locator("#thumbs [data-id]").last.get_attribute("data-id")
    until(page, f"document.querySelector('.drill-head h3')?.textContent === {last!r}")
    page.keyboard.press("Home")
    page.keyboard.press("ArrowRight")  # while the picture before it is being drawn
    until(page, f"document.querySelector('.drill-head h3')?.textContent === {first!r}")


def test_the_address_brings_the_choice_back(visit: Callable[..., Any], comparison: Comparison) -> None:
    page = visit(hash="#card=2&family=use&concept=1&slice=all&quadrant=both-right")
    assert page.locator(".concept h3").inner_text() == "Concept 2"
    assert "spends on a concept" in page.locator("#concepts .caption-line").inner_text()
    assert page.locator("#ledger .caption-line").inner_text().startswith("All images, n = 72")
    wanted = set(comparison.slice(concept=1)) & set(comparison.slice("both-right"))
    until(page, f"document.querySelector('#count').textContent.startsWith('{len(wanted)} images')")


def test_sidecars_come_as_they_are_needed(visit: Callable[..., Any], comparison: Comparison) -> None:
    page = visit(inline_bytes=60_000)
    assert list(written(comparison.run.folder, 60_000).parent.glob("data-*.js"))
    until(page, "document.querySelectorAll('.patches-hero img').length === 12")
    page.locator("#card-pick").select_option(index=3)
    page.locator(".concept").scroll_into_view_if_needed()
    until(page, "document.querySelectorAll('.concept-patches .patch img').length >= 12")
    page.locator("#thumbs [data-id]").last.click()
    last = page.locator("#thumbs [data-id]").last.get_attribute("data-id")
    until(page, f"document.querySelector('.drill-head h3')?.textContent === {last!r}")
    assert page.locator("head script").count() >= 1


def test_hostile_names_stay_names(visit: Callable[..., Any]) -> None:
    page = visit()
    page.locator("#thumbs [data-id]").nth(4).click()
    until(page, f"document.querySelector('.drill-head h3').textContent === {HOSTILE + '.png'!r}")
    assert page.locator("img[src='x']").count() == 0
    assert "owned" not in page.title()


def test_other_pages_of_the_run_are_one_click_away(visit: Callable[..., Any]) -> None:
    page = visit()
    assert page.locator(".pages a").all_inner_texts() == ["Comparison", "Maps"]
    assert page.locator(".pages [aria-current]").inner_text() == "Comparison"


def test_several_models_are_chosen_for_the_whole_page(visit: Callable[..., Any], tmp_path: Path) -> None:
    three = FakeComparison(tmp_path, models=("cropped", "captioned", "between")).write()
    page = visit(of=three)
    before = page.locator(".forest:visible .mean").nth(1).inner_text()
    page.locator('input[name="part"][value="1"]').check(force=True)
    assert page.locator("h1:visible").inner_text().startswith("between leans on")
    assert page.locator(".forest:visible .mean").nth(1).inner_text() != before
    until(page, "[...document.querySelectorAll('.drill-pictures figcaption')].some((f) => f.textContent === 'between')")
    assert page.locator(".concept:visible .share-name").all_inner_texts()[:2] == ["cropped", "between"]
    check_axe(page)


def test_one_model_alone_and_maps_without_a_ledger(visit: Callable[..., Any], tmp_path: Path) -> None:
    alone = FakeComparison(tmp_path, images=64, models=("captioned",), ledger=False, interventions=False).write()
    page = visit(of=alone)
    assert re.match(r"captioned may tell synthetic by the bottom left corner", page.locator("h1").inner_text())
    assert page.locator(".drill-pictures canvas").count() == 2
    assert "Share of captioned's attribution" in page.locator(".own-ledger h4").inner_text()
    check_axe(page)
