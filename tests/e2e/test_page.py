"""The page in a real browser: axe, keys, filters, the large view, sidecars, hostile names."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from browsing import check_axe, opening, texts, until
from PIL import Image

from salience.report import write_report
from synthetic_runs import CLASSES, FakeMethod, FakeModel, FakeRun

pytestmark = pytest.mark.browser

HOSTILE = "<img src=x onerror=document.title='owned'>.png"
TWO = (
    FakeModel("old", target="all"),
    FakeModel("new & <i>improved</i>", classes=CLASSES[::-1], methods=(FakeMethod("gradient"),)),
)


@pytest.fixture
def visit(browser: Any, tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Write a run, open its page, and check at the end that nothing went wrong in its script."""
    count = 0

    with opening(browser) as opened:

        def go(
            width: int = 1280,
            scheme: str = "light",
            inline_bytes: int = 8_000_000,
            hash: str = "",  # noqa: A002
            **run: Any,
        ) -> Any:
            nonlocal count
            path = write_report(FakeRun(tmp_path / str(count), **run).write(), inline_bytes=inline_bytes)
            count += 1
            page = opened(path, width, scheme, hash)
            page.evaluate("document.getElementById('maps').scrollIntoView()")
            page.wait_for_selector(".image .tile img")
            return page

        yield go


def shown(page: Any) -> list[str]:
    return texts(page, "#rows .image .name")


def focused(page: Any) -> tuple[str, str]:
    """Return (image name, column) of the focused tile."""
    return tuple(
        page.evaluate(
            "[document.activeElement.closest('.image')?.querySelector('.name').textContent ?? '', "
            "document.activeElement.dataset.column ?? '']"
        )
    )


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_no_accessibility_violations(visit: Callable[..., Any], scheme: str, width: int) -> None:
    page = visit(
        width,
        scheme,
        images=9,
        models=TWO,
        failed_images=(3,),
        failed_maps=((1, "contrast"),),
        missing=(5,),
        status="interrupted",
    )
    page.evaluate("document.querySelector('.made').open = true")
    check_axe(page)
    page.locator("#view label").nth(1).click()
    check_axe(page)
    page.locator(".image .tile img").nth(3).click()
    page.wait_for_selector("#sheet-map")
    check_axe(page)
    page.keyboard.press("Escape")
    if width > 640:
        page.locator("#keys-button").click()
        check_axe(page)


@pytest.mark.parametrize("width", [1280, 390])
def test_page_is_never_wider_than_the_screen(visit: Callable[..., Any], width: int) -> None:
    page = visit(width, names={1: "a" * 200 + ".png", 2: HOSTILE})
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.locator(".image .tile img").first.click()
    page.wait_for_selector("#sheet-photo")
    assert page.evaluate("document.getElementById('large').scrollWidth") <= width


def test_hostile_names_stay_names(visit: Callable[..., Any]) -> None:
    page = visit(names={1: HOSTILE, 2: "\"><script>document.title='owned'<\\script>.png"}, failed_maps=((1, "ig"),))
    assert HOSTILE in shown(page)
    page.locator(".image .tile img").nth(6).click()
    page.wait_for_selector("#sheet-photo")
    assert page.locator("#large-title").inner_text() == HOSTILE
    assert "owned" not in page.title()


def test_pictures_have_words(visit: Callable[..., Any]) -> None:
    page = visit()
    alts = page.locator(".image").first.locator("img").evaluate_all("all => all.map((i) => i.alt)")
    assert alts[1:] == [f"{m} map of bird/000.png for {CLASSES[0]}" for m in ("gradient", "contrast", "gradcam", "ig")]
    label = page.locator(".image .tile").first.get_attribute("aria-label")
    assert label.startswith(f"Photo bird/000.png, predicted {CLASSES[0]}, ")


def test_filters_count_sort_and_address(visit: Callable[..., Any]) -> None:
    page = visit(images=12, failed_images=(7,), failed_maps=((0, "gradcam"),))
    assert page.locator("#count").inner_text() == "12 of 12"
    page.locator("#outcome label", has_text="Wrong").click()
    assert page.locator("#count").inner_text() == "4 of 12"
    assert all("wrong" in text for text in texts(page, "#rows .image .verdict"))
    assert "show=wrong" in page.url
    page.locator("#outcome label", has_text="Failed").click()
    assert shown(page) == ["bird/000.png", "bird/007.png"]
    page.locator("#outcome label", has_text="All").click()
    page.locator("#search").fill("TENCH 004")
    assert shown(page) == ["bird/004.png"]
    page.locator("#search").fill("nothing like it")
    assert page.locator("#nothing").is_visible()
    page.locator("#reset").click()
    assert page.locator("#count").inner_text() == "12 of 12"
    page.locator("#class").select_option("3")
    assert "class=3" in page.url
    page.locator("#class").select_option("")
    page.locator("#sort").select_option("sure")
    sure = [float(t.split("%")[0].split()[-1]) for t in texts(page, "#rows .verdict") if "%" in t]
    assert sure == sorted(sure, reverse=True)
    page.locator("#sort").select_option("gap:ig")
    assert shown(page)[:2] == ["bird/011.png", "bird/010.png"]


def test_address_brings_the_view_back(visit: Callable[..., Any]) -> None:
    page = visit(images=12, hash="#show=wrong&sort=unsure&view=over&image=bird%2F002.png&method=ig")
    page.wait_for_selector("#sheet-map")
    assert page.locator("#large-title").inner_text() == "bird/002.png"
    assert page.locator('#tabs [aria-selected="true"]').inner_text() == "ig"
    page.keyboard.press("Escape")
    assert page.locator("#count").inner_text() == "4 of 12"
    assert page.locator('#view input[value="over"]').is_checked()
    until(page, "!location.hash.includes('image=')")


