"""The one registry of methods: a file in this folder with a registered class is all that a new method needs."""

from __future__ import annotations

import ast
import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import MISSING, fields
from functools import cache
from importlib.metadata import entry_points
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import salience.methods
from salience.engine.method import Labelled, Method, Traits
from salience.errors import MethodError, SalienceError, nearest

M = TypeVar("M", bound=type[Method])
_METHODS: dict[str, type[Method]] = {}
ENTRY_POINTS = "salience.methods"


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
        if name in _METHODS and _METHODS[name].__qualname__ != cls.__qualname__:
            raise MethodError(f"Two methods are called {name!r}: {_METHODS[name].__module__} and {cls.__module__}.")
        cls.traits = Traits(name, summary, family, signed, reference, details, stochastic, version)
        _METHODS[name] = cls
        return cls

    return add


@cache
def _load() -> None:
    for module in pkgutil.iter_modules(salience.methods.__path__):
        importlib.import_module(f"salience.methods.{module.name}")
    for entry in entry_points(group=ENTRY_POINTS):
        entry.load()


def methods() -> dict[str, type[Method]]:
    """Return every registered method by name: the files of this folder and the entry points of plug-ins."""
    _load()
    return dict(sorted(_METHODS.items(), key=lambda item: (item[1].traits.family, item[0])))


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
    head, *rest = text.strip().split(":")
    given: dict[str, Any] = {}
    words: list[str] = []
    for part in rest:
        key, equals, value = part.partition("=")
        if equals:
            given[key.strip().replace("-", "_")] = value.strip()
        else:
            words.append(part.strip())
    known = methods()
    cls = known.get(head)
    if cls is None:
        raise MethodError(
            f"There is no method {head!r}.{nearest(head, known)} 'salience list methods' shows all {len(known)}."
        )
    return Labelled(text.strip(), build(cls, words, {**given, **(settings or {})}))


def build(cls: type[Method], words: list[str], given: dict[str, Any]) -> Method:
    """Make a method from its class, positional words and settings, with errors for people."""
    name = cls.traits.name
    hints = get_type_hints(cls)
    own = {f.name: f for f in fields(cls)}  # type: ignore[arg-type]  # every method is a dataclass
    free = "options" in own  # an adapter that hands settings on
    first = [f for f in own.values() if f.default is MISSING and f.default_factory is MISSING]
    if len(words) != len(first):
        shape = ":".join([name, *(f.name.upper() for f in first)])
        raise MethodError(f"Method {name!r} is written {shape!r}; {len(words)} words were given behind its name.")
    values: dict[str, Any] = {f.name: w for f, w in zip(first, words, strict=True)}
    options: dict[str, Any] = {}
    for key, value in given.items():
        if key in own and key != "options":
            values[key] = _convert(name, key, value, hints[key])
        elif free:
            options[key] = _literal(value)
        else:
            settings = ", ".join(f"{f.name}={f.default}" for f in own.values()) or "none"
            raise MethodError(f"Method {name!r} has no setting {key!r}.{nearest(key, own)} It has: {settings}.")
    if free:
        values["options"] = tuple(sorted(options.items()))
    try:
        return cls(**values)
    except SalienceError as error:
        raise MethodError(f"Method {name!r}: {error}") from error


def _literal(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return value


def _convert(name: str, key: str, value: Any, hint: Any) -> Any:
    """Bring a setting to the type that the method declares."""
    if get_origin(hint) is Literal:
        allowed = get_args(hint)
        if value not in allowed:
            raise MethodError(f"Method {name!r}: {key} is {value!r}; choose one of {', '.join(map(str, allowed))}.")
        return value
    kinds = get_args(hint) or (hint,)
    if value is None and type(None) in kinds:
        return value
    try:
        if bool in kinds:
            if isinstance(value, bool):
                return value
            return {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}[str(value).lower()]
        if int in kinds:
            number = float(value)
            if number != int(number):
                raise ValueError
            return int(number)
        if float in kinds:
            return float(value)
    except (ValueError, KeyError, TypeError) as error:
        kind = next(k.__name__ for k in kinds if k in (bool, int, float))
        raise MethodError(f"Method {name!r}: {key} is {value!r}; a value of type {kind} is needed.") from error
    return str(value)
