"""``salience list`` and ``salience doctor``: what there is, and whether it works."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Annotated, Any

import typer

from salience.cli.app import app
from salience.cli.options import Json
from salience.cli.shell import FAILURES, told
from salience.errors import SettingsError


@app.command(
    "list", epilog="Examples:\n\nsalience list methods\n\nsalience list metrics\n\nsalience list models --json"
)
@told
def list_(
    what: Annotated[str, typer.Argument(help="methods, metrics or models.")],
    as_json: Json = False,
) -> None:
    """List the methods or the metrics, with their settings, or the ways to load a model."""
    from salience.listing import method_rows, metric_rows, model_rows, print_methods, print_metrics, print_rows

    tables: dict[str, Callable[[], list[dict[str, Any]]]] = {
        "methods": method_rows,
        "metrics": metric_rows,
        "models": model_rows,
    }
    if what not in tables:
        raise SettingsError(f"There is no list of {what!r}; choose methods, metrics or models.")
    rows = tables[what]()
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
    elif what == "methods":
        print_methods(rows)
    elif what == "metrics":
        print_metrics(rows)
    else:
        print_rows(rows)


@app.command(epilog="Example:\n\nsalience doctor --json > doctor.json")
@told
def doctor(as_json: Json = False) -> None:
    """Check the installation: versions, devices, optional packages, and a map with a known answer."""
    from salience.listing import diagnosis, print_diagnosis

    found = diagnosis()
    if as_json:
        typer.echo(json.dumps(found, indent=2))
    else:
        print_diagnosis(found)
    if not found["healthy"]:
        raise typer.Exit(FAILURES)
