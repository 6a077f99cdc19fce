"""Targets as people write them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from salience.engine.targets import Target, parse_target
from salience.errors import SettingsError

NAMES = ("tabby cat", "tiger", "7", "Tiger shark")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("predicted", Target("predicted")),
        ("label", Target("label")),
        ("all", Target("all")),
        ("predicted+9", Target("top", 9)),
        ("class:2", Target("class", 2)),
        (2, Target("class", 2)),
        (np.int64(3), Target("class", 3)),
        ("class:Tabby Cat", Target("class", 0)),
        ("class:tiger", Target("class", 1)),
    ],
)
def test_understood(text: object, expected: Target) -> None:
    assert parse_target(text, NAMES) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("predict", "choose 'predicted'"),
        ("class", "choose 'predicted'"),
        ("class:", "choose 'predicted'"),
        ("", "choose 'predicted'"),
        ("class:4", "classes 0 to 3"),
        (17, "classes 0 to 3"),
        (-1, "no class of that name"),
        ("class:tigre", "Did you mean 'tiger'"),
        ("class:²", "no class of that name"),
        ("class:1.0", "no class of that name"),
        ("predicted+", "choose 'predicted'"),
        ("predicted+0", "choose 'predicted'"),
        ("predicted+many", "choose 'predicted'"),
    ],
)
def test_refused_with_a_cure(text: object, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        parse_target(text, NAMES)


@pytest.mark.parametrize("text", ["predicted", "predicted+2", "label", "all", "class:3"])
def test_written_as_it_is_read(text: str) -> None:
    assert str(parse_target(text, NAMES)) == text


def test_columns() -> None:
    logits = torch.tensor([[0.0, 2.0, 1.0], [5.0, 5.0, 1.0]])
    labels = torch.tensor([2, 0])
    assert Target("predicted").columns(logits, labels).tolist() == [[1], [0]]
    assert Target("label").columns(logits, labels).tolist() == [[2], [0]]
    assert Target("class", 2).columns(logits, labels).tolist() == [[2], [2]]
    assert Target("all").columns(logits, labels).tolist() == [[0, 1, 2], [0, 1, 2]]
    assert [Target(k).count(3) for k in ("predicted", "label", "all")] == [1, 1, 3]


def test_runners_up_fall_and_ties_keep_the_order_of_classes() -> None:
    logits = torch.tensor([[0.0, 2.0, 1.0, -1.0], [5.0, 7.0, 5.0, 7.0]])
    labels = torch.tensor([-1, -1])
    assert Target("top", 1).columns(logits, labels).tolist() == [[1, 2], [1, 3]]
    assert Target("top", 2).columns(logits, labels).tolist() == [[1, 2, 0], [1, 3, 0]]
    assert Target("top", 9).columns(logits, labels).tolist() == [[1, 2, 0, 3], [1, 3, 0, 2]]  # no more than there are
    assert [Target("top", m).count(4) for m in (1, 3, 9)] == [2, 4, 4]
