"""A plan asks for no more memory than there is to spare."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from salience.engine import memory, tune
from salience.engine.plan import Plan
from salience.testing.models import small_classifier


def test_activations_are_counted_and_weights_are_not() -> None:
    net = nn.Sequential(nn.Linear(6, 50), nn.Sigmoid(), nn.Linear(50, 2), nn.Sigmoid())
    x = torch.rand(10, 6, requires_grad=True)

    def count(gradients: bool) -> int:
        return memory.bytes_of_rows(net, lambda: net(x), gradients=gradients)

    # kept: the input, what the first Sigmoid gives (which the second layer reads), what the last one gives
    assert count(True) == 4 * 10 * (6 + 50 + 2)
    assert count(False) == 3 * 4 * 10 * 50
    with torch.no_grad():
        assert count(True) == 0


def test_a_control_group_allows_less_than_the_machine_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = memory.room()
    assert whole > 0
    for said, expected in (("4000000\n", 1_000_000), ("max\n", None), ("", None)):
        (tmp_path / "memory.max").write_text(said)
        monkeypatch.setattr(memory, "_CONTROL_GROUPS", (tmp_path / "memory.max", tmp_path / "none"))
        assert memory.room() == expected if expected else memory.room() >= whole


def test_batches_are_as_large_as_the_memory_carries(monkeypatch: pytest.MonkeyPatch) -> None:
    classifier = small_classifier(16, 4)
    assert tune.largest_batch(classifier, Plan(1), gradients=True) == 256  # a row of it is small
    monkeypatch.setattr(tune, "bytes_of_rows", lambda module, call, gradients: 1000 if gradients else 300)
    monkeypatch.setattr(tune, "room", lambda: 12_000)
    assert tune.largest_batch(classifier, Plan(1), gradients=True) == 12
    assert tune.largest_batch(classifier, Plan(1), gradients=False) == 40
    assert tune.largest_batch(classifier, Plan(1, lanes=3), gradients=True) == 4
    assert tune.largest_batch(classifier, Plan(1, lanes=13), gradients=True) == 1
    monkeypatch.setattr(tune, "room", lambda: 5000)
    assert tune.make_plan(classifier, remember=False).batch <= 5
    assert tune.make_plan(classifier, batch=16, remember=False).batch == 16  # who asks for it has it
