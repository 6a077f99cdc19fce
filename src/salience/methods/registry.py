"""The one registry of methods: a file in this folder with a registered class is all that a new method needs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from salience.engine.method import Labelled, Method, Traits
from salience.engine.registry import Registry
from salience.errors import MethodError

M = TypeVar("M", bound=type[Method])
_REGISTRY: Registry[Method] = Registry("method", "salience.methods", MethodError)


def register(
    name: str,
    *,
    summary: str,
    family: str,
    signed: bool,
    reference: str,
    details: str = "",
    stochastic: bool = False,
    version: int = 1,
) -> Callable[[M], M]:
    """Register a frozen dataclass as the method ``name``; see :class:`~salience.engine.method.Traits`."""

    def add(cls: M) -> M:
        _REGISTRY.add(name, cls)
        cls.traits = Traits(name, summary, family, signed, reference, details, stochastic, version)
        return cls

    return add


def methods() -> dict[str, type[Method]]:
    """Return every registered method by name: the files of this folder and the entry points of plug-ins."""
    return dict(sorted(_REGISTRY.every().items(), key=lambda item: (item[1].traits.family, item[0])))


def parse_method(text: str, settings: dict[str, Any] | None = None) -> Labelled:
    """Read ``name`` or ``name:setting=value:setting=value``, or ``captum:Class:setting=value``.

    Parameters
    ----------
    text
        As the command line gives it.
    settings
        Further settings as Python values.

    Raises
    ------
    MethodError
        When there is no such method (nearest names are told) or setting, or a value does not fit.
    """
    return Labelled(text.strip(), _REGISTRY.parse(text, settings))
