"""What every verb does for a person at a terminal: errors, notes, interruptions, exit codes."""

from __future__ import annotations

import errno
import json
import traceback
import warnings
from collections.abc import Callable
from contextvars import ContextVar
from functools import wraps
from typing import Any, NoReturn, ParamSpec

import typer

from salience.errors import SalienceError, SalienceWarning

P = ParamSpec("P")

FAILURES = 1
UNUSABLE = 2
BUG = 70
INTERRUPTED = 130

_LOGS_JSON = ContextVar("log_json", default=False)


def told(verb: Callable[P, None]) -> Callable[P, None]:
    """Turn errors for people into one message and an exit code; only a bug shows where it happened."""

    @wraps(verb)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        _LOGS_JSON.set(bool(kwargs.get("log_json")))
        with warnings.catch_warnings():
            warnings.simplefilter("default", SalienceWarning)
            _show_warnings_as_notes()
            try:
                verb(*args, **kwargs)
            except SalienceError as error:
                stop(str(error), error.exit_code)
            except (typer.Exit, typer.Abort):
                raise
            except Exception as error:
                if isinstance(error, OSError) and error.errno == errno.EPIPE:  # the reader of a pipe went away
                    raise
                if isinstance(error, OSError) and error.strerror:
                    place = f"{error.filename}: " if error.filename else ""
                    stop(f"{place}{error.strerror}.", UNUSABLE)
                typer.echo(traceback.format_exc(), err=True, nl=False)
                stop("this is a bug. Please report the lines above, with what 'salience doctor' prints.", BUG)

    return run


def _show_warnings_as_notes() -> None:
    plain = warnings.showwarning

    def show(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
        if issubclass(category, SalienceWarning):
            tell("note", f"note: {message}")
        else:
            plain(message, category, *where, **more)

    warnings.showwarning = show


def stop(message: str, code: int) -> NoReturn:
    """Say what went wrong and end with an exit code."""
    tell("error", message, exit_code=code)
    raise typer.Exit(code)


def interrupted(out: str) -> NoReturn:
    """End after Ctrl-C, saying what is kept and how to carry on."""
    from salience.store.place import place_of

    if not (place_of(out) / "run.json").exists():
        stop("interrupted before anything was computed.", INTERRUPTED)
    stop(f"interrupted. Finished work is kept in {out}; run the same command again to carry on.", INTERRUPTED)


def tell(kind: str, message: str, **more: int) -> None:
    """Say something on stderr: as a line of JSON among the events where those are asked for."""
    if _LOGS_JSON.get():
        typer.echo(json.dumps({"event": kind, "message": message.removeprefix("note: "), **more}), err=True)
    else:
        typer.echo(f"salience: {message}", err=True)
