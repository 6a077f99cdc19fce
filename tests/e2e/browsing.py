"""Pages in a real browser: opening them, waiting for them, and axe."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import pytest

from salience.report import write_report

ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)


class Open(Protocol):
    """Opens a page, offline and without motion."""

    def __call__(self, path: Path, width: int, scheme: str, hash: str) -> Any: ...  # noqa: A002


@contextmanager
def opening(browser: Any) -> Iterator[Open]:
    """Open pages, and check at the end that nothing went wrong in their scripts."""
    troubles: list[str] = []
    contexts = []

    def go(path: Path, width: int, scheme: str, hash: str) -> Any:  # noqa: A002
        context = browser.new_context(
            viewport={"width": width, "height": 860}, color_scheme=scheme, reduced_motion="reduce", offline=True
        )
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(10_000)
        page.on("pageerror", lambda error: troubles.append(str(error)))
        page.on("console", lambda message: troubles.append(message.text) if message.type == "error" else None)
        page.goto(path.as_uri() + hash)
        return page

    yield go
    for context in contexts:
        context.close()
    assert not troubles


def until(page: Any, condition: str) -> None:
    """Wait for a condition; Playwright's own waiting is an eval, which the page's security policy forbids."""
    for _ in range(200):
        if page.evaluate(condition):
            return
        page.wait_for_timeout(25)
    raise AssertionError(f"never came true: {condition}")


def texts(page: Any, selector: str) -> list[str]:
    """Return the texts of elements as they are seen; rows that were just moved have none before the next frame."""
    found: list[str] = []
    for _ in range(200):
        found = page.locator(selector).all_inner_texts()
        if all(found):
            break
        page.wait_for_timeout(25)
    return found


def check_axe(page: Any) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")
    results = axe.Axe().run(page)
    assert results.violations_count == 0, results.generate_report()


@cache
def written(folder: Path, inline_bytes: int) -> Path:
    """Return the page of a run, written once: beside the run, since another size would take its place."""
    report = write_report(folder, inline_bytes=inline_bytes).parent
    kept = folder.parent / f"report-{inline_bytes}"
    shutil.copytree(report, kept)
    return kept / "index.html"
