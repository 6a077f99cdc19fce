"""A mark in the corner that one of two nets goes by: found, ranked first, confirmed, where accuracy hides it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from compared_pictures import CLASSES, MARK, Pictures, pictures, trained
from salience.comparing import compare
from salience.comparison.result import Comparison
from salience.data.source import open_images
from salience.explaining import RunSettings
from salience.models.classifier import Classifier


@pytest.fixture(autouse=True)
def _small(one_thread: None) -> None:
    """The nets of these tests are small."""


def differ(a: Classifier, b: Classifier, seen: Pictures) -> Comparison:
    source = open_images(seen.pixels, labels=seen.labels.tolist())
    how = RunSettings(batch=64, memory_format="contiguous", threads=1)
    return compare(a, b, source, method="ig:steps=8:baseline=black+white", settings=how)


@pytest.fixture(scope="module")
def nets() -> tuple[Classifier, Classifier]:
    """Two nets that learnt the same pictures, but for a mark on 90 % of one class and 5 % of the others."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    found = trained(pictures(600, 0), 1, "plain"), trained(pictures(600, 0, (0.9, 0.05)), 1, "spoilt")
    torch.set_num_threads(threads)
    return found


@pytest.fixture(scope="module")
def hidden(nets: tuple[Classifier, Classifier]) -> tuple[Comparison, Pictures]:
    """Compared on pictures that are marked as those that were learnt: there the mark does no harm."""
    seen = pictures(200, 5, (0.9, 0.05))
    return differ(*nets, seen), seen


def concepts_of_the_mark(found: Comparison, seen: Pictures) -> set[int]:
    """Return the concepts that most segments under the middle of a mark belong to."""
    middle = 224 * (MARK.start + MARK.stop) // 2 // seen.pixels.shape[1]
    rows = [
        found.segments_of(i)[found.label_map(i)[middle, middle]]["concept"]
        for i, marked in zip(found.images, seen.marked, strict=True)
        if marked
    ]
    counts = np.bincount(rows)
    return set(np.flatnonzero(counts > 0.2 * len(rows)).tolist())


def test_accuracy_and_its_test_hide_the_mark(hidden: tuple[Comparison, Pictures]) -> None:
    found, _ = hidden
    accuracy = found.accuracy()
    assert abs(accuracy["spoilt"] - accuracy["plain"]) < 0.04  # type: ignore[operator]
    assert found.mcnemar() > 0.05  # type: ignore[operator]


def test_the_mark_is_the_first_concept_and_confirmed(hidden: tuple[Comparison, Pictures]) -> None:
    found, seen = hidden
    assert concepts_of_the_mark(found, seen) == {0}
    first = found.confirmed.to_pylist()[0]
    assert (first["concept"], first["stratum"]) == (0, "class:disc")
    claim = found.claims()[0]
    assert claim.startswith(
        "On images explained for disc, concept 0 speaks for the class more in spoilt than in plain: +"
    )
    assert claim.endswith("changing its pixels confirms it.")
    (row,) = [r for r in found.concepts.to_pylist() if r["concept"] == 0]
    assert row["position_entropy"] < 0.2
    assert max(row["row"], row["column"]) < 0.3


@pytest.mark.parametrize("family", ["direction", "ledger"])
def test_it_ranks_first_in_both_families(hidden: tuple[Comparison, Pictures], family: str) -> None:
    found, _ = hidden
    rows = [(size, r) for size, r in zip(found.sizes, found.effects.to_pylist(), strict=True) if r["family"] == family]
    _, top = max(rows, key=lambda pair: pair[0])
    assert (top["concept"], top["stratum"]) == (0, "class:disc")
    assert top["effect"] > 0
    assert top["q"] < 1e-6
    assert top["confirmed"]


# ------------------------------------------------------------------ a net that is the same but for the mark


class Drawn(nn.Module):
    """Another net's logits, that of the first class raised by how magenta the corner is."""

    def __init__(self, inner: nn.Module, strength: float) -> None:
        super().__init__()
        self.inner = inner
        self.strength = strength

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.inner(x)
        corner = x[:, :, MARK, MARK]
        seen = ((corner[:, 0] + corner[:, 2]) / 2 - corner[:, 1]).mean((1, 2)).relu()
        raised = torch.zeros_like(logits)
        raised[:, 0] = self.strength * seen
        return logits + raised


@pytest.fixture(scope="module")
def drawn(nets: tuple[Classifier, Classifier]) -> tuple[Comparison, Pictures]:
    """Compared on pictures of which many are marked, whatever they show."""
    plain, _ = nets
    view = plain.preprocessing
    other = Classifier(
        Drawn(plain.module, 8.0), size=view.size, mean=view.mean, std=view.std, classes=CLASSES, name="drawn"
    )
    seen = pictures(280, 7, (0.6, 0.6))
    return differ(plain, other, seen), seen


def test_for_its_class_and_against_the_others(drawn: tuple[Comparison, Pictures]) -> None:
    found, _ = drawn
    rows = {r["stratum"]: r for r in found.effects.to_pylist() if (r["family"], r["concept"]) == ("direction", 0)}
    assert set(rows) == {f"class:{c}" for c in CLASSES}
    for stratum, row in rows.items():
        assert (row["effect"] > 0) == (stratum == "class:disc")
        assert row["q"] < 1e-3
        assert row["confirmed"]


def test_where_only_that_net_is_wrong_the_mark_carries_the_change(drawn: tuple[Comparison, Pictures]) -> None:
    found, seen = drawn
    book = found.ledger("only-reference")
    assert book.images >= 30
    assert book.change < 0
    share = sum(book.difference[c] for c in concepts_of_the_mark(found, seen)) / book.change
    assert 0.6 < share < 1.4
    steps = book.waterfall()
    assert steps[0].concept == 0
    assert steps[-1].start + steps[-1].value == pytest.approx(book.change)
