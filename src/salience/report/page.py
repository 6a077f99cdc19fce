"""Writing the page of a run."""

from __future__ import annotations

from pathlib import Path

from salience.report.bundles import INLINE_BYTES, Bundles
from salience.report.drawing import Drawing
from salience.report.frame import STYLES, render
from salience.report.gather import gather
from salience.report.payload import payload, safe_json
from salience.report.view import context
from salience.store.files import whole_file
from salience.store.run import open_run

SCRIPTS = ("types.js", "pictures.js", "filters.js", "grid.js", "large.js", "main.js")


def write_report(run_folder: str | Path, *, inline_bytes: int = INLINE_BYTES) -> Path:
    """Write ``report/index.html`` into a run directory, and its sidecars where there are many pictures.

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
    folder = run.folder / "report"
    material = gather(run)
    drawing = Drawing(material, Bundles(folder, inline_bytes))
    drawing.draw()
    text = _render(drawing)
    page = folder / "index.html"
    with whole_file(page) as file:
        file.write(text.encode())
    for old in folder.glob("data-*.js"):
        if old.name not in drawing.bundles.files:
            old.unlink(missing_ok=True)
    return page


def _render(drawing: Drawing) -> str:
    bundles = drawing.bundles
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
