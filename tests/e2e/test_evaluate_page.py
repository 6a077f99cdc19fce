"""The page of an evaluation in a real browser: axe, choices, sorting, single images, sidecars, hostile names."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from browsing import check_axe, opening, until

from evaluated_runs import HOSTILE, evaluated
from salience.report import write_report
from salience.scores import HEADLINE

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("evaluated")
    evaluated(folder)
    return folder / "run"


@pytest.fixture
def visit(browser: Any, run: Path) -> Iterator[Callable[..., Any]]:
    """Open the run's page, and check at the end that nothing went wrong in its script."""
    with opening(browser) as opened:

        def go(width: int = 1280, scheme: str = "light", inline_bytes: int = 8_000_000, hash: str = "") -> Any:  # noqa: A002
            page = opened(write_report(run, inline_bytes=inline_bytes), width, scheme, hash)
            page.wait_for_selector(".stop canvas")
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
    page.locator('[data-slot="board"]').scroll_into_view_if_needed()
    page.locator('#images select[data-choice="lane"]').select_option(label="random (baseline)")
    until(page, "document.querySelector('.drill-note')?.textContent.includes('not kept')")
    page.locator('#board select[data-choice="background"]').select_option(label="road")
    check_axe(page)


def test_hostile_names_stay_names(visit: Callable[..., Any]) -> None:
    page = visit()
    assert HOSTILE in page.locator("#board .method").all_inner_texts()
    page.locator(f'.thumb[title^="ant/{HOSTILE}"]').click()
    until(page, f"document.querySelector('.drill-head h3').textContent === \"ant/{HOSTILE}.png\"")
    page.locator('#images select[data-choice="lane"]').select_option(label=HOSTILE)
    until(page, "document.querySelector('.drill-note')?.textContent.includes('not in this run')")
    assert page.locator("img[src='x']").count() == 0
    assert "owned" not in page.title()


def test_choices_are_one_for_the_whole_page(visit: Callable[..., Any]) -> None:
    page = visit()
    assert HEADLINE in page.locator("#board .caption-line").inner_text()
    page.locator('#board select[data-choice="metric"]').select_option(label="deletion:points=6 (lower is better)")
    assert "Lower is better." in page.locator("#board .caption-line").inner_text()
    page.locator('#plane select[data-choice="background"]').select_option(label="blur")
    for section in ("board", "plane", "curves", "images"):
        chosen = page.locator(f'#{section} select[data-choice="background"]')
        assert chosen.evaluate("s => s.selectedOptions[0].text") == "blur"
    assert "background=1" in page.url
    before = page.locator("#board .mean").all_inner_texts()
    page.locator('#board select[data-choice="smooth"]').select_option(label="blurred by 2 px")
    assert page.locator("#board .mean").all_inner_texts() != before
    page.locator('#board select[data-choice="metric"]').select_option(label="gini")  # of the maps alone
    assert "Neither high nor low is better." in page.locator("#board .caption-line").inner_text()
    assert "Nothing was measured" in page.locator("#ranks").inner_text()


def test_the_address_brings_the_choice_back(visit: Callable[..., Any]) -> None:
    page = visit(hash="#background=1&lane=1&image=bee%2F002.png")
    assert page.locator(".drill-head h3").inner_text() == "bee/002.png"
    assert page.locator('#images select[data-choice="lane"]').evaluate("s => s.selectedOptions[0].text") == "gradcam"
    assert page.locator('#board select[data-choice="background"]').evaluate("s => s.value") == "1"


def test_the_leaderboard_is_sorted_by_any_column(visit: Callable[..., Any]) -> None:
    page = visit()

    def names() -> list[str]:
        return page.locator("#board tbody .method").all_inner_texts()

    ranked = names()
    page.locator('#board [data-sort="value"]').click()
    assert names() == ranked[::-1]
    page.locator('#board [data-sort="name"]').click()
    assert names() != ranked
    assert sorted(names()) == sorted(ranked)
    assert page.locator('#board th[aria-sort="ascending"]').inner_text().startswith("Method")
    page.locator('#board [data-sort="rank"]').click()
    assert names() == ranked


def test_masked_inputs_show_the_image_where_pixels_stay(visit: Callable[..., Any]) -> None:
    """The last picture of a strip is the photo itself; the first has as many foreign pixels as were removed."""
    page = visit(hash="#lane=0")
    changed = page.evaluate(
        """() => {
          const sheets = [...document.querySelectorAll('.strip-predicted canvas')];
          const bytes = sheets.map((s) => s.getContext('2d').getImageData(0, 0, s.width, s.height).data);
          const whole = bytes[bytes.length - 1];
          return bytes.map((b) => {
            let n = 0;
            for (let i = 0; i < b.length; i += 4) n += [0, 1, 2].some((c) => b[i + c] !== whole[i + c]);
            return n / (b.length / 4);
          });
        }"""
    )
    said = [float(t.split()[0]) / 100 for t in page.locator(".strip-predicted .stop-share").all_inner_texts()]
    assert len(changed) >= 4
    for share, kept in zip(changed, said, strict=True):
        assert share == pytest.approx(1 - kept, abs=0.02)


def test_keys_move_through_the_images(visit: Callable[..., Any]) -> None:
    page = visit()
    page.locator(".thumb").first.focus()
    first = page.locator(".drill-head h3").inner_text()
    page.keyboard.press("ArrowRight")
    until(page, f"document.querySelector('.drill-head h3').textContent !== {first!r}")
    assert page.evaluate("document.activeElement.getAttribute('aria-selected')") == "true"
    page.keyboard.press("End")
    last = page.locator(".thumb").last.get_attribute("data-id")
    until(page, f"document.querySelector('.drill-head h3').textContent === {last!r}")


def test_sidecars_come_as_they_are_needed(visit: Callable[..., Any], run: Path) -> None:
    page = visit(inline_bytes=30_000)
    assert list((run / "report").glob("data-*.js"))
    page.locator(".thumb").last.click()
    last = page.locator(".thumb").last.get_attribute("data-id")
    until(page, f"document.querySelector('.drill-head h3').textContent === {last!r}")
    until(page, "document.querySelectorAll('.stop canvas').length > 4")
    assert page.locator("head script").count() >= 1


def test_a_background_that_was_drawn_is_hatched_and_said(visit: Callable[..., Any]) -> None:
    page = visit()
    page.locator('#images select[data-choice="background"]').select_option(label="road")
    until(page, "document.querySelector('.drill-note')?.textContent.includes('made while scoring')")
    assert page.locator(".stop canvas").count() > 4
