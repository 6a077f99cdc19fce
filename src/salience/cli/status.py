"""``salience status`` and ``salience resume``: how far a run is, and going on with it."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from salience.cli.app import app
from salience.cli.options import Json, Run
from salience.cli.shell import told
from salience.errors import RunError

if TYPE_CHECKING:
    from salience.store.status import Status


@app.command(epilog="Examples:\n\nsalience status runs/first\n\nsalience status runs/first --json")
@told
def status(run: Run, as_json: Json = False) -> None:
    """Show how far a run is: what is done, what failed, whether it is being written, and how to carry on."""
    from salience.store.status import read_status

    found = read_status(run)
    if as_json:
        typer.echo(json.dumps(found.to_dict(), indent=2))
    else:
        print_status(found)


@app.command(epilog="Example:\n\nsalience resume runs/first")
@told
def resume(
    run: Run,
    take_over: Annotated[
        bool,
        typer.Option(
            "--take-over",
            help="On an object store: take the run at once from a command that is dead and seems to write it.",
        ),
    ] = False,
) -> None:
    """Carry on with a run that was interrupted or killed: type its last command again, where it was typed."""
    from salience.store.place import place_of, storage
    from salience.store.status import read_status

    if take_over:
        folder = place_of(run)
        storage(folder).free(folder)
    found = read_status(run)
    if found.state == "running":
        raise RunError(f"Another process is writing {run} now: 'salience status {run}' shows how far it is.")
    if not found.command:
        raise RunError(f"{run} was not made from the command line: call the same function again to carry on.")
    if not Path(found.directory).is_dir():
        raise RunError(
            f"{run} was made in {found.directory or 'a folder that it does not name'}, which is not there. Type its "
            f"command where its paths hold: {' '.join(found.command)}"
        )
    os.chdir(found.directory)
    typer.echo(f"salience: {' '.join(found.command)}", err=True)
    sys.argv = list(found.command)  # the run records what was typed, which is this and not 'resume'
    app(sys.argv[1:])


def print_status(found: Status) -> None:
    """Print how far a run is, and how to carry on."""
    from salience.listing import console_of_output, print_rows
    from salience.progress import counted, duration

    console = console_of_output()
    state = {"killed": "killed: no process writes it, and the last one could not say how it ended"}
    console.print(f"{found.folder}: {found.kind}, {state.get(found.state, found.state)}", highlight=False, markup=False)
    rows = [
        {"model": s.model, "what": s.what, "done": s.done, "of": s.images, "failed": s.failed or ""}
        for s in found.shares
    ]
    if rows:
        print_rows(rows)
    size = f"{found.size / 2**20:.1f} MiB" if found.size < 2**30 else f"{found.size / 2**30:.1f} GiB"
    work = f"{counted(found.units, 'unit')}, {duration(found.seconds)} of work, {size}, last written {found.updated}"
    console.print(work, highlight=False, markup=False)
    if found.state in ("killed", "interrupted", "failed") and found.command:
        console.print(f"carry on: salience resume {found.folder}", highlight=False, markup=False)
