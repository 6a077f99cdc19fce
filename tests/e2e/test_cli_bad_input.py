"""Bad input: one clear line and exit code 2, or a failure row, exit code 1 and a run that goes on."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from terminal import Terminal, pixels, write_card, write_nets, write_pictures

import salience
from salience.testing.models import small_classifier

GRADIENT = ("--method", "gradient")


def failures(folder: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = salience.open_run(folder).table("failures").to_pylist()
    return found


# ---------------------------------------------------------------------- images


def test_unreadable_images_are_rows_and_the_others_are_fine(terminal: Terminal) -> None:
    folder = terminal.folder / "pictures"
    whole = (folder / "cat" / "001.png").read_bytes()
    (folder / "ant" / "000.png").write_bytes(b"")
    (folder / "ant" / "001.png").write_bytes(b"this is no picture at all")
    (folder / "cat" / "001.png").write_bytes(whole[: len(whole) // 2])
    (folder / "cat" / "002.png").unlink()
    (folder / "cat" / "002.png").symlink_to("nowhere.png")
    done = terminal.explain("--method", "gradient,gradcam")
    assert done.code == 1
    assert "Traceback" not in done.err
    told = [e for e in done.events if e["event"] == "failure"]
    assert [e["image_id"] for e in told] == ["ant/000.png", "ant/001.png", "cat/001.png", "cat/002.png"]
    assert all(len(e["message"].splitlines()) == 1 for e in told)
    assert "empty" in told[0]["message"]
    assert done.summary["failures"] == 4
    run = salience.open_run(terminal.folder / "run")
    assert len(run.maps("gradient").image_ids) == 8
    assert {r["kind"] for r in failures(terminal.folder / "run")} == {"unreadable"}
    assert len(run.maps("gradcam").failures) == 4

    (folder / "cat" / "001.png").write_bytes(whole)  # mended
    mended = terminal.explain("--method", "gradient,gradcam")
    assert mended.event("finished")["computed"] == 1
    assert [r["image_id"] for r in failures(terminal.folder / "run")] == ["ant/000.png", "ant/001.png", "cat/002.png"]


def test_every_kind_of_picture_works(terminal: Terminal) -> None:
    folder = terminal.folder / "kinds"
    folder.mkdir()
    rgb = Image.fromarray(pixels(5, 20, 32))
    rgb.convert("CMYK").save(folder / "cmyk.jpg")
    rgb.convert("P").save(folder / "palette.png")
    Image.fromarray(np.asarray(rgb.convert("L")).astype(np.uint16) * 257).save(folder / "sixteen.png")
    rgb.convert("RGBA").save(folder / "rgba.png")
    rgb.convert("L").save(folder / "grey.png")
    rgb.convert("LA").save(folder / "grey-alpha.png")
    rgb.convert("1").save(folder / "black-and-white.png")
    exif = Image.Exif()
    exif[0x0112] = 6  # turn a quarter to the right
    rgb.save(folder / "turned.jpg", exif=exif)
    rgb.save(folder / "moving.gif", save_all=True, append_images=[rgb.convert("L")])
    rgb.save(folder / "wéird näme ✓ [x].webp")
    done = terminal.explain(*GRADIENT, images="kinds")
    assert done.code == 0, done.err
    run = salience.open_run(terminal.folder / "run")
    sizes = {r["image_id"]: (r["width"], r["height"]) for r in run.table("contents").to_pylist()}
    assert len(sizes) == 10
    assert sizes.pop("turned.jpg") == (20, 32)
    assert set(sizes.values()) == {(32, 20)}
    assert np.abs(run.maps().values).max(axis=(1, 2)).min() > 0


def test_nothing_to_explain(terminal: Terminal) -> None:
    (terminal.folder / "empty").mkdir()
    assert "holds no images" in terminal.explain(images="empty").refusal()
    (terminal.folder / "empty" / "notes.txt").write_text("no picture")
    assert "1 .txt" in terminal.explain(images="empty").refusal()
    missing = terminal.explain(images="picturs").refusal()
    assert missing == "picturs does not exist. Did you mean 'pictures'?"
    assert "nets.py is a .py" in terminal.explain(images="nets.py").refusal()
    assert not (terminal.folder / "run").exists()


def test_errors_are_events_where_events_are_logged(terminal: Terminal) -> None:
    done = terminal.explain("--method", "gradcamm", "--log-json")
    assert done.code == 2
    event = done.event("error")
    assert event["exit_code"] == 2
    assert "gradcam" in event["message"]


def test_labels_out_of_range(terminal: Terminal) -> None:
    np.savez(terminal.folder / "some.npz", images=np.zeros((2, 16, 16, 3), np.uint8), labels=[3, 4])
    said = terminal.explain("--target", "label", images="some.npz").refusal()
    assert "label 4" in said
    assert "0 to 3" in said
    assert not (terminal.folder / "run").exists()


def test_labels_that_are_asked_for_and_not_there(terminal: Terminal) -> None:
    write_pictures(terminal.folder / "flat", {".": 3})
    assert "--target label needs labels" in terminal.explain("--target", "label", images="flat").refusal()


def test_bad_columns(terminal: Terminal) -> None:
    (terminal.folder / "list.csv").write_text("where,what\npictures/ant/000.png,ant\n")
    assert "write ROLE=COLUMN" in terminal.explain("--column", "label", images="list.csv").refusal()
    assert "Its columns are where, what" in terminal.explain(images="list.csv").refusal()
    wrong = terminal.explain("--column", "file=wear", images="list.csv").refusal()
    assert "'wear'" in wrong
    assert "'where'" in wrong
    role = terminal.explain("--column", "fille=where", images="list.csv").refusal()
    assert "'fille'" in role
    assert "Columns belong to a manifest" in terminal.explain("--column", "file=where").refusal()


# ---------------------------------------------------------------------- models


def card(**keys: Any) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        write_card(folder / "card.toml", **keys)

    return write


def pickled_weights(folder: Path) -> None:
    class_instance = small_classifier(16, 4).module  # a whole module: its classes are pickled
    torch.save(class_instance, folder / "model.pt")
    write_card(folder / "card.toml", weights="model.pt")


def foreign_weights(folder: Path) -> None:
    torch.save(small_classifier(16, 7).module.state_dict(), folder / "model.pt")
    write_card(folder / "card.toml", weights="model.pt")


def broken_toml(folder: Path) -> None:
    (folder / "card.toml").write_text("size = = 3")


@pytest.mark.parametrize(
    ("prepare", "words"),
    [
        (card(sice=16), ["'sice'", "'size'"]),
        (card(mean=[0.5, 0.5]), ["mean", "three numbers"]),
        (card(mean=[123.0, 117.0, 104.0]), ["mean", "255"]),
        (card(std=[0.2, 0.2, 0.0]), ["std", "above 0"]),
        (card(size="large"), ["size"]),
        (card(size=None), ["size"]),
        (card(interpolation="cubic"), ["interpolation", "bicubic"]),
        (card(classes=["ant", "bee"]), ["4 classes", "2 class names"]),
        (card(classes="names.txt"), ["names.txt"]),
        (card(factory="smal"), ["'smal'", "'small'"]),
        (card(factory="raises"), ["raises", "FileNotFoundError: no such file: backbone.bin", "nets.py"]),
        (card(factory="gives_number"), ["int", "torch.nn.Module"]),
        (card(factory="only_twenty"), ["16x16", "'size'"]),
        (card(weights="nowhere.safetensors"), ["nowhere.safetensors"]),
        (pickled_weights, ["unpickling", "refused", "safetensors"]),
        (foreign_weights, ["do not fit", "inner.conv1.weight", "number of classes"]),
        (broken_toml, ["TOML"]),
        (lambda folder: (folder / "nets.py").unlink(), ["nets.py"]),
        (lambda folder: (folder / "nets.py").write_text("def small(:"), ["SyntaxError", "nets.py"]),
    ],
)
def test_cards_that_cannot_be_used(terminal: Terminal, prepare: Callable[[Path], None], words: list[str]) -> None:
    write_nets(terminal.folder)
    prepare(terminal.folder)
    said = terminal.explain(*GRADIENT).refusal()
    for word in words:
        assert word in said
    assert not (terminal.folder / "run").exists()


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("cart.toml", ["'cart.toml'", "Did you mean 'card.toml'?"]),
        ("nets.py", ["nets.py", "which function", "'nets.py:build'"]),
        ("weights.safetensors", ["model card"]),
        ("tim:resnet18", ["'tim'", "'timm'"]),
        ("resnet18", ["no prefix", "timm:"]),
        ("pt2:nowhere.pt2?size=16&mean=0.5&std=0.5", ["nowhere.pt2"]),
        ("no.such.module:build", ["no.such.module"]),
        ("two words=card.toml", ["cannot name a model"]),
    ],
)
def test_models_that_nobody_knows(terminal: Terminal, spec: str, words: list[str]) -> None:
    said = terminal.explain(*GRADIENT, model=spec).refusal()
    for word in words:
        assert word in said


def test_two_models_of_one_name(terminal: Terminal) -> None:
    assert "--model first=CARD --model second=CARD" in terminal.explain("--model", "card.toml").refusal()


@pytest.mark.parametrize("factory", ["answers_tuple", "answers_object", "answers_dict"])
def test_models_that_dress_their_answer_up(terminal: Terminal, factory: str) -> None:
    assert terminal.explain("--method", "gradient,gradcam", out="plain").code == 0
    write_card(terminal.folder / "card.toml", factory)
    done = terminal.explain("--method", "gradient,gradcam")
    assert done.code == 0, done.err
    plain, dressed = (salience.open_run(terminal.folder / name) for name in ("plain", "run"))
    for method in ("gradient", "gradcam"):
        np.testing.assert_array_equal(dressed.maps(method).values, plain.maps(method).values)


def test_answers_that_are_no_numbers_are_rows(terminal: Terminal) -> None:
    write_card(terminal.folder / "card.toml", "answers_nan")
    Image.new("RGB", (20, 20), "white").save(terminal.folder / "pictures" / "bee" / "001.png")
    done = terminal.explain("--method", "gradient,gradcam")
    assert done.code == 1
    (row,) = failures(terminal.folder / "run")
    assert (row["image_id"], row["kind"], row["method"]) == ("bee/001.png", "model", None)
    assert "not finite" in row["message"]
    assert len(salience.open_run(terminal.folder / "run").maps("gradcam").image_ids) == 11
    again = terminal.explain("--method", "gradient,gradcam")
    assert again.code == 1
    assert again.event("started")["images"] == 0  # it would fail again: nothing is repeated


def test_a_program_without_layers(terminal: Terminal) -> None:
    module = small_classifier(16, 4, seed=1).module.eval()
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(module, (torch.zeros(2, 3, 16, 16),), dynamic_shapes=({0: batch},))
    torch.export.save(program, terminal.folder / "net.pt2")
    spec = "pt2:net.pt2?size=16&mean=0.5&std=0.25"
    said = terminal.explain("--method", "gradient,gradcam", model=spec).refusal()
    assert "gradcam" in said
    assert "layer" in said
    assert not (terminal.folder / "run").exists()
    assert terminal.explain("--method", "gradient", model=spec).code == 0
    assert terminal.explain("--method", "gradient", out="plain").code == 0
    maps, plain = (salience.open_run(terminal.folder / name).maps().values for name in ("run", "plain"))
    np.testing.assert_allclose(maps, plain, rtol=2e-3, atol=1e-5)


# ---------------------------------------------------------------------- methods and settings


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--method", "gradcm"], ["'gradcm'", "'gradcam'", "salience list methods"]),
        (["--method", "gradient,gradient"], ["named twice"]),
        (["--method", ","], ["No method is named"]),
        (["--method", "ig:stepz=4"], ["'stepz'", "'steps'"]),
        (["--method", "ig:steps=many"], ["steps", "'many'", "int"]),
        (["--method", "ig:steps=0"], ["steps"]),
        (["--method", "ig:baseline=purple"], ["'purple'", "black"]),
        (["--method", "gradient:channels=loudest"], ["'loudest'", "max"]),
        (["--method", "gradcam:layer=inner.conv3"], ["'inner.conv3'", "'inner.conv2'"]),
        (["--method", "captum:NoSuchThing"], ["NoSuchThing"]),
        (["--method", "captum"], ["captum:CLASS_NAME"]),
        (["--target", "best"], ["'best'", "predicted"]),
        (["--target", "class:bea"], ["'bee'"]),
        (["--target", "class:4"], ["0 to 3"]),
        (["--target", "class:-1"], ["class:-1"]),
        (["--output", "logits"], ["'logits'", "'logit'"]),
        (["--map-dtype", "float64"], ["'float64'", "float16"]),
        (["--memory-format", "rows"], ["'rows'", "channels_last"]),
        (["--device", "gpu"], ["'gpu'", "Did you mean 'cuda'?"]),
    ],
)
def test_words_that_have_no_meaning(terminal: Terminal, arguments: list[str], words: list[str]) -> None:
    said = terminal.explain(*(arguments if "--method" in arguments else [*GRADIENT, *arguments])).refusal()
    for word in words:
        assert word in said
    assert not (terminal.folder / "run").exists()


def test_lists_of_nothing_known(terminal: Terminal) -> None:
    said = terminal.here("list", "nonsense").refusal()
    assert said == "There is no list of 'nonsense'; choose methods, metrics or models."


@pytest.mark.parametrize(
    "arguments",
    [["explane"], ["explain"], ["explain", "pictures", "--out", "run"], ["explain", "p", "-m", "c", "-o", "r", "--no"]],
)
def test_usage(terminal: Terminal, arguments: list[str]) -> None:
    done = terminal.here(*arguments)
    assert done.code == 2
    assert "Usage" in done.err
    assert "Traceback" not in done.err


# ---------------------------------------------------------------------- --out


def test_folders_that_are_not_ours(terminal: Terminal) -> None:
    (terminal.folder / "thesis").mkdir()
    (terminal.folder / "thesis" / "chapter.tex").write_text("...")
    assert "not empty and holds no run" in terminal.explain(*GRADIENT, out="thesis").refusal()
    assert [p.name for p in (terminal.folder / "thesis").iterdir()] == ["chapter.tex"]
    assert "is a file" in terminal.explain(*GRADIENT, out="card.toml").refusal()
    below = terminal.explain(*GRADIENT, out="card.toml/run").refusal()
    assert "card.toml/run" in below


def test_runs_that_cannot_be_carried_on(terminal: Terminal) -> None:
    assert terminal.explain(*GRADIENT).code == 0
    before = salience.open_run(terminal.folder / "run").maps().values
    write_pictures(terminal.folder / "others", {"ant": 1})
    other = terminal.explain(*GRADIENT, images="others").refusal()
    assert "holds a run over other images" in other
    assert str(terminal.folder / "pictures") in other

    described = terminal.folder / "run" / "run.json"
    info = json.loads(described.read_text(encoding="utf-8"))
    described.write_text(json.dumps({**info, "kind": "audit"}))
    assert "holds a run of 'salience audit'" in terminal.explain(*GRADIENT).refusal()
    described.write_text(json.dumps({**info, "version": 99}))
    assert "Upgrade salience" in terminal.explain(*GRADIENT).refusal()
    assert "Upgrade salience" in terminal.here("report", "run").refusal()
    described.write_text("{")
    assert "damaged" in terminal.explain(*GRADIENT).refusal()
    described.write_text(json.dumps(info))
    assert terminal.explain(*GRADIENT).code == 0
    np.testing.assert_array_equal(salience.open_run(terminal.folder / "run").maps().values, before)


def test_reports_of_nothing(terminal: Terminal) -> None:
    assert "no run directory" in terminal.here("report", "pictures").refusal()


# ---------------------------------------------------------------------- as a program


def test_the_program_itself_refuses_in_one_line(terminal: Terminal) -> None:
    write_card(terminal.folder / "card.toml", "raises", mean=None)
    done = terminal.run("explain", "pictures", "--model", "card.toml", "--out", "run")
    assert "backbone.bin" in done.refusal()


def test_a_bug_says_that_it_is_one(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr("salience.listing.method_rows", broken)
    done = terminal.here("list", "methods")
    assert done.code == 70
    assert "ZeroDivisionError" in done.err
    assert done.err.splitlines()[-1].startswith("salience: this is a bug.")
