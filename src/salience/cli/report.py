"""``salience report``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from salience.cli.app import app
from salience.cli.inputs import write_page
from salience.cli.shell import told


@app.command(epilog="Example:\n\nsalience report runs/first")
@told
def report(run: Annotated[Path, typer.Argument(help="A run directory.")]) -> None:
    """Write the page of a run again, and say where it is."""
    typer.echo(str(write_page(run)))
