"""Signed gradients and their family against their formulas, and in closed form on a linear model."""

from __future__ import annotations

import formulas as f
import numpy as np
import pytest
import torch

import salience
from salience.engine.passes import draw_rivals
from salience.testing.models import linear_classifier, small_classifier

OUTPUTS = ("logit", "prob", "logprob", "margin")
TARGETS = ("predicted", "label", "class:2", "all")
LABELS = (4, 0, 3)
CONTRASTS = [f"contrast:weights={w}:channels={c}" for w in ("uniform", "probability", "rivals") for c in ("sum", "max")]


def classes_of(target: str, logits: torch.Tensor, i: int) -> list[int]:
    return {
        "predicted": [int(logits[i].argmax())],
        "label": [LABELS[i]],
        "class:2": [2],
        "all": list(range(logits.shape[1])),
    }[target]


@pytest.mark.parametrize("output", OUTPUTS)
@pytest.mark.parametrize("target", TARGETS)
def test_every_map_is_its_formula(target: str, output: str) -> None:
    classifier = small_classifier(dtype=torch.float64)
    images = f.pixels(3, 16)
    forms = [*f.OWN, *f.RIVAL, *CONTRASTS]
    found = f.engine(classifier, images, forms, target=target, output=output, labels=LABELS)
    for i, image in enumerate(images):
        z = f.logits(classifier, image).detach()
        torch.testing.assert_close(found.logits[i], z, rtol=1e-12, atol=1e-12)
        wanted = classes_of(target, found.logits, i)
        assert found.targets[i].tolist() == wanted
        slopes = [f.gradient(classifier, image, c, output) for c in range(5)]
        for column, t in enumerate(wanted):
            rivals = [s for c, s in enumerate(slopes) if c != t]
            for form, maps in zip(forms, found.maps, strict=True):
                torch.testing.assert_close(maps.scores[i, column], f.scalar(output, z, t), rtol=1e-12, atol=1e-12)
                if form in f.OWN:
                    expected = f.own_map(form, slopes[t], image)
                elif form in f.RIVAL:
                    expected = f.rival_map(form, slopes[t], rivals, image)
                else:
                    _, weights, rule = (part.split("=")[-1] for part in form.split(":"))
                    expected = f.contrast_map(weights, rule, slopes, z, t)
                scale = float(slopes[t].abs().max())
                torch.testing.assert_close(
                    maps.values[i, column],
                    expected,
                    rtol=1e-9,
                    atol=1e-9 * scale,
                    msg=lambda m, form=form: f"{form}: {m}",
                )


def test_maps_asked_together_are_those_asked_alone() -> None:
    classifier = small_classifier(dtype=torch.float64)
    images = f.pixels(3, 16)
    forms = ["gradient", "active", "contrast", "gradcam", "gradient_x_input"]
    together = f.engine(classifier, images, forms, target="all")
    for form, maps in zip(forms, together.maps, strict=True):
        alone = f.engine(classifier, images, [form], target="all").maps[0]
        scale = float(alone.values.abs().max())
        torch.testing.assert_close(maps.values, alone.values, rtol=1e-9, atol=1e-12 * scale, msg=form)


@pytest.mark.parametrize("target", ["predicted", "class:7", "label", "all"])
@pytest.mark.parametrize("classes", [21, 22, 30])
def test_sampled_rivals(classes: int, target: str) -> None:
    """The target competes with the drawn classes and with no others."""
    classifier = small_classifier(classes=classes, dtype=torch.float64)
    images = f.pixels(2, 16)
    forms = [form + ":rivals=sample" for form in f.RIVAL]
    found = f.engine(classifier, images, forms, target=target, labels=[20, 3], seed=5)
    drawn = draw_rivals(found.logits, f.names(2), 5)
    for i, image in enumerate(images):
        slopes = [f.gradient(classifier, image, c) for c in range(classes)]
        order = found.logits[i].argsort(descending=True).tolist()
        for column, t in enumerate(found.targets[i].tolist()):
            pool = {int(c) for c in drawn[i]} - {t}
            top = [c for c in order if c != t][:10]
            assert set(top) <= pool, "the ten most probable rivals compete, whatever the target"
            if len(pool) > 20:  # one class more is drawn than there are rivals: the last of the top gives way
                pool -= {order[10]}
            assert len(pool) == 20
            for form, maps in zip(forms, found.maps, strict=True):
                expected = f.rival_map(form, slopes[t], [slopes[c] for c in sorted(pool)], image)
                torch.testing.assert_close(maps.values[i, column], expected, rtol=1e-9, atol=1e-12, msg=form)


