"""How long the pages of finished runs take to open in headless Chromium, offline and with an empty cache.

    python benchmarks/pages.py runs/trust runs/compared [--rounds 5] [--width 1280] [--json]

A row a page: its megabytes, with the files beside it that it names; how many patches of concepts it can show;
milliseconds until the document can be used (DOMContentLoaded, scripts run),
until all that it asks for at once is there (load), and until its largest visible element is painted. Medians; every
round is a browser of its own, so nothing is remembered.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import statistics
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from playwright.sync_api import Playwright, sync_playwright

PATCH = re.compile(r'"s[0-9]+\.[0-9]+"')
"""How a page names a patch: by its image and its segment."""
TIMES = """() => new Promise(done => {
  const load = performance.getEntriesByType('navigation')[0]
  new PerformanceObserver(seen => done({
    usable_ms: load.domContentLoadedEventEnd, load_ms: load.loadEventEnd, painted_ms: seen.getEntries().at(-1).startTime
  })).observe({type: 'largest-contentful-paint', buffered: true})
})"""


@dataclass(frozen=True)
class Opened:
    """A page, and the milliseconds that it takes to open."""

    page: str
    megabytes: float
    patches: int
    usable_ms: float
    load_ms: float
    painted_ms: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--width", type=int, default=1280)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    found = [page for run in given.runs for page in sorted((run / "report").glob("*.html"))]
    if not found:
        parser.error("no page in these runs: 'salience report RUN' makes it")
    with sync_playwright() as tool:
        rows = [measured(tool, page, given.rounds, given.width) for page in found]
    print(json.dumps([asdict(row) for row in rows], indent=2) if given.json else markdown(rows))


def measured(tool: Playwright, path: Path, rounds: int, width: int) -> Opened:
    """Open a page so many times and return the medians."""
    times: list[dict[str, float]] = []
    for _ in range(rounds):
        browser = tool.chromium.launch(executable_path=chromium(), args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_context(viewport={"width": width, "height": 860}, offline=True).new_page()
        page.goto(path.resolve().as_uri())
        times.append(page.evaluate(TIMES))
        browser.close()
    middle: dict[str, Any] = {name: round(statistics.median(t[name] for t in times), 1) for name in times[0]}
    text = path.read_text(encoding="utf-8")
    files = [path, *(p for p in path.parent.glob("data-*") if p.name in text)]
    size = sum(p.stat().st_size for p in files)
    return Opened(f"{path.parents[1].name}/{path.name}", round(size / 1e6, 1), len(set(PATCH.findall(text))), **middle)


def chromium() -> str | None:
    """Return where Chromium is, or None for playwright's own."""
    return next((p for p in map(shutil.which, ("chromium", "chromium-browser", "google-chrome")) if p), None)


def markdown(rows: list[Opened]) -> str:
    """Return the pages as a table."""
    lines = ["| page | MB | patches | usable, ms | loaded, ms | painted, ms |", "|---|---|---|---|---|---|"]
    for r in rows:
        times = f"{r.usable_ms:.0f} | {r.load_ms:.0f} | {r.painted_ms:.0f}"
        lines.append(f"| {r.page} | {r.megabytes} | {r.patches} | {times} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
