"""The page of an audit in a real browser: axe, the overview, pictures, galleries and their large view, keys."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from browsing import check_axe, opening, until, written

from salience.behaviour.audit import Audit
from synthetic_audit import groups, write_audit

pytestmark = pytest.mark.browser

HOSTILE = "<img src=x onerror=document.title='owned'>.png"


@pytest.fixture(scope="module")
def audit(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Audit]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield write_audit(tmp_path_factory.mktemp("audit"), groups(3), count=8, names={4: HOSTILE}, background="blur")
    torch.set_num_threads(threads)


@pytest.fixture
def visit(browser: Any, audit: Audit) -> Iterator[Callable[..., Any]]:
    """Open the page, and check at the end that nothing went wrong in its script."""
    with opening(browser) as opened:

        def go(width: int = 1280, scheme: str = "light", inline_bytes: int = 8_000_000) -> Any:
            return opened(written(audit.run.folder, inline_bytes), width, scheme, "")

        yield go


def open_large(page: Any, measure: str, place: int = 0) -> None:
    page.locator(f"#{measure} .extreme").nth(place).click()
    until(page, "document.querySelectorAll('.large-map').length > 0")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_no_accessibility_violations_and_no_overflow(visit: Callable[..., Any], scheme: str, width: int) -> None:
    page = visit(width, scheme)
    for one in page.locator("details").all():
        one.evaluate("d => d.open = true")
    check_axe(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    open_large(page, "geometry")
    check_axe(page)
    assert page.evaluate(
        "document.querySelector('#large-body').scrollWidth <= document.querySelector('#large').clientWidth"
    )


def test_what_was_found_stands_above_the_fold(visit: Callable[..., Any]) -> None:
    page = visit()
    for one in ("h1", ".intro .lead", "#overview-title", ".answers thead"):
        box = page.locator(one).first.bounding_box()
        assert box["y"] + box["height"] < 860


def test_the_overview_leads_to_the_sections(visit: Callable[..., Any], audit: Audit) -> None:
    page = visit()
    links = page.locator(".answers-measure a")
    assert links.count() == len(audit.asked)
    links.nth(3).click()
    until(page, "location.hash === '#stability'")
    assert page.locator("#stability h2").bounding_box()["y"] < 860


@pytest.mark.parametrize("inline_bytes", [8_000_000, 20_000])
def test_galleries_fill_as_they_come_into_view(visit: Callable[..., Any], inline_bytes: int) -> None:
    page = visit(inline_bytes=inline_bytes)
    for measure in ("entropy", "out-of-set", "geometry", "stability", "degradation"):
        page.locator(f"#{measure} .gallery").scroll_into_view_if_needed()
        until(page, f"document.querySelectorAll('#{measure} .extreme-photo img').length === 8")
        cells = f"[...document.querySelectorAll('#{measure} .extreme-map')]"
        until(page, f"{cells}.every(m => m.style.backgroundImage.length > 50)")


def test_an_image_opens_to_its_maps_under_every_condition(visit: Callable[..., Any], audit: Audit) -> None:
    page = visit()
    open_large(page, "geometry")
    wanted = audit.extremes("geometry", 1)[0]
    assert page.locator("#large-title").inner_text() == wanted["image_id"]
    assert page.evaluate("document.activeElement.id") == "large-title"
    runs = page.locator(".large-runs section")
    assert runs.count() == len(audit.models)
    assert runs.nth(0).locator("li").count() == 25  # clean, and 24 changes
    texts = [t for t in page.locator(".large-maps b").all_inner_texts() if t]
    values = [float(t.replace("\N{MINUS SIGN}", "-")) for t in texts]
    assert sum(values) / len(values) == pytest.approx(wanted["value"], abs=0.005)


def test_keys_turn_images_and_close_the_view_where_it_was_opened(visit: Callable[..., Any], audit: Audit) -> None:
    page = visit()
    page.locator("#stability .extreme").first.focus()
    page.keyboard.press("Enter")
    until(page, "document.querySelectorAll('.large-map').length > 0")
    ids = [w["image_id"] for w in audit.extremes("stability", 3)]
    assert page.locator("#large-before").is_disabled()
    page.keyboard.press("ArrowRight")
    until(page, f"document.querySelector('#large-title').textContent === {ids[1]!r}")
    page.locator("#large-next").click()
    until(page, f"document.querySelector('#large-title').textContent === {ids[2]!r}")
    page.keyboard.press("ArrowLeft")
    until(page, f"document.querySelector('#large-title').textContent === {ids[1]!r}")
    page.keyboard.press("Escape")
    until(page, "!document.querySelector('#large').open")
    assert page.evaluate("document.activeElement.classList.contains('extreme')")


def test_hostile_names_stay_names(visit: Callable[..., Any]) -> None:
    page = visit()
    assert page.locator("img[src='x']").count() == 0
    place = page.evaluate(
        "[...document.querySelectorAll('#entropy .extreme')].findIndex(e => e.textContent.includes('onerror'))"
    )
    open_large(page, "entropy", place)
    assert HOSTILE in page.locator("#large-title").inner_text()
    assert page.locator("img[src='x']").count() == 0
    assert "owned" not in page.title()


def test_other_pages_of_the_run_are_one_click_away(visit: Callable[..., Any]) -> None:
    page = visit()
    assert page.locator(".pages a").all_inner_texts() == ["Behaviour", "Trust", "Maps"]
    assert page.locator(".pages [aria-current]").inner_text() == "Behaviour"
