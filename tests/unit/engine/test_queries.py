"""Questions to black boxes: the budget to the letter, one set for all classes, and whose answers are whose."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import runs
import torch
from torch import Tensor, nn

import salience
from salience.engine.fills import fill
from salience.engine.masks import Cells, Filled, Masks, Windows
from salience.engine.method import Traits
from salience.engine.plan import Plan
from salience.engine.queries import Found, QueryMethod, Scene, Search, blend, converse, every, group_size
from salience.engine.sweep import Batch, BatchResult, Sweep
from salience.engine.targets import parse_target
from salience.engine.tune import running
from salience.errors import MethodError
from salience.methods.registry import parse_method
from salience.models.classifier import Classifier
from salience.testing.contracts import example_images
from salience.testing.models import small_classifier

IMAGES = torch.rand(5, 3, 8, 8, generator=torch.Generator().manual_seed(0))

#: every black-box method in several forms; what it may not have is a larger budget than it is given
FORMS = {
    "rise": "rise",
    "rise of many cells": "rise:cells=9:keep=0.2:centred=false",
    "occlusion": "occlusion",
    "occlusion in two steps": "occlusion:refine=true",
    "ridge": "ridge",
    "kernel_shap": "kernel_shap",
    "hsic": "hsic:cells=3",
    "sobol": "sobol",
    "brightness": "brightness",
    "random": "random",
    "decam": "decam",
    "decam of blobs": "decam:encoding=blobs:strategy=shade:map=ridge:population=7",
    "decam of points": "decam:encoding=points:strategy=jde:map=elite",
}
LEAST = {"sobol": 13, "decam": 17}


class Counting(nn.Module):
    """Two linear classes; keeps every row it is given, call by call."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, 192, generator=torch.Generator().manual_seed(1)) / 20)
        self.seen: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(x.detach().flatten(1).clone())
        return nn.functional.linear(x.flatten(1), self.weight)

    def rows(self) -> int:
        """Rows without those that fill a batch: repeats of the last."""
        total = 0
        for call in self.seen:
            repeats = (call == call[-1]).all(1).flip(0).long().cumprod(0).sum()
            total += len(call) - int(repeats) + 1
        return total


def counting() -> tuple[Classifier, Counting]:
    module = Counting().eval()
    classifier = Classifier(module, size=8, name="counting")
    assert classifier.num_classes == 3
    return classifier, module


def ask(
    method: str, classifier: Classifier, images: Tensor = IMAGES, *, target: str = "predicted", batch: int = 4
) -> tuple[BatchResult, Sweep]:
    plan = Plan(batch, "contiguous", 1)
    sweep = Sweep(
        classifier, [parse_method(method).method], parse_target(target, classifier.class_names), None, 0, plan
    )
    ids = tuple(f"image-{i}" for i in range(len(images)))
    with running(classifier, plan):
        return sweep.run(Batch(ids, images, torch.full((len(images),), -1))), sweep


# ---------------------------------------------------------------------- the budget


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS.keys())
def test_the_budget_is_kept_to_the_letter(form: str) -> None:
    """What the model sees, what the engine counts, what the map says and what was foretold are one number."""
    classifier, module = counting()
    for budget in (*range(LEAST.get(form.split(":")[0], 5), 131), 257):
        module.seen.clear()
        result, sweep = ask(f"{form}:budget={budget}", classifier, IMAGES[:1], batch=32)
        told = result.maps[0].diagnostics["forward_passes"]
        assert told.shape == (1, 1)
        assert module.rows() == sweep.calls.forward == int(told) == sweep.calls_per_image().forward
        assert int(told) <= budget
        assert sweep.calls.backward == 0
        if not any(word in form for word in ("occlusion", "sobol", "brightness", "random", "decam", "kernel_shap")):
            assert int(told) == budget  # nothing is left over
        assert len({row.numpy().tobytes() for call in module.seen for row in call}) <= int(told)


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS.keys())
@pytest.mark.parametrize("batch", [1, 3, 64])
def test_several_images_are_counted_one_by_one(form: str, batch: int) -> None:
    classifier, module = counting()
    module.seen.clear()
    result, sweep = ask(f"{form}:budget=42", classifier, batch=batch)
    told = result.maps[0].diagnostics["forward_passes"]
    assert told.shape == (5, 1)
    assert len(set(told.flatten().tolist())) == 1
    assert sweep.calls.forward == int(told.sum()) <= 5 * 42
    assert {len(call) for call in module.seen} == {batch}  # batches are full, always
    if batch == 1:
        assert len(module.seen) == sweep.calls.forward  # no padding: every row is a question
    together = group_size(parse_method(f"{form}:budget=42").method, (8, 8), batch)  # type: ignore[arg-type]
    groups = -(-min(5, batch) // together) * -(-5 // batch)
    rounds = 60  # of the longest search
    assert sum(map(len, module.seen)) < sweep.calls.forward + batch * (groups * rounds + 5)


@pytest.mark.parametrize("form", [f for f in FORMS.values() if f != "random"])  # that one asks nothing
def test_batches_hold_questions_about_several_images(form: str) -> None:
    """Only the last call of a round may have room left: an efficiency of nine tenths and more."""
    classifier, module = counting()
    module.seen.clear()
    _, sweep = ask(f"{form}:budget=129", classifier, IMAGES.repeat(4, 1, 1, 1)[:16], batch=16)
    assert sweep.calls.forward >= 0.9 * sum(map(len, module.seen))


@pytest.mark.parametrize("form", [f for f in FORMS.values() if not f.startswith("decam") and "refine" not in f])
def test_all_classes_cost_no_further_question(form: str) -> None:
    """And each gets the map that it would have got alone, where answers do not decide what is asked."""
    classifier = small_classifier()
    images = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(4))
    many, sweep = ask(f"{form}:budget=42", classifier, images, target="all")
    for c in range(5):
        one, alone = ask(f"{form}:budget=42", classifier, images, target=f"class:{c}")
        assert alone.calls.forward == sweep.calls.forward
        a, b = one.maps[0].values[:, 0], many.maps[0].values[:, c]
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4 * float(b.abs().max()))
        assert torch.equal(one.maps[0].scores[:, 0], many.maps[0].scores[:, c])


