"""``salience explain`` as its user types it, and the results as they are read back."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from terminal import CLASSES, FAST, Terminal, pixels, write_card, write_pictures

import salience
from salience.progress import short_class

FAMILY = ("gradient", "positive", "negative", "active", "inactive", "contrast", "gradcam")


def recipes_of(run: Path, unit: int) -> set[str]:
    """Methods that a unit computed."""
    record = json.loads((run / "units" / f"{unit:06d}.json").read_text(encoding="utf-8"))
    described = salience.open_run(run).info["recipes"]
    return {described[r]["method"] for r in record["recipes"]}


def test_the_whole_family_in_one_command(terminal: Terminal) -> None:
    done = terminal.run(
        "explain", "pictures", "--model", "card.toml", "--method", ",".join(FAMILY), "--out", "run", "--log-json", *FAST
    )
    assert done.code == 0, done.err
    kinds = [e["event"] for e in done.events]
    assert kinds[0] == "started"
    assert kinds[-1] == "finished"
    assert {"progress", "unit"} <= set(kinds)
    assert all(e["model"] == "card" for e in done.events)
    assert done.event("started")["images"] == 12
    finished = done.event("finished")
    assert (finished["computed"], finished["reused"], finished["failures"]) == (12, 0, 0)
    assert done.summary["methods"] == list(FAMILY)
    assert done.summary["failures"] == 0
    assert done.summary["models"]["card"]["labelled"] == 12

    run = salience.open_run(terminal.folder / "run")
    assert run.methods == FAMILY
    ids = tuple(f"{name}/{i:03d}.png" for name in ("ant", "bee", "cat") for i in range(4))
    for method in FAMILY:
        maps = run.maps(method=method)
        assert maps.image_ids == ids
        assert maps.values.shape == ((12, 4, 4) if method == "gradcam" else (12, 16, 16))
        assert maps.values.dtype == np.float32
        assert np.isfinite(maps.values).all()
        assert np.abs(maps.values).max() > 0
        assert maps.signed == (method == "contrast")
        assert np.array_equal(maps.labels, np.repeat([0, 1, 2], 4))
        assert np.array_equal(maps.targets, maps.probabilities.argmax(1))
    gradient, positive, negative = (run.maps(m).values for m in ("gradient", "positive", "negative"))
    np.testing.assert_allclose(gradient, np.maximum(positive, negative), rtol=2e-3, atol=1e-7)
    assert run.info["command"][:2] == ["salience", "explain"]
    assert run.info["status"] == "complete"
    page = Path(done.summary["report"])
    assert page == terminal.folder / "run" / "report" / "index.html" or page == Path("run/report/index.html")
    assert "ant/000.png" in (terminal.folder / "run/report/index.html").read_text(encoding="utf-8")


def test_a_run_grows_and_computes_only_what_is_new(terminal: Terminal) -> None:
    run = terminal.folder / "run"
    assert terminal.explain("--method", "gradient,smoothgrad:samples=2").event("finished")["computed"] == 12

    again = terminal.explain("--method", "gradient,smoothgrad:samples=2")
    assert again.code == 0
    assert (again.event("started")["images"], again.event("started")["reused"]) == (0, 12)
    assert again.event("finished")["forward_calls"] == 0
    assert len(salience.open_run(run).units()) == 1

    more = terminal.explain("--method", "gradient,gradcam,smoothgrad:samples=2")
    assert more.event("finished")["computed"] == 12
    assert recipes_of(run, 1) == {"gradcam"}
    assert salience.open_run(run).methods == ("gradient", "gradcam", "smoothgrad:samples=2")

    before = salience.open_run(run).maps("smoothgrad:samples=2").values
    seeded = terminal.explain("--method", "gradient,gradcam,smoothgrad:samples=2", "--seed", "5")
    assert seeded.event("finished")["computed"] == 12
    assert recipes_of(run, 2) == {"smoothgrad:samples=2"}
    assert not np.array_equal(salience.open_run(run).maps("smoothgrad:samples=2").values, before)

    old = salience.open_run(run).maps("gradient")
    Image.fromarray(pixels(99)).save(terminal.folder / "pictures" / "bee" / "002.png")
    changed = terminal.explain("--method", "gradient,gradcam,smoothgrad:samples=2", "--seed", "5")
    assert (changed.event("started")["images"], changed.event("started")["reused"]) == (1, 11)
    assert recipes_of(run, 3) == {"gradient", "gradcam", "smoothgrad:samples=2"}
    new = salience.open_run(run).maps("gradient")
    same = (new.values == old.values).all(axis=(1, 2))
    assert [i for i, s in zip(new.image_ids, same, strict=True) if not s] == ["bee/002.png"]

    os.utime(terminal.folder / "pictures" / "ant" / "000.png")  # touched, and the same
    touched = terminal.explain("--method", "gradient,gradcam,smoothgrad:samples=2", "--seed", "5")
    assert touched.event("started")["images"] == 0

    write_pictures(terminal.folder / "pictures", {"ant": 4, "bee": 0, "cat": 0, "dog": 2})
    added = terminal.explain("--method", "gradient,gradcam,smoothgrad:samples=2", "--seed", "5")
    assert added.event("started")["images"] == 2
    assert len(salience.open_run(run).maps("gradcam").image_ids) == 14


def test_new_weights_are_new_maps(terminal: Terminal) -> None:
    terminal.explain("--method", "gradient")
    before = salience.open_run(terminal.folder / "run").maps().values
    write_card(terminal.folder / "card.toml", "other")
    done = terminal.explain("--method", "gradient")
    assert done.event("finished")["computed"] == 12
    assert not np.array_equal(salience.open_run(terminal.folder / "run").maps().values, before)


@pytest.mark.parametrize(
    ("target", "expected"),
    [("label", np.repeat([0, 1, 2], 4)), ("class:dog", np.full(12, 3)), ("class:1", np.full(12, 1))],
)
def test_targets(terminal: Terminal, target: str, expected: np.ndarray) -> None:
    done = terminal.explain("--method", "gradient,gradcam", "--target", target)
    assert done.code == 0, done.err
    maps = salience.open_run(terminal.folder / "run").maps("gradient")
    assert np.array_equal(maps.targets, expected)


def test_all_classes_of_every_image(terminal: Terminal) -> None:
    assert terminal.explain("--method", "gradient,gradcam", "--target", "all", "--limit", "5").code == 0
    assert terminal.explain("--method", "gradient", "--target", "class:cat", "--limit", "5", out="cat").code == 0
    maps = salience.open_run(terminal.folder / "run").maps("gradient")
    assert np.array_equal(maps.targets, np.tile(range(4), 5))
    assert maps.image_ids == tuple(np.repeat(list(dict.fromkeys(maps.image_ids)), 4))
    cat = salience.open_run(terminal.folder / "cat").maps("gradient")
    np.testing.assert_allclose(maps.values[maps.targets == 2], cat.values, rtol=2e-3, atol=1e-7)


def test_the_four_outputs(terminal: Terminal) -> None:
    maps = {}
    for output in ("logit", "prob", "logprob", "margin"):
        done = terminal.explain("--method", "gradient", "--output", output, "--map-dtype", "float32", out=output)
        assert done.code == 0, done.err
        maps[output] = salience.open_run(terminal.folder / output).maps()
    logits = np.stack(salience.open_run(terminal.folder / "logit").table("predictions")["logits"].to_numpy())
    rows, best = np.arange(12), logits.argmax(1)
    p = maps["logit"].probabilities[rows, best].astype(np.float64)
    expected = {"logit": logits[rows, best], "prob": p, "logprob": np.log(p), "margin": np.log(p / (1 - p))}
    for output, values in expected.items():
        np.testing.assert_allclose(maps[output].scores, values, rtol=1e-4, atol=1e-5, err_msg=output)
    # d prob = p d logprob, and the margin of p is log p/(1-p): d margin = d logprob / (1 - p)
    np.testing.assert_allclose(maps["prob"].values, maps["logprob"].values * p[:, None, None], rtol=1e-3, atol=1e-7)
    np.testing.assert_allclose(
        maps["margin"].values, maps["logprob"].values / (1 - p)[:, None, None], rtol=1e-3, atol=1e-6
    )


def test_a_limit_takes_the_classes_in_turn(terminal: Terminal) -> None:
    terminal.explain("--method", "gradient", "--limit", "3")
    ids = salience.open_run(terminal.folder / "run").maps().image_ids
    assert ids == ("ant/000.png", "bee/000.png", "cat/000.png")
    more = terminal.explain("--method", "gradient", "--limit", "6")
    assert more.event("started")["reused"] == 3


def test_float32_maps_are_exact_and_float16_ones_close(terminal: Terminal) -> None:
    terminal.explain("--method", "contrast", "--map-dtype", "float32", out="exact")
    terminal.explain("--method", "contrast", out="half")
    exact, half = (salience.open_run(terminal.folder / name) for name in ("exact", "half"))
    assert set(exact.table("maps")["scale"].to_pylist()) == {1.0}
    wanted = exact.maps().values
    top = np.abs(wanted).max(axis=(1, 2), keepdims=True)
    assert (np.abs(half.maps().values - wanted) <= top * 2**-11).all()
    maps = salience.explain("card.toml", "pictures", "contrast", batch_size=4)
    np.testing.assert_allclose(maps.values, wanted, rtol=1e-5, atol=1e-7)


def test_two_models_side_by_side(terminal: Terminal) -> None:
    write_card(terminal.folder / "second.toml", "other", classes=list(CLASSES[::-1]))
    done = terminal.explain(
        "--model", "new=second.toml", "--method", "gradient,gradcam", "--target", "label", model="old=card.toml"
    )
    assert done.code == 0, done.err
    assert [e["model"] for e in done.events if e["event"] == "finished"] == ["old", "new"]
    run = salience.open_run(terminal.folder / "run")
    assert run.models == ("old", "new")
    old, new = run.maps("gradient", "old"), run.maps("gradient", "new")
    assert old.image_ids == new.image_ids
    assert not np.array_equal(old.values, new.values)
    assert [old.class_names[t] for t in old.targets] == [new.class_names[t] for t in new.targets]


def test_a_manifest_with_columns_of_its_own(terminal: Terminal) -> None:
    with (terminal.folder / "list.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["where", "what"])
        rows.writerows([[f"pictures/{n}/00{i}.png", n] for n in ("bee", "cat") for i in range(2)])
    done = terminal.explain(
        "--method", "gradient", "--column", "file=where", "--column", "label=what", images="list.csv"
    )
    assert done.code == 0, done.err
    maps = salience.open_run(terminal.folder / "run").maps()
    assert [CLASSES[v] for v in maps.labels] == ["bee", "bee", "cat", "cat"]
    assert all(i.startswith("pictures/") for i in maps.image_ids)


def test_an_archive_of_arrays(terminal: Terminal) -> None:
    images = np.stack([pixels(i, 16, 16) for i in range(6)])
    np.savez(terminal.folder / "some.npz", images=images, labels=np.array([0, 1, 2, 3, 0, 1]))
    done = terminal.explain("--method", "gradient", "--target", "label", images="some.npz")
    assert done.code == 0, done.err
    maps = salience.open_run(terminal.folder / "run").maps()
    assert maps.targets.tolist() == [0, 1, 2, 3, 0, 1]
    np.testing.assert_allclose(
        salience.explain("card.toml", images, target=3).values[3], maps.values[3], rtol=2e-3, atol=1e-6
    )


def test_what_a_person_reads(terminal: Terminal) -> None:
    (terminal.folder / "pictures" / "bee" / "003.png").write_bytes(b"")
    done = terminal.here("explain", "pictures", "--model", "card.toml", "--out", "run", *FAST, "--no-report")
    assert done.code == 1
    assert "card: 12 images to explain" in done.err
    assert "card: 11 images explained in" in done.err
    assert "card sees" in done.out
    assert "labelled images" in done.out
    assert "1 failure:" in done.out
    assert "bee/003.png" in done.out
    assert done.out.rstrip().endswith("run:  run")
    again = terminal.here("explain", "pictures", "--model", "card.toml", "--out", "run", *FAST, "--no-report")
    assert "card: nothing left to do, 12 images already done" in again.err
    assert again.code == 1  # the run still lacks an image


def test_python_needs_no_command_line(terminal: Terminal) -> None:
    model = salience.load_model("card.toml")
    maps = salience.explain(model, "pictures", method="gradcam", target="predicted")
    assert maps.values.shape == (12, 4, 4)
    assert maps.values.dtype == np.float32
    assert len(maps.image_ids) == 12
    assert maps.probabilities.shape == (12, 4)
    assert [model.class_names[t] for t in maps.targets] == [CLASSES[k] for k in maps.probabilities.argmax(1)]


def test_a_model_of_timm(terminal: Terminal) -> None:
    pytest.importorskip("timm", reason="timm is not installed", exc_type=ImportError)
    spec = "timm:resnet18?pretrained=false"
    done = terminal.explain("--method", "gradient,gradcam", "--limit", "2", model=spec)
    assert done.code == 0, done.err
    run = salience.open_run(terminal.folder / "run")
    assert run.maps("gradient").values.shape == (2, 224, 224)
    assert run.maps("gradcam").values.shape == (2, 7, 7)
    assert len(run.maps("gradcam").class_names) == 1000


@pytest.mark.parametrize(
    ("name", "short"),
    [
        ("frog", "frog"),
        ("7", "class 7"),
        ("refrigerator, icebox", "refrigerator, icebox"),
        ("cash machine, cash dispenser, automated teller machine", "cash machine"),
        ("x" * 60, "x" * 47 + "…"),
    ],
)
def test_class_names_fit_a_line(name: str, short: str) -> None:
    assert short_class(name) == short
