"""Any function as a classifier: what it is given, what it may return, what it costs."""

from __future__ import annotations

import functools
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import salience
from salience.engine.passes import forward
from salience.engine.scalars import score
from salience.engine.tune import make_plan, running
from salience.errors import MethodError, ModelError, SalienceWarning, SettingsError
from salience.models.callables import code_identity
from salience.models.classifier import Classifier
from salience.testing.server import scores_of, softmax

SIZE = (10, 12)
PIXELS = torch.rand(7, 3, *SIZE, generator=torch.Generator().manual_seed(0))
HOW: dict[str, Any] = {"size": SIZE, "mean": (0.4, 0.5, 0.6), "std": (0.2, 0.25, 0.5)}
MEAN, STD = (np.array(HOW[k], dtype=np.float32)[None, :, None, None] for k in ("mean", "std"))


def logits_of(images: np.ndarray) -> np.ndarray:
    return scores_of(images)


def probabilities_of(images: np.ndarray) -> np.ndarray:
    return softmax(scores_of(images))


class Seen:
    """A function that remembers the batches it was given."""

    def __init__(self, answer: Callable[[Any], Any] = logits_of) -> None:
        self.answer = answer
        self.batches: list[Any] = []

    def __call__(self, images: Any) -> Any:
        self.batches.append(images)
        return self.answer(images)

    @property
    def rows(self) -> int:
        return sum(len(b) for b in self.batches)


def ask(fn: Callable[[Any], Any], pixels: torch.Tensor = PIXELS, **how: Any) -> torch.Tensor:
    return Classifier.from_callable(fn, **{**HOW, **how}).logits(pixels)


def test_a_numpy_function_is_given_normalised_rows_and_its_scores_are_the_logits() -> None:
    seen = Seen()
    logits = ask(seen, PIXELS.contiguous(memory_format=torch.channels_last))
    (given,) = seen.batches
    assert isinstance(given, np.ndarray)
    assert (given.dtype, given.shape, given.flags.c_contiguous) == (np.float32, (7, 3, *SIZE), True)
    np.testing.assert_allclose(given, (PIXELS.numpy() - MEAN) / STD, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(logits.numpy(), scores_of(given))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int64])
def test_a_torch_function_of_any_type(dtype: torch.dtype) -> None:
    def fn(images: torch.Tensor) -> torch.Tensor:
        assert isinstance(images, torch.Tensor)
        return torch.stack([images.sum((1, 2, 3)), images.amax((1, 2, 3))], 1).to(dtype)

    logits = ask(fn, arrays="torch")
    assert logits.dtype == torch.float32
    expected = fn(Classifier.from_callable(fn, **HOW).normalise(PIXELS))
    assert torch.equal(logits, expected.float())


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ">f4"])
def test_numpy_answers_of_any_type(dtype: Any) -> None:
    logits = ask(lambda x: scores_of(x).astype(dtype))
    np.testing.assert_allclose(logits.numpy(), ask(logits_of).numpy(), rtol=2e-3)


def test_an_answer_is_copied() -> None:
    buffer = np.zeros((7, 2), dtype=np.float32)

    def fn(images: np.ndarray) -> np.ndarray:
        buffer[:] = images.mean((1, 2, 3))[:, None] * [1, 2]
        return buffer

    classifier = Classifier.from_callable(fn, **HOW)
    first = classifier.logits(PIXELS)
    before = first.clone()
    classifier.logits(1 - PIXELS)
    assert torch.equal(first, before)


@pytest.mark.parametrize("output", ["prob", "logprob", "margin"])
def test_every_scalar_of_declared_probabilities_is_that_of_their_logits(output: Any) -> None:
    target = torch.arange(7) % 5
    of_logits = score(output, ask(logits_of), target)
    of_probabilities = score(output, ask(probabilities_of, logits=False), target)
    torch.testing.assert_close(of_probabilities, of_logits, rtol=2e-5, atol=2e-5)