@pytest.mark.parametrize("form", ["decam:map=ridge", "decam:map=best", "occlusion:refine=true"])
def test_all_classes_of_a_search_that_follows_one(form: str) -> None:
    """The class that is followed, the predicted one, gets the same map as alone; no class costs a question."""
    classifier = small_classifier()
    images = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(4))
    many, sweep = ask(f"{form}:budget=81", classifier, images, target="all")
    one, alone = ask(f"{form}:budget=81", classifier, images, target="predicted")
    assert sweep.calls.forward == alone.calls.forward
    rows = torch.arange(3)
    followed = many.maps[0].values[rows, one.targets[:, 0]]
    torch.testing.assert_close(followed, one.maps[0].values[:, 0], rtol=1e-4, atol=1e-6)
    few, _ = ask(f"{form}:budget=81", classifier, images, target="predicted+2")
    torch.testing.assert_close(few.maps[0].values[:, 0], one.maps[0].values[:, 0], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS.keys())
def test_an_image_has_the_same_bytes_in_any_group(form: str) -> None:
    classifier = small_classifier()
    images = torch.rand(7, 3, 16, 16, generator=torch.Generator().manual_seed(4))
    whole, _ = ask(f"{form}:budget=42", classifier, images, target="all")
    for some in (slice(0, 1), slice(0, 2), slice(0, 6)):
        part, _ = ask(f"{form}:budget=42", classifier, images[some], target="all")
        assert part.maps[0].values.numpy().tobytes() == whole.maps[0].values[some].numpy().tobytes()
        for name, values in part.maps[0].diagnostics.items():
            assert values.numpy().tobytes() == whole.maps[0].diagnostics[name][some].numpy().tobytes(), name


# ---------------------------------------------------------------------- the conversation


@dataclass(frozen=True)
class Scripted(QueryMethod):
    """Asks what a test says."""

    script: Callable[[Scene], Search]
    declares: int = 100
    budget: int = 101
    fill: str = "mean"

    def within(self, budget: int) -> Scripted:
        return replace(self, budget=budget)

    def questions(self, size: tuple[int, int]) -> int:
        return self.declares

    def search(self, scene: Scene) -> Search:
        return self.script(scene)


Scripted.traits = Traits("scripted", "", "", signed=True, reference="")


def scene_of(images: Tensor, classes: int = 3) -> Scene:
    n = len(images)
    scores = torch.zeros(n, 1)
    targets = torch.arange(n).view(n, 1) % classes
    return Scene(
        images, tuple(map(str, range(n))), 0, targets, torch.zeros(n).long(), scores, torch.zeros(n, classes), "logit"
    )


def logits_of(x: Tensor) -> Tensor:
    """Sums of the three colours."""
    return x.sum((2, 3))


def lead(method: QueryMethod, images: Tensor, real: int, batch: int, ask: Callable[[Tensor, int], Tensor]) -> Found:
    found, _ = converse(
        method, scene_of(images), real, hide=lambda name: fill(name, images), ask=ask, batch=batch, output="logit"
    )
    return found


