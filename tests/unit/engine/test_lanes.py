"""Several threads of a process that compute units side by side: the same bytes, the same failures, the same end."""

from __future__ import annotations

import itertools
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import runs
import torch
from PIL import Image
from torch import nn

import salience
from salience.engine import tune
from salience.engine.events import Committed, Event, Failed, PlanChanged, Progress
from salience.engine.plan import Plan
from salience.engine.sweep import Sweep
from salience.engine.targets import parse_target
from salience.engine.tune import make_plan
from salience.engine.work import Part, Work, shrinking
from salience.errors import ModelError
from salience.explaining import Outcome, RunSettings, explain_run
from salience.methods.registry import parse_method
from salience.models.classifier import Classifier
from salience.models.twin import twin
from salience.testing.contracts import example_images
from salience.testing.models import small_classifier, small_vit

ALONE = Plan(2, "contiguous", 1)
METHODS = ["gradient", "active", "ig:steps=4", "smoothgrad:samples=3", "gradcam", "rise:budget=16", "mask:steps=2"]


@pytest.fixture
def planned(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Make runs follow a plan."""

    def follow(plan: Plan) -> None:
        monkeypatch.setattr("salience.explaining.make_plan", lambda *args, **how: plan)

    return follow


def explained(classifier: Classifier, images: Any, out: Path, methods: list[str], **how: Any) -> Outcome:
    return explain_run([classifier], images, methods, out, settings=RunSettings(unit_images=4), **how)


@pytest.mark.parametrize("make", [small_classifier, small_vit])
def test_lanes_write_what_one_call_after_another_writes(make: Any, planned: Any, tmp_path: Path) -> None:
    classifier = make()
    np.savez(tmp_path / "images.npz", images=example_images(classifier, 19))
    found = []
    for lanes in (1, 3):
        planned(replace(ALONE, lanes=lanes))
        found.append(explained(classifier, str(tmp_path / "images.npz"), tmp_path / str(lanes), METHODS).run)
    one, three = found
    assert len(three.units()) > len(one.units()) > 3
    for method in METHODS:
        a, b = one.maps(method), three.maps(method)
        assert a.image_ids == b.image_ids
        assert a.values.tobytes() == b.values.tobytes(), method
        assert a.probabilities.tobytes() == b.probabilities.tobytes()
        for name, column in a.diagnostics.items():
            assert np.array_equal(column, b.diagnostics[name], equal_nan=True), (method, name)
    assert three.info["models"][classifier.name]["plan"]["lanes"] == 3
    assert one.info["recipes"].keys() == three.info["recipes"].keys()
    assert all("grid" in entry for entry in three.info["recipes"].values())


def test_in_memory_maps_are_in_the_order_of_the_images(planned: Any) -> None:
    classifier = small_classifier()
    images = example_images(classifier, 23)
    found = []
    for lanes in (1, 4):
        planned(replace(ALONE, lanes=lanes))
        found.append(salience.explain(classifier, images, "gradient"))
    assert found[0].image_ids == found[1].image_ids
    assert found[0].values.tobytes() == found[1].values.tobytes()


def test_scores_are_the_same(planned: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    classifier = small_classifier()
    images = example_images(classifier, 9)
    tables = []
    for lanes in (1, 2):
        planned(replace(ALONE, lanes=lanes))
        scores = salience.evaluate(
            classifier,
            images,
            ["gradient", "gradcam"],
            metrics=["insertion:points=4", "srg:points=4", "random-logit"],
            background=["mean", "road"],
            settings=RunSettings(unit_images=3),
            out=tmp_path / str(lanes),
        )
        columns = ["image_id", "method", "label", "metric", "background", "value"]
        tables.append(sorted(map(str, scores.table.select(columns).to_pylist())))
    assert len(tables[0]) > 50
    assert tables[0] == tables[1]


def test_what_is_told_is_told_in_the_thread_that_asked(planned: Any, tmp_path: Path) -> None:
    classifier = small_classifier()
    for i, image in enumerate(example_images(classifier, 12)):
        Image.fromarray(image).save(tmp_path / f"{i:02d}.png")
    (tmp_path / "05a.png").write_bytes(b"")
    images = sorted(tmp_path.glob("*.png"))
    planned(replace(ALONE, lanes=2))
    heard: list[tuple[Event, int]] = []
    outcome = explained(
        classifier, images, tmp_path / "run", ["gradient"], listen=lambda e: heard.append((e, threading.get_ident()))
    )
    assert {ident for _, ident in heard} == {threading.get_ident()}
    events = [event for event, _ in heard]
    assert sum(e.images for e in events if isinstance(e, Committed)) == 12
    assert [e.image_id for e in events if isinstance(e, Failed)] == outcome.run.table("failures")[
        "image_id"
    ].to_pylist()
    last = [e for e in events if isinstance(e, Progress)][-1]
    assert (last.done, last.share) == (13, 1.0)


def test_a_model_that_fails_fails_the_run_and_what_is_done_stays(planned: Any, tmp_path: Path) -> None:
    inner = small_classifier()
    calls: list[int] = []

    class Tired(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = inner.module

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            calls.append(len(x))
            if len(calls) > 6:
                raise ValueError("no more")
            return torch.as_tensor(self.net(x))

    classifier = Classifier(Tired().eval(), size=16, name="tired")
    planned(replace(ALONE, lanes=2))
    images = example_images(classifier, 24)
    with pytest.raises(ModelError, match="no more"):
        explained(classifier, images, tmp_path / "run", ["gradient"])
    run = salience.open_run(tmp_path / "run")
    assert run.info["status"] == "failed"
    assert 0 < len(run.maps("gradient")) < 24
    assert not [t for t in threading.enumerate() if t.name.startswith("lane-")]


def test_an_interrupt_ends_the_lanes_at_their_next_model_call(planned: Any, tmp_path: Path) -> None:
    inner = small_classifier()

    class Slow(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = inner.module

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            time.sleep(0.02)
            return torch.as_tensor(self.net(x))

    def interrupt(event: Event) -> None:
        if isinstance(event, Progress):
            raise KeyboardInterrupt

    classifier = Classifier(Slow().eval(), size=16, name="slow")
    planned(replace(ALONE, lanes=2))
    begin = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        explained(classifier, example_images(classifier, 8), tmp_path / "run", ["ig:steps=2000"], listen=interrupt)
    assert time.monotonic() - begin < 60  # all of it would take three minutes
    assert salience.open_run(tmp_path / "run").info["status"] == "interrupted"


def test_where_memory_runs_out_each_lane_halves_its_batch(planned: Any, tmp_path: Path) -> None:
    inner = small_classifier()
    narrow = Classifier(runs.OutOfMemoryFor(inner.module, lambda x: len(x) > 1).eval(), size=16, name="narrow")
    images = example_images(narrow, 9)
    planned(replace(ALONE, batch=1))
    alone = salience.explain(narrow, images, "gradient")
    planned(replace(ALONE, batch=4, lanes=2))
    events: list[Event] = []
    outcome = explained(narrow, images, tmp_path / "run", ["gradient"], listen=events.append, map_dtype="float32")
    assert outcome.run.maps("gradient").values.tobytes() == alone.values.tobytes()
    assert [e.batch for e in events if isinstance(e, PlanChanged)] == [1]
    assert outcome.run.info["models"]["narrow"]["plan"]["batch"] == 1


@pytest.mark.parametrize(
    ("methods", "least"),
    [
        ("gradient", 8),
        ("ig:steps=32", 1),  # 64 passes an image, 8 batches of 8
        ("gradient,ig:steps=4", 8),
        ("smoothgrad:samples=8", 4),
        ("rise:budget=65", 1),
        ("rise:budget=65,gradcam", 2),  # two other passes an image
        ("rise:budget=17", 4),
        ("rise:budget=9", 8),
        ("rise:budget=257,mask:steps=2", 8),
        ("rise:budget=257,captum:Saliency", 8),
    ],
)
def test_images_that_are_asked_about_often_need_not_fill_a_batch(methods: str, least: int) -> None:
    if "captum" in methods:
        pytest.importorskip("captum")
    chosen = [parse_method(text).method for text in methods.split(",")]
    assert Sweep(small_classifier(), chosen, parse_target("predicted", ()), None, 0, Plan(8)).least() == least


@pytest.mark.parametrize("method", ["rise:budget=257", "ig:steps=64", "smoothgrad:samples=50"])
def test_few_images_that_are_asked_about_often_keep_all_lanes_busy(planned: Any, method: str) -> None:
    classifier = small_classifier()
    busy: set[str] = set()
    classifier.module.register_forward_pre_hook(lambda *args: busy.add(threading.current_thread().name))
    planned(Plan(16, "contiguous", 1, lanes=2))
    salience.explain(classifier, example_images(classifier, 8), method)
    assert {"lane-0", "lane-1"} <= busy


# ------------------------------------------------------------------ twins


def test_a_twin_lies_in_the_same_memory_and_has_hooks_of_its_own() -> None:
    classifier = small_classifier()
    other = twin(classifier)
    images = torch.rand(3, 3, *classifier.preprocessing.size)
    assert torch.equal(classifier.logits(images), other.logits(images))
    pairs = list(zip(classifier.module.parameters(), other.module.parameters(), strict=True))
    assert all(a is not b and a.data_ptr() == b.data_ptr() for a, b in pairs)
    assert classifier.fingerprint() == other.fingerprint()
    seen: list[str] = []
    hooked = next(m for m in other.module.modules() if not list(m.children()))
    hooked.register_forward_hook(lambda *args: seen.append("twin"))
    classifier.logits(images)
    assert not seen
    other.logits(images)
    assert seen == ["twin"]
    for a, b in pairs:
        b.requires_grad_(not a.requires_grad)
        assert a.requires_grad != b.requires_grad


def test_weights_that_are_tied_stay_tied() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(4, 4)
            self.b = nn.Linear(4, 4)
            self.b.weight = self.a.weight

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.as_tensor(self.b(self.a(x.mean((1, 2, 3), keepdim=True).expand(-1, 4, 1, 1).flatten(1))))

    other = twin(Classifier(Tied().eval(), size=8))
    assert other.module.a.weight is other.module.b.weight


def locked() -> Classifier:
    inner = small_classifier()
    inner.module.guard = threading.Lock()  # type: ignore[assignment]  # which nothing can copy
    return inner


@pytest.mark.parametrize(
    "make", [locked, lambda: Classifier.from_callable(lambda x: x.mean((2, 3)), size=8, arrays="torch")]
)
def test_models_without_twins_are_told_and_run_alone(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    classifier = make()
    with pytest.raises(ModelError, match=r"twin|cannot be copied"):
        twin(classifier)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    assert make_plan(classifier, budget_s=0.1, remember=False).lanes == 1


def test_a_plan_with_lanes_is_followed_by_one_call_after_another_where_there_are_no_twins(planned: Any) -> None:
    classifier, same = locked(), small_classifier()
    planned(replace(ALONE, lanes=2))
    images = example_images(classifier, 5)
    assert salience.explain(classifier, images).values.tobytes() == salience.explain(same, images).values.tobytes()


def test_a_twin_that_answers_otherwise_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    class Moody(nn.Module):
        """Its copies are not what it is."""

        shift = 0.0

        def __init__(self) -> None:
            super().__init__()
            self.net = small_classifier().module

        def __deepcopy__(self, memo: Any) -> Moody:
            other = Moody()
            other.shift = 1.0
            return other.eval()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.as_tensor(self.net(x) + self.shift)

    plan = Plan(2, "contiguous", 2)
    assert tune._has_twins(small_classifier(), plan, gradients=True)
    assert not tune._has_twins(Classifier(Moody().eval(), size=16), plan, gradients=True)


# ------------------------------------------------------------------ plans and units


@pytest.mark.parametrize(("fast", "lanes"), [(2.0, 2), (0.5, 1)])
def test_lanes_are_taken_where_they_are_not_slower(fast: float, lanes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def seconds(classifier: Classifier, plan: Plan, gradients: bool, at_least_s: float = 0.15) -> float:
        return 1.0 / (fast if plan.lanes > 1 else 1.0)

    monkeypatch.setattr(tune, "seconds_per_row", seconds)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    plan = make_plan(small_classifier(), remember=False)
    assert (plan.lanes, plan.threads) == (lanes, 2 // lanes)
    assert make_plan(small_classifier(), remember=False, threads=1).lanes == 1


def test_a_plan_for_fewer_threads_has_fewer_lanes() -> None:
    plan = replace(ALONE, lanes=4)
    assert (plan.within(2).threads, plan.within(2).lanes) == (1, 2)
    assert (plan.within(1).threads, plan.within(1).lanes) == (1, 1)
    assert (plan.alone().threads, plan.alone().lanes) == (4, 1)
    assert (Plan(2, threads=2).within(8).threads, Plan(2, threads=2).within(8).lanes) == (2, 1)


@pytest.mark.parametrize("least", [1, 8])
@pytest.mark.parametrize("sizes", [[100], [64] * 15 + [40], [3, 2], [1], []])
def test_units_of_lanes_shrink_to_the_least(sizes: list[int], least: int) -> None:
    starts = np.cumsum([0, *sizes]).tolist()
    parts = [Part(tuple(range(a, b)), (i,), least=least) for i, (a, b) in enumerate(itertools.pairwise(starts))]
    work: Any = Work(
        **dict.fromkeys(["classifier", "source", "craft", "lost"], None),
        **{"verb": "explain", "plan": replace(ALONE, lanes=2), "parts": parts, "reused": 0},
    )
    units = shrinking(work).parts
    assert [i for unit in units for i in unit.images] == list(range(sum(sizes)))
    assert all(set(unit.images) <= set(parts[unit.members[0]].images) for unit in units)
    assert all(len(unit.images) <= max(least, -(-sum(sizes) // 4) + least) for unit in units)
    assert all(len(unit.images) <= least for unit in units[-2:])