def test_a_probability_of_zero_has_a_finite_logarithm() -> None:
    logits = ask(lambda x: np.eye(3)[np.arange(len(x)) % 3], logits=False)
    assert logits.min().item() == pytest.approx(np.log(1e-12))
    assert torch.equal(logits.softmax(1).round(), torch.eye(3)[torch.arange(7) % 3])


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (scores_of, r"declared to return probabilities, but a row has the sum .*scores = 'logits'"),
        (lambda x: np.tile([0.7, 0.35, -0.05], (len(x), 1)), r"smallest score is -0.05"),
        (lambda x: np.tile([0.7, 0.32], (len(x), 1)), r"sum 1.02 \(1 within 0.01"),
    ],
)
def test_scores_that_are_no_probabilities_are_refused(answer: Callable[[Any], Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        ask(answer, logits=False)


def test_rounding_of_probabilities_is_allowed() -> None:
    assert ask(lambda x: np.tile([0.703, 0.302, -5e-5], (len(x), 1)), logits=False).shape == (7, 3)


def test_probabilities_declared_as_logits_are_noticed_once() -> None:
    classifier = Classifier.from_callable(probabilities_of, **HOW)
    with pytest.warns(SalienceWarning, match=r"Where they are, declare them: logits=False"):
        classifier.logits(PIXELS)
    classifier.logits(PIXELS)  # a second warning would be an error


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda x: scores_of(x)[:-1], r"shape \(6, 5\) for 7 images"),
        (lambda x: scores_of(x)[:, :1], r"shape \(7, 1\) for 7 images.*at least two classes"),
        (lambda x: scores_of(x)[0], r"shape \(5,\) for 7 images"),
        (lambda x: scores_of(x)[..., None], r"shape \(7, 5, 1\)"),
        (lambda x: {"scores": 1}, "returned dict; real numbers"),
        (lambda x: None, "returned NoneType"),
        (lambda x: [[1.0, 2.0], [1.0]], "returned list"),
        (lambda x: np.array([["a", "b"]] * 7), "returned ndarray of <U1"),
        (lambda x: torch.ones(7, 2, dtype=torch.complex64), "returned Tensor of torch.complex64"),
    ],
)
def test_unusable_answers_are_told(answer: Callable[[Any], Any], message: str) -> None:
    with pytest.raises(ModelError, match=f"Model 'mine' {message}" if message.startswith("ret") else message) as told:
        ask(answer, name="mine")
    assert "Model 'mine'" in str(told.value)


def test_a_class_count_that_changes_is_refused() -> None:
    counts = iter([5, 4])
    classifier = Classifier.from_callable(lambda x: scores_of(x)[:, : next(counts)], **HOW)
    classifier.logits(PIXELS)
    with pytest.raises(ModelError, match="returned 4 classes; 5 are known"):
        classifier.logits(PIXELS)
    with pytest.raises(ModelError, match="returned 5 classes; 2 are known from its class names"):
        ask(logits_of, classes=["a", "b"])


@pytest.mark.parametrize("logits", [True, False])
def test_a_row_that_is_not_finite_passes_alone(logits: bool) -> None:
    def fn(images: np.ndarray) -> np.ndarray:
        scores = scores_of(images) if logits else softmax(scores_of(images))
        scores[2, 1], scores[4, 0] = np.nan, np.inf
        return scores

    found = ask(fn, logits=logits)
    assert torch.isfinite(found).all(1).tolist() == [True, True, False, True, False, True, True]


def test_a_nan_answer_is_a_failure_of_its_image_alone() -> None:
    def fn(images: np.ndarray) -> np.ndarray:
        scores = scores_of(images)
        scores[images[:, 0, 0, 0] > 2.0] = np.nan
        return scores

    images = np.full((4, *SIZE, 3), 100, dtype=np.uint8)
    images[2] = 255
    maps = salience.explain(Classifier.from_callable(fn, **HOW), images, method="occlusion", budget=5)
    (failed,) = maps.failures
    assert sorted([*maps.image_ids, failed.image_id]).index(failed.image_id) == 2
    assert (len(maps), failed.kind) == (3, "model")


def test_an_exception_of_the_function_names_the_model() -> None:
    def fn(images: np.ndarray) -> np.ndarray:
        raise ValueError("no such table")

    with pytest.raises(ModelError, match=r"Model 'mine' fails on .*ValueError: no such table"):
        salience.explain(
            Classifier.from_callable(fn, name="mine", **HOW), np.zeros((2, *SIZE, 3), np.uint8), method="occlusion"
        )


