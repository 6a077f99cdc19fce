"""Plans: measured, remembered, and such that rows do not hang on their place."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from salience.engine import tune
from salience.engine.plan import Plan
from salience.engine.tune import make_plan, rows_are_independent, running
from salience.models.classifier import Classifier
from salience.testing.models import small_classifier


class Mixing(nn.Module):
    """A model in which images of a batch see one another."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 4)

    def forward(self, x: Tensor) -> Tensor:
        means = x.mean((2, 3))
        return self.fc(means - means.mean(0, keepdim=True))


class Hungry(nn.Module):
    """A model with memory for two images."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 4)
        self.most = most

    def forward(self, x: Tensor) -> Tensor:
        if len(x) > self.most:
            raise torch.OutOfMemoryError("out of memory")
        return self.fc(x.mean((2, 3)))


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SALIENCE_CACHE", str(tmp_path))
    return tmp_path / "plans"


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[Plan]:
    """The plans whose speed was measured."""
    seen: list[Plan] = []
    real = tune.seconds_per_row
    monkeypatch.setattr(tune, "seconds_per_row", lambda c, p, g: seen.append(p) or real(c, p, g, 0))
    return seen


def test_measured_once_and_recalled(cache: Path, measured: list[Plan]) -> None:
    first = make_plan(small_classifier(), budget_s=0.2)
    assert measured
    assert len(list(cache.iterdir())) == 1
    measured.clear()
    assert make_plan(small_classifier(), budget_s=0.2) == first
    assert measured == []
    assert first.exact
    assert rows_are_independent(small_classifier(), first)


def test_another_model_or_question_is_measured_anew(cache: Path, measured: list[Plan]) -> None:
    make_plan(small_classifier(), budget_s=0.1)
    for other in (
        lambda: make_plan(small_classifier(seed=1), budget_s=0.1),
        lambda: make_plan(small_classifier(), gradients=False, budget_s=0.1),
        lambda: make_plan(small_classifier(), batch=4, budget_s=0.1),
    ):
        measured.clear()
        other()
        assert measured


@pytest.mark.parametrize("junk", [b"", b"{", b"\xff\xfe", b"[]", b"null", b'{"batch": 3, "colour": "red"}'])
def test_corrupt_cache_is_measured_again(cache: Path, measured: list[Plan], junk: bytes) -> None:
    make_plan(small_classifier(), batch=4, budget_s=0.1)
    (path,) = cache.iterdir()
    path.write_bytes(junk)
    measured.clear()
    plan = make_plan(small_classifier(), batch=4, budget_s=0.1)
    assert measured
    assert plan.batch == 4
    assert json.loads(path.read_text()) == plan.to_dict()


def test_cache_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SALIENCE_CACHE", str(tmp_path / "file"))
    assert make_plan(small_classifier(), batch=4, memory_format="contiguous").batch == 4


def test_what_is_given_is_kept(cache: Path) -> None:
    plan = make_plan(small_classifier(), batch=6, memory_format="contiguous", threads=1)
    assert (plan.batch, plan.memory_format, plan.threads) == (6, "contiguous", 1)


def test_fixed_batch_is_kept(cache: Path) -> None:
    classifier = small_classifier()
    classifier.fixed_batch = 5
    assert make_plan(classifier).batch == 5
    assert make_plan(classifier, batch=16).batch == 5


def test_a_model_that_mixes_rows_is_run_one_by_one(cache: Path) -> None:
    classifier = Classifier(Mixing(), size=8)
    assert not rows_are_independent(classifier, Plan(4))
    assert rows_are_independent(classifier, Plan(1))
    assert make_plan(classifier, batch=8, memory_format="contiguous") == Plan(
        1, "contiguous", torch.get_num_threads(), "cpu", "fused", True
    )
    assert make_plan(classifier, budget_s=0.1).batch == 1


def test_a_model_that_mixes_rows_at_a_fixed_batch_is_no_exact_plan(cache: Path) -> None:
    classifier = Classifier(Mixing(), size=8, fixed_batch=4)
    plan = make_plan(classifier)
    assert (plan.batch, plan.exact) == (4, False)


@pytest.mark.parametrize("batch", [None, 8])
@pytest.mark.parametrize("most", [1, 2, 5])
def test_a_batch_that_fits_is_found(cache: Path, most: int, batch: int | None) -> None:
    plan = make_plan(Classifier(Hungry(most), size=8), batch=batch, budget_s=0.1)
    assert 1 <= plan.batch <= most
    with_format = make_plan(Classifier(Hungry(most), size=8), batch=8, memory_format="contiguous")
    assert 1 <= with_format.batch <= most


def test_running_sets_and_restores() -> None:
    classifier = small_classifier()
    classifier.module.train()
    weight = classifier.module.conv2.weight
    before = (torch.get_num_threads(), weight.stride(), weight.data_ptr())

    def broken() -> None:
        with running(classifier, Plan(2, "channels_last", 2)):
            assert torch.get_num_threads() == 2
            assert not classifier.module.training
            assert weight.is_contiguous(memory_format=torch.channels_last)
            raise ValueError("inside")

    with pytest.raises(ValueError, match="inside"):
        broken()
    assert (torch.get_num_threads(), weight.stride(), weight.data_ptr()) == before
    assert classifier.module.training
