"""The one registry of conditions: a file in this folder with a registered class is all that a new family needs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from salience.behaviour.conditions.condition import Condition, Family, Kind
from salience.engine.registry import Registry
from salience.errors import SettingsError, nearest

C = TypeVar("C", bound=type[Condition])
_REGISTRY: Registry[Condition] = Registry("condition", "salience.behaviour.conditions", SettingsError)
FAMILIES: tuple[Family, ...] = ("noise", "corruption", "geometry", "guided")
_MEMBERS: dict[str, Callable[[], Sequence[Condition]]] = {}


def register(
    name: str,
    members: Callable[[], Sequence[Condition]],
    *,
    family: Family,
    measure: str,
    summary: str,
    reference: str,
    details: str,
    published: bool = False,
    drawn: bool = False,
    version: int = 1,
) -> Callable[[C], C]:
    """Register a frozen dataclass as a kind of conditions; ``members`` makes those that an audit has.

    See :class:`~salience.behaviour.conditions.condition.Kind` for the rest.
    """

    def add(cls: C) -> C:
        _REGISTRY.add(name, cls)
        cls.kind = Kind(name, family, measure, summary, reference, details, published, drawn, version)
        _MEMBERS[name] = members
        return cls

    return add


def conditions(measures: Sequence[str] | None = None) -> dict[str, Condition]:
    """Return the conditions that measures read, by name; all of them where None.

    Raises
    ------
    SettingsError
        When two have one name, or a name cannot be one.
    """
    found: dict[str, Condition] = {}
    kinds = _REGISTRY.every()
    for kind in sorted(kinds, key=lambda k: (FAMILIES.index(kinds[k].kind.family), k)):
        if measures is not None and kinds[kind].kind.measure not in measures:
            continue
        for condition in _MEMBERS[kind]():
            if condition.name in found or "@" in condition.name:
                raise SettingsError(
                    f"The condition {condition.name!r} of {kind!r} needs another name: each has its own, without '@'."
                )
            found[condition.name] = condition
    return found


def find_condition(name: str) -> Condition:
    """Return the condition of a name.

    Raises
    ------
    SettingsError
        When there is none; the message tells the nearest names.
    """
    known = conditions()
    if name not in known:
        raise SettingsError(f"There is no condition {name!r}.{nearest(name, known)} They are: {', '.join(known)}.")
    return known[name]
