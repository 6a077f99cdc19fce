"""What is known of an object without reading it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

Version = tuple[str | None, str | None]
"""ETag and generation: stores name the version of an object by one of them, or by both."""

CLAIM = "claim"
"""Attribute of what a run's writer wrote: its claim, a number that is larger than those of all before, and a token."""


@dataclass(frozen=True)
class Entry:
    """An object as the store lists it.

    Attributes
    ----------
    version
        Which of the object's versions it is.
    changed
        When it was written, by the store's clock.
    """

    key: str
    size: int
    version: Version
    changed: datetime
    attributes: Mapping[str, str] = field(default_factory=dict)

    @property
    def claim(self) -> int:
        """The number of the claim under which it was written, 0 where there was none."""
        return claim_number(self.attributes)


def claim_number(attributes: Mapping[str, str] | None) -> int:
    """Return the number of the claim that attributes name, 0 where they name none."""
    number = (attributes or {}).get(CLAIM, "").partition(".")[0]
    return int(number) if number.isdecimal() else 0


def entry_of(meta: Any, attributes: Mapping[Any, Any] | None = None) -> Entry:
    """Return the entry of what obstore tells of an object."""
    found = {str(name): str(value) for name, value in (attributes or {}).items()}
    return Entry(meta["path"], meta["size"], (meta["e_tag"], meta["version"]), meta["last_modified"], found)
