"""The command line: one file a verb, thin: parse, call the public function, print."""

from __future__ import annotations

from salience.cli import explain, evaluate, report, listing, bench, demo  # isort: skip  # noqa: F401  # the order of the help
from salience.cli.app import app

__all__ = ["app", "main"]


def main() -> None:
    """Run the command line."""
    app()
