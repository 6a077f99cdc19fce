"""Writing the page of a run."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from salience.behaviour.audit import read_audit
from salience.comparison.result import Comparison, read_comparison
from salience.errors import RunError
from salience.report.behaviour.page import render_audit
from salience.report.bundles import INLINE_BYTES, Bundles
from salience.report.comparison.page import render_comparison
from salience.report.drawing import Drawing
from salience.report.frame import STYLES, Link, Links, render
from salience.report.gather import gather
from salience.report.payload import payload, safe_json
from salience.report.trust.page import render_scores
from salience.report.view import context
from salience.scores import Scores, read_scores
from salience.store.files import whole_file
from salience.store.place import Place, place_of
from salience.store.run import Run, open_run

SCRIPTS = ("dom.js", "page.js", "types.js", "pictures.js", "keys.js", "filters.js", "grid.js", "large.js", "main.js")


def write_report(run_folder: str | Place, out: str | Place | None = None, *, inline_bytes: int = INLINE_BYTES) -> Place:
    """Write ``report/index.html`` into a run directory, and its sidecars where there are many pictures.

    Beside it stand the pages of what else was done in the run: ``index.html`` is the page of the last stage (scores of
    maps), the others lead to the earlier ones, down to the maps.

    Parameters
    ----------
    run_folder
        A run directory, a path or a URL; it may be unfinished.
    out
        Another folder for the page than the run's own ``report``: of a run on an object store, one of this machine.
        Other files in it stay.
    inline_bytes
        Up to this many bytes of pictures, all of them are inside the page. Beyond it the page keeps the first screen
        and loads the others from ``data-*.js`` beside it as they come into view.

    Returns
    -------
    Path or ObjectPath
        The page.

    Raises
    ------
    RunError
        When there is no run, or the page cannot be written.
    """
    run = open_run(run_folder)
    folder = run.folder / "report" if out is None else place_of(out)
    chosen = [page for page in PAGES if page.stage is None or _shown(run.info.get("stages", {}).get(page.stage))]
    names = ["index.html", *(page.file for page in chosen[1:])]
    sidecars: set[str] = set()
    for page, name in zip(chosen, names, strict=True):
        bundles = Bundles(folder, inline_bytes)
        links = tuple(Link(p.title, n, p is page) for p, n in zip(chosen, names, strict=True))
        text = page.render(run, bundles, links)
        with whole_file(folder / name) as file:
            file.write(text.encode())
        sidecars |= set(bundles.files)
    for old in folder.glob("*") if out is None else ():
        if old.suffix in (".html", ".js") and old.name not in sidecars | set(names):
            old.unlink(missing_ok=True)  # of an earlier page
    return folder / "index.html"


def write_scores(scores: Scores, path: str | Path | None = None) -> Place:
    """Write the page of scores: into their run, or to ``path``, with everything in the one file.

    Raises
    ------
    RunError
        When there is neither a run nor a path, or the page cannot be written.
    """
    if path is not None:
        page = Path(path)
        bundles = Bundles(page.parent, sys.maxsize)
        text = render_scores(scores, bundles)
        with whole_file(page) as file:
            file.write(text.encode())
        return page
    if scores.run is None:
        raise RunError("These scores are in memory only: give the path of the page, or evaluate with out=RUN.")
    return write_report(scores.run.folder)


def write_comparison(comparison: Comparison, path: str | Path | None = None) -> Place:
    """Write the page of a comparison: into its run, or to ``path``, with everything in the one file.

    Raises
    ------
    RunError
        When the page cannot be written.
    """
    if path is None:
        return write_report(comparison.run.folder)
    page = Path(path)
    bundles = Bundles(page.parent, sys.maxsize)
    text = render_comparison(comparison, bundles)
    with whole_file(page) as file:
        file.write(text.encode())
    return page


def _shown(stage: Mapping[str, Any] | None) -> bool:
    """Tell whether a stage has results to show; what is whole or nothing says so itself."""
    return stage is not None and bool(stage.get("complete", True))


def _render_comparison(run: Run, bundles: Bundles, links: Links) -> str:
    return render_comparison(read_comparison(run), bundles, links)


def _render_audit(run: Run, bundles: Bundles, links: Links) -> str:
    return render_audit(read_audit(run), bundles, links)


def _render_evaluation(run: Run, bundles: Bundles, links: Links) -> str:
    return render_scores(read_scores(run), bundles, links)


def _render_maps(run: Run, bundles: Bundles, links: Links) -> str:
    drawing = Drawing(gather(run), bundles)
    drawing.draw()
    data = payload(drawing.material, drawing.ranges, drawing.missing, drawing.damaged, bundles.places, bundles.files)
    return render(
        "page.html.j2",
        styles=(*STYLES, "page.css"),
        scripts=SCRIPTS,
        links=links,
        files=bundles.files,
        payload=safe_json(data),
        pictures=safe_json(bundles.inline),
        **context(drawing.material),
    )


@dataclass(frozen=True)
class Page:
    """A kind of page: the stage whose results it shows (None: the maps), and how it is rendered."""

    stage: str | None
    title: str
    file: str
    render: Callable[[Run, Bundles, Links], str]


PAGES = (
    Page("compare", "Comparison", "comparison.html", _render_comparison),
    Page("audit", "Behaviour", "behaviour.html", _render_audit),
    Page("evaluate", "Trust", "trust.html", _render_evaluation),
    Page(None, "Maps", "maps.html", _render_maps),
)
"""The most telling first: that one is ``index.html``."""
