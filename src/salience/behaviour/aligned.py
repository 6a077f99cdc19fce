"""The audit's view with the way back from changes of geometry: what the numbers are computed from."""

from __future__ import annotations

import numpy as np

from salience.behaviour.conditions.condition import GeometryCondition
from salience.behaviour.conditions.registry import find_condition
from salience.behaviour.reading import RunView
from salience.behaviour.resampling import enlarge
from salience.behaviour.view import Aligned, Array


class AlignedView(RunView):
    """An audit's run directory, whose maps of changed images can be compared with those of clean ones."""

    def align(self, model: str, condition: str, clean: Array, changed: Array) -> Aligned:
        """Bring native maps (n, h, w) of clean and changed images onto one grid, and undo the change.

        Flips and right angles are undone exactly, on the native grid. Other changes of geometry are undone on maps
        that are enlarged to the input (bicubic). Maps under a guided condition are enlarged; nothing is undone.
        Where the condition cannot be made of the model's input, there is nothing to compare with: NaN.
        """
        found = find_condition(condition)
        if not found.fits(self.input_size(model)):  # no image was changed so
            absent = np.full_like(clean, np.nan)
            return Aligned(clean, absent, absent, np.ones(clean.shape[-2:], dtype=np.bool_))
        if found.kind.family == "guided" or (isinstance(found, GeometryCondition) and not found.exact):
            size = self.input_size(model)
            clean, changed = enlarge(clean, size), enlarge(changed, size)
        if not isinstance(found, GeometryCondition):
            return Aligned(clean, changed, clean, np.ones(clean.shape[-2:], dtype=np.bool_))
        after, valid = found.undo(changed)
        static, _ = found.undo(clean)
        return Aligned(clean, after, static, valid)