# ---------------------------------------------------------------------- batches


@pytest.mark.parametrize("rows", [1, 3, 4, 7])
def test_a_fixed_batch_is_filled_and_split(rows: int) -> None:
    seen = Seen()
    logits = ask(seen, PIXELS[:rows], batch=3)
    assert {len(b) for b in seen.batches} == {3}
    np.testing.assert_array_equal(logits.numpy(), ask(logits_of, PIXELS[:rows]).numpy())


def test_the_plan_of_a_fixed_batch(one_thread: None) -> None:
    seen = Seen()
    plan = make_plan(Classifier.from_callable(seen, batch=3, **HOW), remember=False)
    assert (plan.batch, plan.exact) == (3, True)
    assert {len(b) for b in seen.batches} == {3}


@pytest.mark.parametrize("how", [{"connections": 3}, {"connections": 3, "batch": 2}, {"connections": 3, "paid": True}])
def test_calls_under_way_at_a_time(how: dict[str, Any]) -> None:
    together = threading.Barrier(3, timeout=30)  # breaks unless three threads are inside at a time

    def fn(images: np.ndarray) -> np.ndarray:
        together.wait()
        assert not torch.is_grad_enabled()
        return logits_of(images)

    classifier = Classifier.from_callable(fn, classes=list("abcde"), **HOW, **how)
    assert classifier.fixed_batch == (6 if "batch" in how else None)
    found = classifier.module(PIXELS[:6])
    np.testing.assert_array_equal(found.numpy(), logits_of(PIXELS[:6].numpy()))


# ---------------------------------------------------------------------- what it cannot do


@pytest.mark.parametrize(
    ("method", "message"),
    [("gradient", "'gradient' needs gradients, which model 'mine'"), ("gradcam", "needs outputs alone"),
     ("captum:Saliency", "model 'mine' is none")],
)  # fmt: skip
def test_methods_that_need_more_are_refused_by_name(method: str, message: str) -> None:
    classifier = Classifier.from_callable(logits_of, name="mine", **HOW)
    with pytest.raises(MethodError, match=message):
        salience.explain(classifier, np.zeros((2, *SIZE, 3), np.uint8), method=method)


