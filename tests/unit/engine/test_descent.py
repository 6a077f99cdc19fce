"""The method ``mask`` inside the engine: what it costs, what it says of itself, and what it does without memory."""

from __future__ import annotations

from pathlib import Path

import pytest
import runs
import torch
from torch import nn

import salience
from salience.engine.events import Event, Progress, Started
from salience.engine.plan import Plan
from salience.engine.pool import Pool
from salience.engine.sweep import Batch, Sweep
from salience.engine.targets import parse_target
from salience.engine.tune import running
from salience.errors import MethodError
from salience.explaining import RunSettings
from salience.methods.mask import Mask, PublishedMask
from salience.methods.registry import parse_method
from salience.models.classifier import LAYERS, Classifier
from salience.testing.contracts import example_images
from salience.testing.models import SmallNet, small_classifier

IMAGES = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
POOL = Pool(torch.from_numpy(example_images(small_classifier(), 5, seed=3)).permute(0, 3, 1, 2).contiguous(), "five")


@pytest.mark.parametrize(
    ("method", "batch", "target", "passes"),
    [
        ("mask:steps=3:draws=2", 4, "predicted", (2 * 4, 2 * 3)),
        ("mask:steps=3:draws=3", 4, "predicted", (3 * 4, 3 * 3)),
        ("mask:steps=3:draws=2", 4, "all", (5 * 2 * 4, 5 * 2 * 3)),
        ("mask:steps=3:draws=6", 4, "predicted", (6 * 7, 6 * 3)),  # looked at in pieces: every step sees them twice
    ],
)
def test_passes_are_known_beforehand(method: str, batch: int, target: str, passes: tuple[int, int]) -> None:
    classifier = small_classifier()
    plan = Plan(batch, "contiguous", 1)
    chosen = [parse_method(method).method]
    sweep = Sweep(classifier, chosen, parse_target(target, classifier.class_names), None, 0, plan, pool=POOL)
    with running(classifier, plan), runs.counted(classifier.module) as seen:
        result = sweep.run(Batch(tuple("abcd"), IMAGES, torch.full((4,), -1)))
    told = sweep.calls_per_image()
    assert (told.forward, told.backward) == (1 + passes[0], passes[1])
    assert (sweep.calls.forward, sweep.calls.backward) == (4 * told.forward, 4 * told.backward)
    assert seen.forward >= sweep.calls.forward  # padding
    assert result.maps[0].values.shape == (4, result.targets.shape[1], 4, 4)
    torch.testing.assert_close(result.maps[0].scores, result.logits.softmax(1).gather(1, result.targets))


def test_draws_that_divide_the_batch_leave_no_padding() -> None:
    classifier = small_classifier()
    assert classifier.num_classes == 5  # known now: finding out takes a pass
    plan = Plan(4, "contiguous", 1)
    sweep = Sweep(classifier, [Mask(steps=3, draws=2)], parse_target("predicted", ()), None, 0, plan, pool=POOL)
    with running(classifier, plan), runs.counted(classifier.module) as seen:
        sweep.run(Batch(tuple("abcd"), IMAGES, torch.full((4,), -1)))
    assert (seen.forward, seen.backward) == (sweep.calls.forward, sweep.calls.backward)


def test_progress_moves_within_a_long_optimisation(tmp_path: Path) -> None:
    classifier = small_classifier()
    plan, told = Plan(4, "contiguous", 1), []
    chosen, target = [Mask(steps=20, draws=2)], parse_target("predicted", ())
    sweep = Sweep(classifier, chosen, target, None, 0, plan, lambda c: told.append(c.forward + c.backward), POOL)
    total = 2 * (1 + 2 * 20 + 2 * 21)
    with running(classifier, plan):
        sweep.run(Batch(("a", "b"), IMAGES[:2], torch.full((2,), -1)))
    assert sum(told) == total
    assert max(told) <= total / 20  # the bar never jumps

    runs.write_images(tmp_path / "images", classifier, 2)
    events: list[Event] = []
    runs.run(classifier, tmp_path / "images", ["mask:steps=20:draws=2"], tmp_path / "out", listen=events.append)
    assert [e.calls_per_image for e in events if isinstance(e, Started)] == [total / 2]
    shares = [e.share for e in events if isinstance(e, Progress)]
    assert shares == sorted(shares)
    assert shares[-1] == 1