@pytest.mark.parametrize("classes", [5, 20, 21])
def test_up_to_21_classes_a_sample_is_everyone(classes: int) -> None:
    classifier = small_classifier(classes=classes, dtype=torch.float64)
    images = f.pixels(2, 16)
    sample, every, auto = f.engine(
        classifier, images, ["active:rivals=sample", "active:rivals=all", "active:rivals=auto"], target="class:1"
    ).maps
    torch.testing.assert_close(sample.values, every.values, rtol=1e-12, atol=0)
    torch.testing.assert_close(auto.values, every.values, rtol=1e-9, atol=1e-15)


def test_rivals_are_drawn_per_image_and_by_seed() -> None:
    logits = torch.randn(3, 60, generator=torch.Generator().manual_seed(0))
    first = draw_rivals(logits, ("a", "b", "c"), 0)
    assert torch.equal(first[1:2], draw_rivals(logits[1:2], ("b",), 0))
    assert not torch.equal(first, draw_rivals(logits, ("a", "b", "c"), 1))
    for i, row in enumerate(first.tolist()):
        assert len(set(row)) == len(row)
        others = [c for c in logits[i].argsort(descending=True).tolist() if c != int(logits[i].argmax())]
        assert set(others[:10]) <= set(row)


@pytest.mark.parametrize("form", [*f.OWN, *f.RIVAL, *CONTRASTS, "gradcam", "ig:steps=8", "smoothgrad:samples=3"])
def test_float32_is_near_float64(form: str) -> None:
    images = f.pixels(3, 16)
    wide = f.engine(small_classifier(dtype=torch.float64), images, [form]).maps[0].values
    narrow = f.engine(small_classifier(), images.float(), [form], memory_format="channels_last").maps[0].values
    off = (narrow.double() - wide).abs() > 1e-4 * wide.abs().amax((2, 3), keepdim=True)
    assert off.double().mean() < 1e-3  # where gradients of two classes tie but for rounding, a pixel may flip


# ---------------------------------------------------------------------- closed forms


def test_linear_model_in_closed_form() -> None:
    """Every gradient is a weight, so every map is written down."""
    classifier, w = linear_classifier()
    images = np.random.default_rng(0).random((4, 3, 8, 8)).astype(np.float32)
    forms = ["gradient", "positive", "negative", "active", "inactive", "contrast", "gradient_x_input", "competitive_gi"]
    for t in range(3):
        found = salience.explain(classifier, images, forms, target=t)
        others = np.delete(w, t, axis=0)
        wins = (w[t] > others.max(0)) & (w[t] > 0)
        loses = (w[t] < others.min(0)) & (w[t] < 0)
        expected = {
            "gradient": np.abs(w[t]).max(0),
            "positive": np.maximum(w[t], 0).max(0),
            "negative": np.maximum(-w[t], 0).max(0),
            "active": (w[t] * wins).max(0),
            "inactive": (-w[t] * loses).max(0),
            "contrast": (w[t] - w.mean(0)).sum(0),
        }
        for name, value in expected.items():
            np.testing.assert_allclose(found[name].values, np.broadcast_to(value, (4, 8, 8)), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(found["gradient_x_input"].values, (w[t] * images).sum(1), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(
            found["competitive_gi"].values, (w[t] * (wins | loses) * images).sum(1), rtol=1e-4, atol=1e-5
        )


def test_positive_and_negative_make_the_gradient() -> None:
    classifier = small_classifier()
    images = np.random.default_rng(1).random((3, 3, 16, 16)).astype(np.float32)
    m = salience.explain(classifier, images, ["gradient", "positive", "negative", "active", "inactive"])
    assert (np.maximum(m["positive"].values, m["negative"].values) == m["gradient"].values).all()
    assert (m["active"].values <= m["positive"].values).all()
    assert (m["inactive"].values <= m["negative"].values).all()
