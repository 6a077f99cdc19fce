"""``salience merge``."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from salience.cli.app import app
from salience.cli.inputs import write_page
from salience.cli.options import Json, Report
from salience.cli.shell import told
from salience.cli.status import print_status


@app.command(
    epilog="Example, parts of the images explained on three machines:\n\n"
    "salience explain photos/ -m card.toml --shard 1/3 --out part1   (and 2/3, 3/3 elsewhere)\n\n"
    "salience merge part1 part2 part3 --out runs/all"
)
@told
def merge(
    runs: Annotated[
        list[str], typer.Argument(metavar="RUN...", help="Runs of parts of the images, or of other methods.")
    ],
    out: Annotated[
        str, typer.Option("--out", "-o", metavar="FOLDER|URL", help="The run of all; they stay as they are.")
    ],
    report: Report = True,
    as_json: Json = False,
) -> None:
    """Join runs over parts of the images, or with other methods or models over the same ones, into one."""
    from salience.store.merge import merge_runs
    from salience.store.status import read_status

    merge_runs(list(runs), out)
    page = write_page(out) if report else None
    found = read_status(out)
    if as_json:
        typer.echo(json.dumps({**found.to_dict(), "page": None if page is None else str(page)}, indent=2))
        return
    print_status(found)
    if page is not None:
        typer.echo(f"page: {page}")
