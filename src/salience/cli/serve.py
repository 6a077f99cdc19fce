"""``salience serve``."""

from __future__ import annotations

import contextlib
from typing import Annotated

import typer

from salience.cli.app import app
from salience.cli.options import Run
from salience.cli.shell import told


@app.command(epilog="Example:\n\nsalience serve runs/first --port 8080")
@told
def serve(
    run: Run,
    host: Annotated[str, typer.Option(help="Address to listen on; others than this machine's open it to the net.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8000,
) -> None:
    """Show the pages of a run in a browser, also from another machine through a tunnel: read-only, until Ctrl-C."""
    from salience.report.server import is_local
    from salience.report.server import serve as start

    with start(run, host, port) as server:
        where = f"http://{host}:{server.server_address[1]}/"
        note = "" if is_local(host) else " (anyone who reaches this machine can read it)"
        typer.echo(f"{where}{note}; Ctrl-C ends it.")
        with contextlib.suppress(KeyboardInterrupt):
            server.serve_forever()
