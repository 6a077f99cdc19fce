"""Label spaces: logits brought to the classes of another model, with the model's own probabilities summed."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from salience.comparison.label_spaces import OTHER, SAME_ORDER, Relabelled, in_classes_of
from salience.errors import SettingsError
from salience.models.classifier import Classifier
from salience.testing.models import small_classifier


def named(classes: list[str] | None, seed: int = 0, name: str = "model") -> Classifier:
    made = small_classifier(16, len(classes) if classes else 5, seed=seed, name=name)
    made.classes = None if classes is None else tuple(classes)
    return made


def pixels(count: int = 4) -> Tensor:
    return torch.rand(count, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def test_the_same_classes_leave_the_module_as_it_is() -> None:
    a, b = named(["ant", "bee", "cat"]), named(["ant", "bee", "cat"], 1, "b")
    made, lacking = in_classes_of(a, b, None)
    assert made.module is b.module
    assert made is not b
    assert lacking == frozenset()
    assert made.fingerprint() == b.fingerprint()


def test_another_order_is_a_permutation_of_exactly_the_same_logits() -> None:
    a, b = named(["ant", "bee", "cat"]), named(["cat", "ant", "bee"], 1, "b")
    made, lacking = in_classes_of(a, b, None)
    assert torch.equal(made.logits(pixels()), b.logits(pixels())[:, [1, 2, 0]])
    assert made.class_names == ("ant", "bee", "cat")
    assert lacking == frozenset()
    assert b.classes == ("cat", "ant", "bee")


def test_several_classes_become_one_and_their_probabilities_are_summed() -> None:
    a, b = named(["animal", "plant"]), named(["ant", "bee", "oak", "stone"], 1, "b")
    pairs = {"b": {"ant": "animal", "bee": "animal", "oak": "plant"}}
    made, lacking = in_classes_of(a, b, pairs)
    own = b.logits(pixels()).double().softmax(1)
    expected = torch.stack([own[:, 0] + own[:, 1], own[:, 2], own[:, 3]], 1)
    torch.testing.assert_close(made.logits(pixels()).double().softmax(1), expected, rtol=1e-5, atol=1e-7)
    assert made.class_names == ("animal", "plant", OTHER)
    assert lacking == frozenset()


def test_a_class_that_the_model_lacks_is_far_behind_and_told() -> None:
    a, b = named(["ant", "bee", "cat"]), named(["ant", "bee"], 1, "b")
    made, lacking = in_classes_of(a, b, {"b": {"ant": "ant", "bee": "bee"}})
    assert lacking == {2}
    found = made.logits(pixels()).detach()
    assert bool(found.isfinite().all())
    torch.testing.assert_close(found[:, :2].softmax(1), b.logits(pixels()).softmax(1))
    assert float(found.softmax(1)[:, 2].max()) < 1e-30


@pytest.mark.parametrize("spread", [1.0, 1e4])
def test_gradients_are_those_of_the_log_of_summed_exponentials(spread: float) -> None:
    z = (torch.randn(3, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64) * spread).requires_grad_()
    module = Relabelled(nn.Identity(), np.array([1, 0, 1, -1]), 2)
    weights = torch.tensor([0.3, -0.7, 1.1], dtype=torch.float64)
    (found,) = torch.autograd.grad((module(z) * weights).sum(), z)
    expected = torch.stack([z[:, 1], z[:, [0, 2]].logsumexp(1), z[:, 3]], 1)
    torch.testing.assert_close(module(z), expected)
    (wanted,) = torch.autograd.grad((expected * weights).sum(), z)
    torch.testing.assert_close(found, wanted)


def test_the_map_of_classes_is_part_of_the_fingerprint() -> None:
    a, b = named(["ant", "bee", "cat"]), named(["cat", "ant", "bee"], 1, "b")
    first, _ = in_classes_of(a, b, None)
    second, _ = in_classes_of(named(["bee", "ant", "cat"]), b, None)
    assert len({first.fingerprint(), second.fingerprint(), b.fingerprint()}) == 3


def test_models_without_names_count_alike() -> None:
    a, b = named(["ant", "bee", "cat", "dog", "elk"]), named(None, 1, "b")
    made, _ = in_classes_of(a, b, None)
    assert made.module is b.module
    assert made.class_names == a.class_names


def test_names_that_differ_are_refused_unless_said_to_be_the_same() -> None:
    a, b = named(["ant", "bee"]), named(["Ameise", "Biene"], 1, "b")
    with pytest.raises(SettingsError, match=r"'Ameise' of 'b' is none of the reference's.*--class-map FILE"):
        in_classes_of(a, b, None)
    made, lacking = in_classes_of(a, b, SAME_ORDER)
    assert made.module is b.module
    assert lacking == frozenset()


def test_another_number_of_classes_needs_a_map() -> None:
    a, b = named(["ant", "bee"]), named(None, 1, "b")
    with pytest.raises(SettingsError, match=r"'b' has 5 classes and 'model' has 2.*--class-map"):
        in_classes_of(a, b, None)


def test_black_boxes_too_and_what_asking_costs_is_still_known() -> None:
    def ask(x: np.ndarray) -> np.ndarray:
        return np.stack([x[:, 0].mean((1, 2)), x[:, 1].mean((1, 2)), x[:, 2].mean((1, 2))], 1)

    box = Classifier.from_callable(ask, size=16, classes=["c", "a", "b"], name="box", paid=True, max_queries=100)
    made, _ = in_classes_of(named(["a", "b", "c"]), box, None)
    assert made.account is box.account
    assert made.paid
    assert torch.equal(made.logits(pixels())[:, 2], box.logits(pixels())[:, 0])
    assert made.fingerprint() != box.fingerprint()
