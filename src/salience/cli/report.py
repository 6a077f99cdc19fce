"""``salience report``."""

from __future__ import annotations

from typing import Annotated

import typer

from salience.cli.app import app
from salience.cli.inputs import write_page
from salience.cli.options import Run
from salience.cli.shell import told


@app.command(epilog="Examples:\n\nsalience report runs/first\n\nsalience report s3://bucket/run --out pages")
@told
def report(
    run: Run,
    out: Annotated[
        str | None, typer.Option("--out", "-o", metavar="FOLDER", help="Write it there.  [default: into the run]")
    ] = None,
) -> None:
    """Write the page of a run again, and say where it is."""
    typer.echo(str(write_page(run, out)))
