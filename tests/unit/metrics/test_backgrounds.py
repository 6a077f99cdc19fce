"""Backgrounds by name: what identifies the pixels that they make."""

from __future__ import annotations

import pytest

from salience.metrics import backgrounds
from salience.metrics.backgrounds import parse_background


def test_a_new_version_of_a_background_is_another_identity(monkeypatch: pytest.MonkeyPatch) -> None:
    road = parse_background("road:draws=3")
    assert road.numbers == "road:draws=3 (version 2)"
    monkeypatch.setitem(backgrounds.VERSIONS, "road", 3)
    assert road.numbers == "road:draws=3 (version 3)"


@pytest.mark.parametrize("name", ["dataset-mean", "blur", "dataset:draws=5", "black"])
def test_backgrounds_that_never_changed_are_their_label(name: str) -> None:
    assert parse_background(name).numbers == name
