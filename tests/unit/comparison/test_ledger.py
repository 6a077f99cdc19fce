"""The ledger: rows that add up to the change of the difference of two models."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch

import salience
from salience.comparison.ledger import Step, ledger
from salience.errors import SettingsError
from salience.testing.models import small_classifier


@pytest.fixture
def books() -> tuple[np.ndarray, ...]:
    """Sums (40 images, 6 concepts) of two models and their changes, with gaps of a hundredth."""
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 40, 6))
    return a, b, a.sum(axis=1) - rng.normal(0, 0.01, 40), b.sum(axis=1) - rng.normal(0, 0.01, 40)


def test_rows_add_up_within_the_stored_gaps(books: tuple[np.ndarray, ...]) -> None:
    a, b, change_a, change_b = books
    gaps = (b.sum(axis=1) - change_b) - (a.sum(axis=1) - change_a)
    for rows in (np.arange(40), np.arange(0, 40, 3), np.array([7])):
        found = ledger(a[rows], b[rows], change_a[rows], change_b[rows])
        assert found.images == len(rows)
        assert found.change == pytest.approx((change_b - change_a)[rows].sum())
        assert found.difference.sum() == pytest.approx(found.change + gaps[rows].sum())
        assert found.gap == pytest.approx(gaps[rows].sum())
        assert abs(found.gap) <= np.abs(gaps[rows]).sum() + 1e-12


def test_integrated_gradients_of_two_nets_are_booked() -> None:
    """Maps of real nets over a real partition: what the ledger misses is what the maps' stored gaps say."""
    images = torch.rand(5, 3, 16, 16, generator=torch.Generator().manual_seed(0)).numpy()
    labels = (np.arange(16)[:, None] // 4 * 4 + np.arange(16) // 4) % 7  # seven concepts
    sums, changes, gaps = [], [], []
    for seed in (1, 2):
        made = salience.explain(
            small_classifier(seed=seed), images, method="ig:steps=32:baseline=black+white", target=0, output="margin"
        )
        maps = made.values.astype(np.float64).reshape(5, -1)
        sums.append(np.stack([np.bincount(labels.ravel(), row, minlength=7) for row in maps]))
        changes.append(made.diagnostics["output_change"].astype(np.float64))
        gaps.append(made.diagnostics["completeness_gap"].astype(np.float64))
    found = ledger(*sums, *changes)
    assert found.difference.sum() == pytest.approx(found.change + (gaps[1] - gaps[0]).sum(), abs=1e-4)
    assert abs(found.gap) < 0.05 * np.abs(changes).sum()


def test_a_model_against_itself_is_nothing(books: tuple[np.ndarray, ...]) -> None:
    a, _, change, _ = books
    found = ledger(a, a, change, change)
    np.testing.assert_array_equal(found.difference, 0)
    assert (found.change, found.gap, found.waterfall()) == (0, 0, [])


def test_swapped_models_negate(books: tuple[np.ndarray, ...]) -> None:
    a, b, change_a, change_b = books
    one, other = ledger(a, b, change_a, change_b), ledger(b, a, change_b, change_a)
    np.testing.assert_array_equal(one.difference, -other.difference)
    assert (one.change, one.gap) == (-other.change, -other.gap)


def test_logits_times_three_book_three_times_as_much(books: tuple[np.ndarray, ...]) -> None:
    a, b, change_a, change_b = books
    one, three = ledger(a, b, change_a, change_b), ledger(3 * a, 3 * b, 3 * change_a, 3 * change_b)
    np.testing.assert_allclose(three.difference, 3 * one.difference)
    assert three.change == pytest.approx(3 * one.change)


def test_one_model_alone(books: tuple[np.ndarray, ...]) -> None:
    _, b, _, change = books
    found = ledger(None, b, None, change)
    np.testing.assert_array_equal(found.difference, found.model)
    np.testing.assert_array_equal(found.reference, 0)
    assert found.change == found.model_change == change.sum()


def test_means_over_images(books: tuple[np.ndarray, ...]) -> None:
    found = ledger(*books).per_image()
    np.testing.assert_allclose(found.model, books[1].mean(axis=0))
    assert found.change == pytest.approx((books[3] - books[2]).mean())
    assert found.images == 1
    empty = ledger(*(x[:0] for x in books)).per_image()
    assert (empty.images, empty.change) == (0, 0)


def test_waterfall_ends_at_the_total(books: tuple[np.ndarray, ...]) -> None:
    found = ledger(*books)
    for count in (0, 2, 6, 9):
        steps = found.waterfall(count)
        assert steps[0].start == 0
        for one, following in pairwise(steps):
            assert following.start == pytest.approx(one.start + one.value)
        assert steps[-1].start + steps[-1].value == pytest.approx(found.change)
        named = [s for s in steps if s.concept is not None]
        assert len(named) == min(count, 6)
        sizes = [abs(s.value) for s in named]
        assert sizes == sorted(sizes, reverse=True)
        assert [s.name for s in steps[len(named) :]] == (["rest", "missed"] if count < 6 else ["missed"])


def test_waterfall_by_hand() -> None:
    found = ledger([[1.0, 2, 3]], [[2.0, 2, -1]], [6.0], [2.5])
    assert found.waterfall(1) == [
        Step("2", 2, 0.0, -4.0),
        Step("rest", None, -4.0, 1.0),
        Step("missed", None, -3.0, -0.5),
    ]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((np.zeros((2, 3)), np.zeros((2, 4)), np.zeros(2), np.zeros(2)), r"\(2, 3\) and \(2, 4\)"),
        ((np.zeros((2, 3)), np.zeros((2, 3)), np.zeros(2), np.zeros(3)), r"\(2,\) and \(3,\)"),
        ((None, np.zeros((2, 3)), np.zeros(2), np.zeros(2)), "one of them is missing"),
        ((None, np.full((2, 3), np.nan), None, np.zeros(2)), "finite"),
    ],
)
def test_what_cannot_be_booked(given: tuple[np.ndarray, ...], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        ledger(*given)
