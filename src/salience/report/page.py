"""Writing the page of a run."""

from __future__ import annotations

import sys
from pathlib import Path

from salience.errors import RunError
from salience.report.bundles import INLINE_BYTES, Bundles
from salience.report.drawing import Drawing
from salience.report.frame import STYLES, render
from salience.report.gather import gather
from salience.report.payload import payload, safe_json
from salience.report.trust.page import render_scores
from salience.report.view import context
from salience.scores import Scores, read_scores
from salience.store.files import whole_file
from salience.store.run import Run, open_run

SCRIPTS = ("dom.js", "types.js", "pictures.js", "keys.js", "filters.js", "grid.js", "large.js", "main.js")


def write_report(run_folder: str | Path, *, inline_bytes: int = INLINE_BYTES) -> Path:
    """Write ``report/index.html`` into a run directory, and its sidecars where there are many pictures.

    A run that was evaluated gets the page of its scores, another one that of its maps.

    Parameters
    ----------
    run_folder
        A run directory; it may be unfinished.
    inline_bytes
        Up to this many bytes of pictures, all of them are inside the page. Beyond it the page keeps the first screen
        and loads the others from ``data-*.js`` beside it as they come into view.

    Returns
    -------
    Path
        The page.

    Raises
    ------
    RunError
        When there is no run, or the page cannot be written.
    """
    run = open_run(run_folder)
    bundles = Bundles(run.folder / "report", inline_bytes)
    evaluated = "evaluate" in run.info.get("stages", {})
    text = render_scores(read_scores(run), bundles) if evaluated else _render_maps(run, bundles)
    return _publish(run.folder / "report" / "index.html", text, bundles)


def write_scores(scores: Scores, path: str | Path | None = None) -> Path:
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
    bundles = Bundles(scores.run.folder / "report")
    return _publish(scores.run.folder / "report" / "index.html", render_scores(scores, bundles), bundles)


def _publish(page: Path, text: str, bundles: Bundles) -> Path:
    """Write the page beside its sidecars, and remove those of an earlier one."""
    with whole_file(page) as file:
        file.write(text.encode())
    for old in page.parent.glob("data-*.js"):
        if old.name not in bundles.files:
            old.unlink(missing_ok=True)
    return page


def _render_maps(run: Run, bundles: Bundles) -> str:
    drawing = Drawing(gather(run), bundles)
    drawing.draw()
    data = payload(drawing.material, drawing.ranges, drawing.missing, drawing.damaged, bundles.places, bundles.files)
    return render(
        "page.html.j2",
        styles=(*STYLES, "page.css"),
        scripts=SCRIPTS,
        files=bundles.files,
        payload=safe_json(data),
        pictures=safe_json(bundles.inline),
        **context(drawing.material),
    )