def test_the_batch_is_halved_when_memory_runs_out() -> None:
    """Gradients need more memory than outputs: the first step fails, and what it had counted is taken back."""
    classifier = small_classifier()
    tight = Classifier(
        runs.OutOfMemoryFor(classifier.module, lambda x: len(x) > 4 and x.requires_grad),
        size=16,
        mean=(0.4, 0.45, 0.5),
        std=(0.2, 0.25, 0.3),
    )
    batch = Batch(tuple("abcd"), IMAGES, torch.full((4,), -1))
    found = []
    for model in (classifier, tight):
        plan = Plan(8, "contiguous", 1)
        sweep = Sweep(model, [Mask(steps=4, draws=3)], parse_target("predicted", ()), None, 0, plan, pool=POOL)
        with running(model, plan):
            found.append(sweep.run(batch).maps[0].values)
    assert sweep.plan.batch == 4
    assert (sweep.calls.forward, sweep.calls.backward) == (4 * (1 + 3 * 5), 4 * 3 * 4)
    torch.testing.assert_close(found[1], found[0])


def test_what_is_stored_beside_a_map() -> None:
    classifier = small_classifier()
    images = example_images(classifier, 3)
    maps = salience.explain(classifier, images, "mask:steps=30:draws=2:tv=0", target="all", batch_size=8)
    assert maps.values.shape == (15, 4, 4)
    assert set(maps.diagnostics) == {"objective", "probability", "area"}
    assert maps.values.min() >= 0
    assert maps.values.max() <= 1
    assert not maps.signed
    # a class's own probability is part of its objective: -P_a + logsumexp(P) + area
    between = maps.diagnostics["objective"] + maps.diagnostics["probability"] - 2e-5 * 224**2 * maps.diagnostics["area"]
    assert (between > 1.609).all()  # log 5 + 1/5 at the uniform distribution, at most log(4 + e)
    assert (between < 1.91).all()


def test_settings() -> None:
    assert parse_method("mask:l1=auto").method == Mask()
    assert parse_method("mask:l1=1e-4:objective=nll").method == Mask(l1=1e-4, objective="nll")
    published = parse_method("mask_published").method
    assert isinstance(published, PublishedMask)
    assert (published.steps, published.draws, published.lr) == (2000, 10, 0.05)
    assert {k: v for k, v in published.settings().items() if k not in ("steps", "draws", "lr")} == {
        k: v for k, v in Mask().settings().items() if k not in ("steps", "draws", "lr")
    }
    for text, message in (
        ("mask:l1=some", "l1 is 'some'; a value of type float"),
        ("mask:objective=loss", "choose one of published, nll"),
        ("mask:draws=0", "draws is 0: 1 or more"),
    ):
        with pytest.raises(MethodError, match=message):
            parse_method(text)


def test_a_model_without_gradients_is_refused_by_name() -> None:
    bare = Classifier(SmallNet(5, False, False), size=16, name="bare", capabilities=frozenset({LAYERS}))
    with pytest.raises(MethodError, match="'mask' needs gradients, which model 'bare'"):
        salience.explain(bare, example_images(bare, 3), "mask", batch_size=2)


def test_an_answer_that_is_no_number_fails_for_its_image_alone() -> None:
    """Its clean picture is answered well, its blends are not."""

    class Brittle(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            broken = (x[:, 0, 0, 0] > 0.8) & (x[:, 0, 0, 0] < 0.999)
            return self.inner(x).masked_fill(broken.unsqueeze(1), float("nan"))

    classifier = Classifier(Brittle(small_classifier(norm=False).module), size=16)
    images = example_images(classifier, 3)
    images[1, 0, 0] = 255
    images[0, 0, 0] = images[2, 0, 0] = 0
    dark = example_images(classifier, 4, seed=5)
    dark[..., 0] = 200
    maps = salience.explain(classifier, images, "mask:steps=8:lr=1.0", pool=dark, batch_size=4)
    assert maps.image_ids == ("000000", "000002")
    assert [(f.image_id, f.kind) for f in maps.failures] == [("000001", "map")]


def test_a_run_that_is_added_to_keeps_its_masks(tmp_path: Path) -> None:
    """With a pool of their own, images that come later change nothing."""
    classifier = small_classifier()
    paths = runs.write_images(tmp_path / "images", classifier, 5)
    paths[4].rename(tmp_path / "later.png")
    pool = str(tmp_path / "pool")
    runs.write_images(tmp_path / "pool", small_classifier(), 3)
    settings = RunSettings(batch=4, memory_format="contiguous", unit_images=4, threads=1)
    first, _ = runs.run(
        classifier, tmp_path / "images", ["mask:steps=2"], tmp_path / "out", pool=pool, settings=settings
    )
    before = first.run.maps().values
    (tmp_path / "later.png").rename(paths[4])
    second, summary = runs.run(
        classifier, tmp_path / "images", ["mask:steps=2"], tmp_path / "out", pool=pool, settings=settings
    )
    assert (summary.computed, summary.reused) == (1, 4)
    assert second.run.maps().values[:4].tobytes() == before.tobytes()
