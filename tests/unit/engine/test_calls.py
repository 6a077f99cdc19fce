"""Model calls are counted exactly, and are as few as the mathematics needs."""

from __future__ import annotations

from pathlib import Path

import pytest
import runs
import torch
from hypothesis import given
from hypothesis import strategies as st

from salience.engine.plan import Plan
from salience.engine.sweep import Batch, Sweep, packed
from salience.engine.targets import parse_target
from salience.engine.tune import running
from salience.methods.registry import parse_method
from salience.models.classifier import Classifier
from salience.testing.models import small_classifier

SIX = ["gradient", "positive", "negative", "gradient_x_input", "contrast", "gradient:channels=signed"]
CAMS = ["gradcam", "gradcam++", "hirescam", "layercam", "xgradcam"]
IMAGES = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def calls(
    classifier: Classifier, methods: list[str], target: str = "predicted", n: int = 4
) -> tuple[tuple[float, float], Sweep, runs.Counter]:
    """Passes per image as hooks see them (a full batch, so no padding), the sweep, and the hooks' own count."""
    plan = Plan(4, "contiguous", 1)
    chosen = [parse_method(m).method for m in methods]
    sweep = Sweep(classifier, chosen, parse_target(target, classifier.class_names), "logit", 0, plan)
    batch = Batch(tuple("abcd"[:n]), IMAGES[:n], torch.full((n,), -1))
    with running(classifier, plan), runs.counted(classifier.module) as seen:
        sweep.run(batch)
    return (seen.forward / n, seen.backward / n), sweep, seen


@pytest.mark.parametrize(
    ("methods", "classes", "expected"),
    [
        (["gradient"], 5, (1, 1)),
        (SIX, 5, (1, 2)),
        (["contrast", "contrast:weights=rivals", "contrast:channels=max"], 5, (1, 2)),
        (["active"], 10, (1, 10)),
        (["active", "inactive", "competitive_gi", "gradient", "positive"], 10, (1, 10)),
        (["active", "contrast"], 10, (1, 11)),
        (["active"], 30, (1, 21)),
        (["active:rivals=all"], 30, (1, 30)),
        (CAMS, 5, (1, 1)),
        ([*CAMS, *SIX], 5, (1, 2)),
        (["gradcam", "active"], 10, (1, 11)),
        (["smoothgrad:samples=3"], 5, (1 + 3, 3)),
        (["smoothgrad:samples=3", "smoothgrad:samples=3:channels=sum"], 5, (1 + 3, 3)),
        (["smoothgrad:samples=3", "smoothgrad:samples=2"], 5, (1 + 5, 5)),
    ],
)
def test_passes_per_image(methods: list[str], classes: int, expected: tuple[int, int]) -> None:
    seen, sweep, _ = calls(small_classifier(classes=classes), methods)
    assert seen == expected
    told = sweep.calls_per_image()
    assert (told.forward, told.backward) == expected
    assert (sweep.calls.forward, sweep.calls.backward) == (4 * expected[0], 4 * expected[1])


def test_integrated_gradients_cost_one_anchor_for_all_images() -> None:
    classifier = small_classifier()
    _, sweep, seen = calls(classifier, ["ig:steps=32"])
    assert (sweep.calls.forward, sweep.calls.backward) == (4 * 33 + 1, 4 * 32)
    assert seen.backward == 4 * 32
    assert seen.forward == 4 * 33 + 4  # the anchor is one image in a batch of four
    assert (sweep.calls_per_image().forward, sweep.calls_per_image().backward) == (33, 32)


def test_all_targets_share_the_forward_pass() -> None:
    classifier = small_classifier(classes=10)
    assert calls(classifier, ["gradient"], "all")[0] == (1, 10)
    assert calls(classifier, ["active", "inactive", "gradient"], "all")[0] == (1, 10)
    assert calls(classifier, ["gradcam", "gradient"], "all")[0] == (1, 10)


def test_padding_is_not_counted_as_work() -> None:
    _, sweep, seen = calls(small_classifier(), ["gradient"], n=3)
    assert (sweep.calls.forward, sweep.calls.backward) == (3, 3)
    assert (seen.forward, seen.backward) == (4, 4)


def test_few_images_fill_the_batch_with_points() -> None:
    """One image with eight points in batches of four: two calls, not eight."""
    _, sweep, seen = calls(small_classifier(), ["ig:steps=8"], n=1)
    assert sweep.calls.forward == 1 + 8 + 1
    assert seen.calls == 1 + 2 + 1


@pytest.mark.parametrize("images", range(1, 9))
def test_a_number_of_images_that_does_not_divide_the_batch_fills_it_too(images: int) -> None:
    classifier, plan = small_classifier(), Plan(8, "contiguous", 1)
    target = parse_target("predicted", classifier.class_names)
    sweep = Sweep(classifier, [parse_method("ig:steps=32").method], target, "logit", 0, plan)
    batch = Batch(tuple(map(str, range(images))), torch.rand(images, 3, 16, 16), torch.full((images,), -1))
    with running(classifier, plan), runs.counted(classifier.module) as seen:
        sweep.run(batch)
    assert seen.backward == images * 32  # 8 a call
    assert seen.forward == images * 32 + 16  # the images themselves, and the anchor, are a batch each


@given(images=st.integers(1, 64), points=st.integers(1, 200), times=st.integers(1, 8))
def test_packing_makes_no_more_calls_than_one_group_does(images: int, points: int, times: int) -> None:
    batch = images * times + times - 1
    sizes = packed(images, points, batch)

    def calls(count: int) -> int:
        return -(-points // (batch // count))

    assert sum(sizes) == images
    assert sum(map(calls, sizes)) <= calls(images)


def test_cams_alone_leave_the_trunk_without_a_graph() -> None:
    classifier = small_classifier()
    plan = Plan(4, "contiguous", 1)
    for methods, backward in ((CAMS, 0), ([*CAMS, "gradient"], 4)):
        chosen = [parse_method(m).method for m in methods]
        sweep = Sweep(classifier, chosen, parse_target("predicted", classifier.class_names), "logit", 0, plan)
        with running(classifier, plan), runs.counted(classifier.module.conv1) as trunk:
            sweep.run(Batch(tuple("abcd"), IMAGES, torch.full((4,), -1)))
        assert (trunk.forward, trunk.backward) == (4, backward)


def test_the_whole_run_counts_what_the_model_saw(tmp_path: Path) -> None:
    classifier = small_classifier(classes=10)
    runs.write_images(tmp_path / "images", classifier, 8)
    with runs.counted(classifier.module) as seen:
        runs.run(classifier, tmp_path / "images", ["gradient"], tmp_path / "warm")  # plan, layers, classes: known now
        seen.reset()
        _, summary = runs.run(
            classifier, tmp_path / "images", [*SIX, "active", "smoothgrad:samples=2"], tmp_path / "out"
        )
    assert (summary.calls.forward, summary.calls.backward) == (8 * 3, 8 * (10 + 1 + 2))
    assert (seen.forward, seen.backward) == (summary.calls.forward, summary.calls.backward)
