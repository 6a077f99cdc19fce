"""What can be named on a command line: classes by name, with their settings, one registry for each room.

A room is a package whose files register frozen dataclasses; plug-ins add theirs through an entry point group of the
package's name.
"""

from __future__ import annotations

import ast
import importlib
import pkgutil
from dataclasses import MISSING, fields
from importlib.metadata import entry_points
from typing import Any, Generic, Literal, TypeVar, get_args, get_origin, get_type_hints

from salience.errors import SalienceError, nearest

T = TypeVar("T")


class Registry(Generic[T]):
    """The classes of a room by name.

    Parameters
    ----------
    noun
        What messages call one of them: ``method``, ``metric``.
    package
        Where the files are, and the name of the entry point group: ``salience.methods``.
    error
        What is raised.
    """

    def __init__(self, noun: str, package: str, error: type[SalienceError]) -> None:
        self.noun = noun
        self.package = package
        self.error = error
        self._classes: dict[str, type[T]] = {}
        self._loaded = False

    def add(self, name: str, cls: type[T]) -> None:
        """Register ``cls`` under ``name``; a module that is imported again replaces its own class."""
        known = self._classes.get(name)
        if known is not None and known.__qualname__ != cls.__qualname__:
            raise self.error(f"Two {self.noun}s are called {name!r}: {known.__module__} and {cls.__module__}.")
        self._classes[name] = cls

    def every(self) -> dict[str, type[T]]:
        """Return every class by name: the files of the room and the entry points of plug-ins."""
        if not self._loaded:
            self._loaded = True
            for module in pkgutil.iter_modules(importlib.import_module(self.package).__path__):
                importlib.import_module(f"{self.package}.{module.name}")
            for entry in entry_points(group=self.package):
                entry.load()
        return dict(self._classes)

    def parse(self, text: str, settings: dict[str, Any] | None = None) -> T:
        """Make what ``name``, ``name:word`` or ``name:setting=value:setting=value`` names.

        Raises
        ------
        SalienceError
            Of the room's kind, when there is no such name (nearest names are told) or setting, or a value does not
            fit.
        """
        head, words, given = split(text)
        known = self.every()
        if head not in known:
            raise self.unknown(head, known)
        return self.build(head, words, {**given, **(settings or {})})

    def unknown(self, name: str, known: Any) -> SalienceError:
        """Return the error for a name that is none of ``known``."""
        noun = self.noun
        return self.error(
            f"There is no {noun} {name!r}.{nearest(name, known)} 'salience list {noun}s' shows all {len(known)}."
        )

    def build(self, name: str, words: list[str], given: dict[str, Any]) -> T:
        """Make one from positional words and settings, with errors for people."""
        cls, title = self._classes[name], f"{self.noun.capitalize()} {name!r}"
        hints = get_type_hints(cls)
        own = {f.name: f for f in fields(cls)}  # type: ignore[arg-type]  # all are dataclasses
        free = "options" in own  # an adapter that hands settings on
        first = [f for f in own.values() if f.default is MISSING and f.default_factory is MISSING]
        if len(words) != len(first):
            shape = ":".join([name, *(f.name.upper() for f in first)])
            raise self.error(f"{title} is written {shape!r}; {len(words)} words were given behind its name.")
        values: dict[str, Any] = {f.name: w for f, w in zip(first, words, strict=True)}
        options: dict[str, Any] = {}
        for key, value in given.items():
            if key in own and key != "options":
                values[key] = self._convert(title, key, value, hints[key])
            elif free:
                options[key] = _literal(value)
            else:
                settings = ", ".join(f"{f.name}={f.default}" for f in own.values()) or "none"
                raise self.error(f"{title} has no setting {key!r}.{nearest(key, own)} It has: {settings}.")
        if free:
            values["options"] = tuple(sorted(options.items()))
        try:
            return cls(**values)
        except SalienceError as error:
            raise self.error(f"{title}: {error}") from error

    def _convert(self, title: str, key: str, value: Any, hint: Any) -> Any:
        """Bring a setting to the type that its field declares."""
        if get_origin(hint) is Literal:
            allowed = get_args(hint)
            if value not in allowed:
                raise self.error(f"{title}: {key} is {value!r}; choose one of {', '.join(map(str, allowed))}.")
            return value
        kinds = get_args(hint) or (hint,)
        if value is None and type(None) in kinds:
            return value
        if any(get_origin(k) is Literal and value in get_args(k) for k in kinds):  # a word beside numbers
            return value
        try:
            if bool in kinds:
                if isinstance(value, bool):
                    return value
                words = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
                return words[str(value).lower()]
            if int in kinds:
                number = float(value)
                if number != int(number):
                    raise ValueError
                return int(number)
            if float in kinds:
                return float(value)
        except (ValueError, KeyError, TypeError) as error:
            kind = next(k.__name__ for k in kinds if k in (bool, int, float))
            raise self.error(f"{title}: {key} is {value!r}; a value of type {kind} is needed.") from error
        return str(value)


def split(text: str) -> tuple[str, list[str], dict[str, Any]]:
    """Split ``name:word:setting=value`` into name, words and settings."""
    head, *rest = text.strip().split(":")
    given: dict[str, Any] = {}
    words: list[str] = []
    for part in rest:
        key, equals, value = part.partition("=")
        if equals:
            given[key.strip().replace("-", "_")] = value.strip()
        else:
            words.append(part.strip())
    return head, words, given


def _literal(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return value
