"""The masked sweep against plain loops in double precision."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from salience.engine.masked import (
    Fixed,
    Maps,
    Packer,
    Points,
    Record,
    answers,
    blank,
    falling_ranks,
    sweep,
    tie_order,
)
from salience.engine.plan import Plan
from salience.engine.tune import running
from salience.testing.models import linear_classifier, small_classifier

SIZE, CLASSES = 8, 5


@pytest.fixture
def scene():
    classifier, weights = linear_classifier(SIZE, CLASSES, dtype=torch.float64)
    rng = np.random.default_rng(0)
    images = torch.from_numpy(rng.random((3, 3, SIZE, SIZE)))
    background = torch.from_numpy(rng.random((3, 3, SIZE, SIZE)))
    maps = torch.from_numpy(rng.normal(size=(3, 4, SIZE, SIZE)).astype(np.float32))
    labels = torch.tensor([[0, 2, 4, 1], [3, 1, 0, 2], [4, 3, 2, 1]])
    bias = classifier.module.bias.detach().numpy()
    return classifier, weights, bias, images, background, maps, labels


def reference(weights, bias, image, background, values, label_set, label, order, k, restricted):
    """One masked image, pixel by pixel; values have no ties."""
    falling = sorted(range(values.size), key=lambda i: -values.flat[i])
    top = set(falling[:k])
    x = background.copy()
    for i in range(values.size):
        if (i in top) == (order == "keep"):
            r, c = divmod(i, values.shape[1])
            x[:, r, c] = image[:, r, c]
    z = np.array([(w * x).sum() + b for w, b in zip(weights, bias, strict=True)])
    z = z[label_set] if restricted else z
    p = np.exp(z - z.max())
    p /= p.sum()
    return p[list(label_set).index(label)] if restricted else p[label]


@pytest.mark.parametrize("batch", [1, 4, 7, 64])
def test_every_point_equals_a_plain_loop(scene, batch: int) -> None:
    classifier, weights, bias, images, background, maps, labels = scene
    points = {"keep": Points((5, 20, 40), (20, 40)), "delete": Points((7, 33), ())}
    record = Record(points, ("restricted", "full"), 3, 4, images.device)
    with running(classifier, Plan(batch, "contiguous", 1)):
        packer = Packer(classifier, Plan(batch, "contiguous", 1))
        for i in range(3):
            ranks = falling_ranks(maps[i], tie_order([str(i)], SIZE * SIZE, 0).expand(4, -1))
            ranked = Maps(ranks, torch.full((4,), i), torch.arange(4))
            sweep(packer, images, labels, ranked, Fixed(background), record)
        packer.flush()
    expected_rows = 3 * (3 + 3 * 2 + 2)
    assert packer.calls.forward == expected_rows == 3 * sum(p.rows(4) for p in points.values())
    for order, asked in (("keep", ((0, 5), (0, 20), (1, 20), (3, 40))), ("delete", ((0, 7), (0, 33)))):
        for output in ("restricted", "full"):
            found = record.read(order, output)
            for i in range(3):
                for column, k in asked:
                    wanted = reference(
                        weights,
                        bias,
                        images[i].numpy(),
                        background[i].numpy(),
                        maps[i, column].numpy(),
                        labels[i].numpy(),
                        int(labels[i, column]),
                        order,
                        k,
                        output == "restricted",
                    )
                    value = found[i, column, points[order].every.index(k)]
                    assert float(value) == pytest.approx(wanted, abs=1e-12)
    assert record.read("keep", "full")[:, 1:, 0].isnan().all()  # 5 was asked of the first label alone
    assert record.read("delete", "full")[:, 1:].isnan().all()
    assert not record.broken().any()


def test_a_shared_map_answers_for_all_labels_at_once(scene) -> None:
    classifier, _, _, images, background, maps, labels = scene
    plan = Plan(8, "contiguous", 1)
    points = {"keep": Points((9, 30), (9, 30))}
    one, each = (Record(points, ("restricted",), 3, 4, images.device) for _ in range(2))
    with running(classifier, plan):
        packer = Packer(classifier, plan)
        for i in range(3):
            ranks = falling_ranks(maps[i, :1], tie_order([str(i)], SIZE * SIZE, 0))
            column = torch.zeros(1, dtype=torch.int64)
            sweep(packer, images, labels, Maps(ranks, column + i, column, True), Fixed(background), one)
            repeated = Maps(ranks.expand(4, -1, -1), torch.full((4,), i), torch.arange(4))
            sweep(packer, images, labels, repeated, Fixed(background), each)
        packer.flush()
    assert torch.allclose(one.read("keep", "restricted"), each.read("keep", "restricted"), atol=1e-14)
    assert points["keep"].rows(4, shared=True) == 2


def test_draws_are_averaged_and_blanks_are_the_background(scene) -> None:
    classifier, _, _, images, background, _, labels = scene
    plan = Plan(4, "contiguous", 1)
    into = {"full": torch.zeros(3, 4, dtype=torch.float64)}
    with running(classifier, plan), torch.no_grad():
        packer = Packer(classifier, plan)
        for other in (background, background.flip(0)):
            blank(packer, images, labels, Fixed(other), into, 0.5)
        packer.flush()
        wanted = sum(answers(classifier.logits(b), labels, ("full",))["full"] for b in (background, background.flip(0)))
    assert torch.allclose(into["full"], wanted / 2, atol=1e-14)


def test_ranks_fall_and_ties_follow_the_image() -> None:
    values = torch.tensor([[[3.0, 1.0], [2.0, -5.0]]])
    assert falling_ranks(values, tie_order(["a"], 4, 0)).tolist() == [[[0, 2], [1, 3]]]
    flat = torch.zeros(2, 4, 4)
    a, b = (falling_ranks(flat[:1], tie_order([i], 16, 0)) for i in ("a", "b"))
    assert sorted(a.flatten().tolist()) == list(range(16))
    assert not torch.equal(a, b)
    both = falling_ranks(flat, tie_order(["a", "b"], 16, 0))
    assert torch.equal(both, torch.cat([a, b]))
    assert not torch.equal(falling_ranks(flat[:1], tie_order(["a"], 16, 1)), a)
    signed_zero = torch.tensor([[[0.0, -0.0], [0.0, -0.0]]])
    assert torch.equal(
        falling_ranks(signed_zero, tie_order(["a"], 4, 0)), falling_ranks(signed_zero.abs(), tie_order(["a"], 4, 0))
    )


def test_ties_are_in_every_order_equally_often() -> None:
    """The first of two tied pixels is either one in half of the images."""
    ranks = falling_ranks(torch.zeros(400, 1, 2), tie_order([str(i) for i in range(400)], 2, 0))
    assert 150 < int((ranks[:, 0, 0] == 0).sum()) < 250


def test_calls_are_full_and_the_last_one_is_padded() -> None:
    classifier = small_classifier()
    plan = Plan(4, "channels_last", 1)
    sizes: list[int] = []
    seen: list[int] = []
    given = torch.rand(10, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    with running(classifier, plan):
        handle = classifier.module.register_forward_pre_hook(lambda _m, args: sizes.append(len(args[0])))
        packer = Packer(classifier, plan, seen.append)
        found: list[torch.Tensor] = []
        for rows in (given[:3], given[3:10]):
            packer.add(
                len(rows),
                lambda inputs, cut, rows=rows: inputs.copy_(rows[cut]),
                lambda logits, _: found.append(logits.clone()),
            )
        packer.flush()
        packer.flush()  # nothing is left: no call
        handle.remove()
        with torch.no_grad():
            wanted = classifier.logits(given)
    assert sizes == [4, 4, 4]
    assert seen == [4, 4, 2]
    assert packer.calls.forward == 10
    assert torch.allclose(torch.cat(found), wanted, atol=1e-5)


def test_a_model_that_answers_nan_is_found(scene) -> None:
    _, _, _, images, background, maps, labels = scene
    classifier, _ = linear_classifier(SIZE, CLASSES, dtype=torch.float64)
    classifier.module.bias.data[1] = float("nan")
    record = Record({"keep": Points((9,), (9,))}, ("full",), 3, 4, images.device)
    plan = Plan(4, "contiguous", 1)
    with running(classifier, plan):
        packer = Packer(classifier, plan)
        ranks = falling_ranks(maps[1], tie_order(["1"], SIZE * SIZE, 0).expand(4, -1))
        sweep(
            packer,
            images,
            labels,
            Maps(ranks, torch.ones(4, dtype=torch.int64), torch.arange(4)),
            Fixed(background),
            record,
        )
        packer.flush()
    assert record.broken().tolist() == [False, True, False]
