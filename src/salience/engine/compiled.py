"""Machine code for loops: functions that numba compiles, once for a machine where that can be kept.

The module imports numba, which takes a moment: import it where such loops run, not before.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from numba import njit

F = TypeVar("F", bound=Callable[..., Any])


def compiled(function: F) -> F:
    """Compile a function that lets go of Python's lock; keep the machine code where there is a place to.

    Sums are taken in the order in which they are written, whatever the processor can. What a compiled function calls
    has to stand in its own file: numba looks for changes there alone. The same is true of numbers that it reads.
    """
    try:
        made: F = njit(nogil=True, cache=True)(function)
    except RuntimeError:  # neither the package nor the user's cache can be written to: compile in every process
        made = njit(nogil=True)(function)
    return made
