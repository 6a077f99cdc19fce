"""The command line: one file a verb, thin: parse, call the public function, print."""

from __future__ import annotations

from salience.cli import (  # isort: skip  # the order of the help
    explain,  # noqa: F401
    evaluate,  # noqa: F401
    audit,  # noqa: F401
    compare,  # noqa: F401
    train,  # noqa: F401
    report,  # noqa: F401
    serve,  # noqa: F401
    merge,  # noqa: F401
    status,  # noqa: F401
    listing,  # noqa: F401
    bench,  # noqa: F401
    demo,  # noqa: F401
)
from salience.cli.app import app

__all__ = ["app", "main"]


def main() -> None:
    """Run the command line."""
    app()