@pytest.mark.parametrize("batch", [1, 2, 5, 7, 100])
@pytest.mark.parametrize("real", [1, 3, 4])
def test_answers_come_back_to_their_masks(real: int, batch: int) -> None:
    """Every mask of every image, against one at a time; images that fill the group answer as the last one."""
    images = IMAGES[[0, 1, 2, 3]].clone()
    images[real:] = images[real - 1]
    values = torch.rand(4, 6, 2, 2, generator=torch.Generator().manual_seed(3))
    values[real:] = values[real - 1]
    masks = Cells(values)
    heard: list[Tensor] = []
    asked: list[int] = []

    def script(scene: Scene) -> Search:
        heard.append((yield masks))
        heard.append((yield Filled(Windows(torch.tensor([[0, 0, 3, 8]])), "black")))
        heard.append((yield masks))
        return Found(torch.zeros(4, 1, 2, 2))

    def answer(inputs: Tensor, rows: int) -> Tensor:
        assert len(inputs) == batch
        assert 1 <= rows <= batch
        asked.append(rows)
        return logits_of(inputs)

    lead(Scripted(script), images, real, batch, answer)
    assert sum(asked) == real * (6 + 1 + 6)
    assert len(asked) == 2 * -(-real * 6 // batch) + -(-real // batch)
    for g in range(4):
        target = int(scene_of(images).targets[g])
        target = target if g < real else int(scene_of(images).targets[real - 1])
        for k in range(6):
            mask = masks.render(torch.tensor([g]), torch.tensor([k]), (8, 8))
            mean = images[g].mean((1, 2), keepdim=True)
            expected = logits_of(mean + mask * (images[g] - mean))[0, target]
            for round_ in (0, 2):
                assert float(heard[round_][g, k, 0]) == pytest.approx(float(expected), rel=1e-5)
        bottom = images[g, target, 3:].sum()
        assert float(heard[1][g, 0, 0]) == pytest.approx(float(bottom), rel=1e-5)


def windows(count: int) -> Masks:
    return Windows(torch.tensor([[0, 0, 1 + i, 2] for i in range(count)]))


def test_more_than_declared_is_refused_before_it_is_asked() -> None:
    asked: list[int] = []

    def script(scene: Scene) -> Search:
        yield windows(3)
        yield windows(2)
        return Found(torch.zeros(2, 1, 1, 1))

    def answer(inputs: Tensor, rows: int) -> Tensor:
        asked.append(rows)
        return logits_of(inputs)

    with pytest.raises(MethodError, match=r"'scripted' asks for more than the 4 masks it declared"):
        lead(Scripted(script, declares=4), IMAGES[:2], 2, 3, answer)
    assert sum(asked) == 2 * 3
    lead(Scripted(script, declares=5), IMAGES[:2], 2, 3, answer)


@pytest.mark.parametrize(("declares", "budget"), [(4, 4), (100, 100), (1, 1), (1, 0)])
def test_more_than_the_budget_is_refused_before_anything_is_asked(declares: int, budget: int) -> None:
    def never(*_: object) -> Tensor:
        raise AssertionError("a question was asked")

    method = Scripted(never, declares=declares, budget=budget)  # type: ignore[arg-type]
    with pytest.raises(MethodError, match=f"needs {declares + 1} forward passes; {budget} are set"):
        lead(method, IMAGES[:2], 2, 4, never)


def test_a_method_may_ask_nothing() -> None:
    def script(scene: Scene) -> Search:
        yield from ()
        return Found(torch.ones(2, 1, 1, 1))

    def never(*_: object) -> Tensor:
        raise AssertionError("a question was asked")

    found = lead(Scripted(script, declares=0, budget=1), IMAGES[:2], 2, 4, never)
    assert bool((found.maps == 1).all())


def test_an_answer_that_is_no_number_marks_its_image_alone() -> None:
    def script(scene: Scene) -> Search:
        yield windows(3)
        yield windows(3)
        return Found(torch.ones(3, 1, 2, 2))

    calls = []

    def answer(inputs: Tensor, rows: int) -> Tensor:
        z = logits_of(inputs)
        calls.append(len(inputs))
        if len(calls) == 1:
            z[4] = float("inf")  # the second mask of the second image
        return z

    found = lead(Scripted(script), IMAGES[:3], 3, 9, answer)
    assert found.maps.isnan().flatten(1).any(1).tolist() == [False, True, False]


def test_blend_shows_the_image_where_the_mask_is_one() -> None:
    hidden = fill("mean", IMAGES)
    image = torch.tensor([3, 0])
    assert torch.equal(blend(IMAGES, hidden, torch.ones(2, 1, 8, 8), image), IMAGES[image])
    gone = blend(IMAGES, hidden, torch.zeros(2, 1, 8, 8), image)
    assert torch.equal(gone, hidden[image].expand(-1, -1, 8, 8))
    half = blend(IMAGES, fill("black", IMAGES), torch.full((2, 1, 8, 8), 0.25), image)
    torch.testing.assert_close(half, 0.25 * IMAGES[image])


def test_sums_are_cut_in_one_way() -> None:
    assert [(r.start, r.stop) for r in every(10, 4)] == [(0, 4), (4, 8), (8, 10)]
    assert every(0, 4) == []


def test_groups_fill_batches_and_no_more_is_held() -> None:
    sizes = {n: group_size(Scripted(lambda s: None, declares=n), (8, 8), 32) for n in (0, 1, 128, 1000, 9999)}  # type: ignore[arg-type,return-value]
    assert sizes == {0: 32, 1: 32, 128: 32, 1000: 4, 9999: 1}


# ---------------------------------------------------------------------- failures, and pools


class Spoilt(nn.Module):
    """NaN where one corner marked in magenta shows and the other does not; whole images are answered."""

    def __init__(self, inner: nn.Module, spoil: bool) -> None:
        super().__init__()
        self.inner, self.spoil = inner, spoil

    def forward(self, x: Tensor) -> Tensor:
        z = self.inner(x)
        pixels = x * x.new_tensor([0.2, 0.25, 0.3]).view(3, 1, 1) + x.new_tensor([0.4, 0.45, 0.5]).view(3, 1, 1)
        red, green, blue = pixels[:, :, [0, -1], [0, -1]].unbind(1)
        first, last = ((red > 0.7) & (green < 0.3) & (blue > 0.7)).unbind(1)
        return torch.where(((first != last) & self.spoil).unsqueeze(1), float("nan"), z)


def spoilt(spoil: bool) -> Classifier:
    inner = small_classifier()
    how = inner.preprocessing
    return Classifier(Spoilt(inner.module, spoil).eval(), size=16, mean=how.mean, std=how.std, name="spoilt")


@pytest.mark.parametrize("form", [f for f in FORMS.values() if f != "random"])
def test_nan_under_a_mask_is_a_row_and_touches_no_neighbour(form: str) -> None:
    """A model may answer for an image and not for parts of it: one failure, and the others' bytes as they were."""
    images = np.clip(example_images(small_classifier(), 5), 0, 150)
    images[1, 0, 0] = images[1, -1, -1] = (255, 0, 255)
    text = f"{form}:budget=42"
    whole = salience.explain(spoilt(False), images, text, batch_size=4)
    lost = salience.explain(spoilt(True), images, text, batch_size=4)
    assert [(f.image_id, f.kind, f.method) for f in lost.failures] == [("000001", "map", text)]
    assert lost.image_ids == ("000000", "000002", "000003", "000004")
    assert lost.values.tobytes() == whole.values[[0, 2, 3, 4]].tobytes()


@pytest.mark.parametrize("form", ["rise:budget=20", "occlusion:budget=20", "decam:budget=20"])
def test_other_images_hide_what_a_mask_leaves_out(form: str) -> None:
    classifier = small_classifier()
    images, pool = example_images(classifier, 4), example_images(classifier, 6, seed=5)
    maps = salience.explain(classifier, images, f"{form}:fill=dataset", pool=pool, batch_size=4)
    again = salience.explain(classifier, images, f"{form}:fill=dataset", pool=pool, batch_size=4)
    other = salience.explain(classifier, images, f"{form}:fill=dataset", pool=pool, batch_size=4, seed=1)
    plain = salience.explain(classifier, images, form, batch_size=4)
    assert maps.values.tobytes() == again.values.tobytes()
    assert maps.values.tobytes() != other.values.tobytes()
    assert maps.values.tobytes() != plain.values.tobytes()


def test_occlusion_over_another_image_is_the_fall_to_it() -> None:
    """One window as large as the image: what is asked about is the other image itself."""
    classifier = small_classifier()
    images = example_images(classifier, 2)
    maps = salience.explain(classifier, images, "occlusion:window=16:fill=dataset:budget=5", target=0, pool=images)
    p = maps.probabilities[:, 0]  # of two images each hides the other
    np.testing.assert_allclose(maps.values[:, 0, 0], [p[0] - p[1], p[1] - p[0]], atol=1e-6)


def test_what_a_fill_draws_belongs_to_the_seed_in_the_store(tmp_path: Path) -> None:
    """Occlusion draws nothing, its fill may: another seed is then another result, and computed."""
    classifier = small_classifier()
    runs.write_images(tmp_path / "images", classifier, 3)
    for form, again in (("occlusion:budget=17", 0), ("occlusion:budget=17:fill=noise", 3)):
        out = tmp_path / form.replace(":", "-")
        _, first = runs.run(classifier, tmp_path / "images", [form], out, seed=0)
        _, second = runs.run(classifier, tmp_path / "images", [form], out, seed=1)
        assert (first.computed, second.computed) == (3, again)