@pytest.mark.parametrize(
    ("how", "error", "message"),
    [
        ({"arrays": "jax"}, SettingsError, "arrays is 'jax'"),
        ({"batch": 0}, SettingsError, "batch is 0"),
        ({"connections": 0}, SettingsError, "connections is 0"),
        ({"max_queries": 5}, SettingsError, "paid=True"),
        ({"paid": True, "max_queries": 0}, SettingsError, "max_queries is 0"),
    ],
)
def test_arguments_without_meaning_are_told(how: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Classifier.from_callable(logits_of, **HOW, **how)


def test_what_is_no_function_is_told() -> None:
    with pytest.raises(ModelError, match="not list"):
        Classifier.from_callable([1], **HOW)  # type: ignore[arg-type]


# ---------------------------------------------------------------------- what it costs


def test_a_paid_function_is_sent_no_row_twice_in_a_batch() -> None:
    seen = Seen()
    classifier = Classifier.from_callable(seen, paid=True, classes=list("abcde"), **HOW)
    plan = make_plan(classifier)
    assert (plan.batch, plan.exact) == (16, False)
    assert classifier.num_classes == 5
    classifier.fingerprint()
    assert seen.rows == 0  # nothing of all that is paid for
    with running(classifier, plan):
        logits = forward(classifier, PIXELS, plan)
    assert seen.rows == classifier.account.sent == 7
    np.testing.assert_array_equal(logits.numpy(), ask(logits_of).numpy())
    twice = classifier.logits(PIXELS[[0, 3, 0, 0, 3]])
    assert seen.rows == 9
    assert torch.equal(twice, logits[[0, 3, 0, 0, 3]])


def test_a_paid_function_without_names_costs_one_row_to_count_its_classes() -> None:
    seen = Seen()
    classifier = Classifier.from_callable(seen, paid=True, **HOW)
    assert (classifier.num_classes, classifier.num_classes, seen.rows) == (5, 5, 1)


def test_an_explanation_in_memory_is_charged_what_the_function_saw() -> None:
    seen = Seen()
    classifier = Classifier.from_callable(seen, paid=True, classes=list("abcde"), **HOW)
    images = (PIXELS.permute(0, 2, 3, 1).numpy()[:3] * 255).astype(np.uint8)
    maps = salience.explain(classifier, images, method="occlusion", budget=10)
    assert len(maps) == 3
    assert 0 < seen.rows == classifier.account.sent <= 3 * 10


def test_the_limit_of_a_paid_function_is_never_exceeded() -> None:
    seen = Seen()
    classifier = Classifier.from_callable(seen, paid=True, max_queries=20, classes=list("abcde"), **HOW)
    images = (PIXELS.permute(0, 2, 3, 1).numpy() * 255).astype(np.uint8)
    with pytest.raises(ModelError, match=r"may be sent 20 \(max_queries\)"):
        salience.explain(classifier, images, method="occlusion", budget=10)
    assert 0 < seen.rows <= 20


# ---------------------------------------------------------------------- fingerprints


def fingerprint(fn: Callable[[Any], Any], **how: Any) -> str:
    return Classifier.from_callable(fn, **{**HOW, **how}).fingerprint()


def test_the_fingerprint_changes_with_the_function_its_answers_and_how_it_is_asked() -> None:
    def other(images: np.ndarray) -> np.ndarray:
        return scores_of(images) + 1.0

    def scaled(by: float) -> Callable[[np.ndarray], np.ndarray]:
        return lambda images: scores_of(images) * by

    found = [
        fingerprint(logits_of),
        fingerprint(other),
        fingerprint(scaled(1.0)),  # the same code as the next, and other answers
        fingerprint(scaled(1.01)),
        fingerprint(logits_of, mean=(0.5, 0.5, 0.5)),
        fingerprint(logits_of, version="2"),
        fingerprint(logits_of, paid=True),
        fingerprint(logits_of, paid=True, version="2"),
    ]
    assert len(set(found)) == len(found)
    assert fingerprint(logits_of) == found[0]


def test_the_order_of_sums_does_not_change_it() -> None:
    def nudged(scale: float) -> Callable[[np.ndarray], np.ndarray]:
        return lambda images: scores_of(images).astype(np.float64) * scale

    assert fingerprint(nudged(1.0)) == fingerprint(nudged(1 + 1e-7))


def test_partials_methods_and_instances_are_told_apart() -> None:
    class Net:
        def __call__(self, x: Any) -> Any:
            return x

        def infer(self, x: Any) -> Any:
            return x + 1

    fns = (logits_of, functools.partial(logits_of), Net(), Net().infer, np.sum)
    assert len({code_identity(fn) for fn in fns}) == 5
    assert code_identity(Net()) == code_identity(Net())
    assert not any(" at 0x" in code_identity(fn) for fn in fns)


def test_the_fingerprint_is_the_same_in_every_process(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "import numpy as np\nfrom salience.models.classifier import Classifier\n"
        "def fn(x):\n    known = {'a', 'b', 'c'}\n"
        "    return np.stack([x.mean((1, 2, 3)), x.std((1, 2, 3)) if 'a' in {'a', 'b', 'c', 'd'} else 0], 1)\n"
        "print(Classifier.from_callable(fn, size=8).fingerprint())\n"
    )
    found = {
        subprocess.run(
            [sys.executable, "mine.py"], cwd=tmp_path, env={"PYTHONHASHSEED": str(seed), "PATH": ""},
            capture_output=True, text=True, check=True,
        ).stdout
        for seed in (1, 2)
    }  # fmt: skip
    assert len(found) == 1


def test_a_module_shows_what_it_has_no_weights_for() -> None:
    class Shown(torch.nn.Module):
        def __init__(self, shown: bytes) -> None:
            super().__init__()
            self.shown = shown
            self.identity = torch.nn.Identity()  # a module of that name is none of this

        def __fingerprint__(self) -> bytes:
            return self.shown

    one, same, other = (Classifier(Shown(b), size=4).fingerprint() for b in (b"1", b"1", b"2"))
    assert one == same != other
