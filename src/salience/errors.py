"""Errors for people: what was given, what was expected, what to do.

Everything that the package raises on purpose is a :class:`SalienceError`; the command line prints its message
without a traceback and exits with :attr:`SalienceError.exit_code`.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class SalienceError(Exception):
    """Something that the person at the keyboard can mend; the message says how."""

    exit_code = 2


class ImagesError(SalienceError):
    """The images, their manifest or their labels cannot be used."""


class ModelError(SalienceError):
    """The model, its card or its weights cannot be used, or it answered with something unusable."""


class MethodError(SalienceError):
    """A method is unknown, has no such setting, or needs what the model does not have."""


class MetricError(SalienceError):
    """A metric or background is unknown, has no such setting, or cannot score these maps."""


class SettingsError(SalienceError):
    """A setting of the run (target, output, device, sizes) has no meaning here."""


class RunError(SalienceError):
    """A run directory is missing, of another kind, newer than this version, or cannot be written."""


class SalienceWarning(UserWarning):
    """A result that is there, but that should be read with care."""


def nearest(name: str, known: Iterable[str]) -> str:
    """Return `` Did you mean 'x' or 'y'?`` for a mistyped name, or an empty string where nothing is near."""
    close = difflib.get_close_matches(name, list(known), n=3, cutoff=0.5)
    return f" Did you mean {' or '.join(repr(c) for c in close)}?" if close else ""
