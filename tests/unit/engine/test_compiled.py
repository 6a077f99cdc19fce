"""Functions are compiled also where machine code cannot be kept."""

from __future__ import annotations

import numba
import pytest

from salience.engine import compiled as module


def test_functions_are_compiled_where_nothing_can_be_cached(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_place(*, nogil: bool, cache: bool = False) -> object:
        if cache:
            raise RuntimeError("cannot cache function: no locator available")
        return numba.njit(nogil=nogil)

    monkeypatch.setattr(module, "njit", no_place)

    def twice(x: int) -> int:
        return 2 * x

    assert module.compiled(twice)(21) == 42