def test_keys_move_through_the_grid_and_the_large_view(visit: Callable[..., Any]) -> None:
    page = visit()
    page.locator("#view input").first.focus()
    page.keyboard.press("Tab")
    assert focused(page) == ("bird/000.png", "0")
    for key in ("ArrowDown", "ArrowRight", "ArrowRight", "ArrowDown", "ArrowUp"):
        page.keyboard.press(key)
    assert focused(page) == ("bird/001.png", "2")
    page.keyboard.press("Control+End")
    page.keyboard.press("End")
    assert focused(page) == ("bird/005.png", "4")
    page.keyboard.press("Control+Home")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    page.wait_for_selector("#sheet-map")
    assert page.locator("#large-title").inner_text() == "bird/000.png"
    assert page.evaluate("document.activeElement.id") == "tab-0"
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowDown")
    until(page, "document.activeElement.id === 'tab-1'")
    assert page.locator("#large-title").inner_text() == "bird/001.png"
    page.keyboard.press("Escape")
    # A dialog tells of its closing in a task of its own, after the browser gave the focus back to where it was before.
    until(page, "!location.hash.includes('image=')")
    assert focused(page) == ("bird/001.png", "2")
    page.keyboard.press("?")
    assert page.locator("#keys").is_visible()
    page.keyboard.press("Escape")
    until(page, "!document.querySelector('dialog[open]')")
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.id") == "search"


def test_large_view_shows_what_is_known_and_saves_pictures(visit: Callable[..., Any]) -> None:
    page = visit()
    page.locator(".image").nth(2).locator(".tile").nth(4).click()
    page.wait_for_selector("#sheet-map")
    side = page.locator("#side").inner_text()
    for words in ("owl", "wrong", "is crane, machine", "completeness gap", "7.5", "raw values", "32 × 32"):  # noqa: RUF001
        assert words in side
    assert page.locator("#side .bars tr").count() == 4
    page.locator("#opacity").fill("100")
    assert page.evaluate("document.getElementById('sheet-photo').style.opacity") == "0"
    page.locator("#opacity").fill("50")
    for what, name in (("photo", "bird_002.png"), ("map", "bird_002.ig.png"), ("mix", "bird_002.ig.over_photo.png")):
        with page.expect_download() as download:
            page.locator(f'[data-save="{what}"]').click()
        assert download.value.suggested_filename == name
        image = Image.open(io.BytesIO(Path(download.value.path()).read_bytes()))
        assert (image.format, image.size) == ("PNG", (32, 32))


def test_failed_maps_and_missing_photos_say_why(visit: Callable[..., Any]) -> None:
    page = visit(failed_maps=((0, "contrast"),), missing=(0,))
    row = page.locator(".image").first
    assert "no photo" in row.inner_text()
    assert "map unusable" in row.inner_text()
    assert row.locator("img").count() == 3
    row.locator(".tile").nth(2).click()
    page.wait_for_selector("#side h3")
    assert "The map is not finite." in page.locator("#sheet").inner_text()
    assert "The file is no longer where it was." in page.locator("#sheet").inner_text()
    assert page.locator("#opacity").is_disabled()


def test_models_and_targets_are_switched(visit: Callable[..., Any]) -> None:
    page = visit(models=TWO)
    first = page.locator(".image").first
    assert first.locator("img").count() == 5
    page.locator("#target").select_option(label="Maps for owl")
    until(page, "document.querySelector('.image img[alt^=gradient]').alt.endsWith('for owl')")
    assert "for=3" in page.url
    page.locator("#which").select_option("1")
    until(page, "document.querySelectorAll('.image')[0].querySelectorAll('img').length === 2")
    assert "model=new" in page.url
    assert not page.locator('[data-model="0"]').is_visible()
    page.keyboard.press("m")
    until(page, "document.querySelectorAll('.image')[0].querySelectorAll('img').length === 5")


def test_sidecars_come_as_they_are_needed(visit: Callable[..., Any]) -> None:
    page = visit(images=60, inline_bytes=9000)
    assert page.locator(".image").first.locator("img").count() == 5
    page.evaluate("document.querySelector('.image:last-child').scrollIntoView()")
    until(page, "document.querySelectorAll('.image:last-child img').length === 5")
    assert page.evaluate("document.querySelector('.image:last-child img').complete")
    assert page.locator("head script").count() >= 1


def test_columns_stand_side_by_side_or_below(visit: Callable[..., Any]) -> None:
    page = visit(1280)
    assert "stacked" not in page.locator("#grid").get_attribute("class")
    page.set_viewport_size({"width": 390, "height": 800})
    until(page, "document.getElementById('grid').classList.contains('stacked')")
    assert page.locator(".tile-name").first.is_visible()


def test_command_is_copied(visit: Callable[..., Any]) -> None:
    page = visit()
    page.locator(".made summary").click()
    page.locator("#copy").click()
    until(page, "/Copied|Selected/.test(document.getElementById('copy').textContent)")


def test_page_can_be_printed(visit: Callable[..., Any]) -> None:
    page = visit(images=10)
    page.emulate_media(media="print")
    page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    until(page, "document.querySelectorAll('.image img').length === 50")
    assert len(page.pdf()) > 10_000
