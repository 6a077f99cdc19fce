"""What the page of an audit reads, once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow.compute as pc

from salience.behaviour.audit import Audit
from salience.behaviour.reading import RunView
from salience.behaviour.traits import Statistic
from salience.behaviour.view import Floats
from salience.errors import SettingsError

Row = Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class Material:
    """An audit, ready to be shown."""

    audit: Audit

    @cached_property
    def groups(self) -> tuple[str, ...]:
        """Names of the groups: the first is what the others are compared with; its place is its colour."""
        return tuple(self.audit.groups)

    @property
    def reference(self) -> str:
        """The first group."""
        return self.groups[0]

    @cached_property
    def view(self) -> RunView:
        """The maps."""
        return RunView(self.audit.run)

    @cached_property
    def _effects(self) -> dict[tuple[str, str, str, str, str, bool], Row]:
        rows = self.audit.effects.to_pylist()
        return {
            (
                *(r[c] for c in ("measure", "form", "statistic", "condition", "group")),
                r["reference"] is not None,
            ): r
            for r in rows
        }

    def mean(self, of: Statistic, condition: str, group: str) -> Row | None:
        """Return the row of a group's mean."""
        return self._effects.get((*of.key, condition, group, False))

    def difference(self, of: Statistic, condition: str, group: str) -> Row | None:
        """Return the row of a group's difference from the reference."""
        return self._effects.get((*of.key, condition, group, True))

    def conditions(self, of: Statistic) -> list[str]:
        """Return the conditions that a statistic has means under, in the order of the table."""
        key = of.key
        return list(dict.fromkeys(k[3] for k in self._effects if k[:3] == key and not k[5]))

    def has(self, of: Statistic) -> bool:
        """Tell whether any group has a mean of a statistic."""
        return bool(self.conditions(of))

    def by_image(self, of: Statistic, condition: str, group: str) -> Floats:
        """Return a number for each image: the mean over the group's runs; empty where there are none."""
        try:
            rows = self.audit.rows(of, condition=condition, group=group)
        except SettingsError:
            return np.zeros(0)
        rows = rows.filter(pc.is_valid(rows["image_id"]))
        found: Floats = rows.group_by("image_id").aggregate([("value", "mean")])["value_mean"].to_numpy()
        return found
