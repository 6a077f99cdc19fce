"""``salience train``: groups of runs that other verbs take as they are, and that survive a kill."""

from __future__ import annotations

import csv
import json
import signal
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from terminal import Terminal, wait_for, write_card

QUICK = ("--train", "all", "--epochs", "3", "--batch-size", "4", "--device", "cpu", "--threads", "1")


@pytest.fixture
def training(terminal: Terminal) -> Terminal:
    """The card's network has three of the classes of ``pictures``."""
    write_card(terminal.folder / "card.toml")
    for path in (terminal.folder / "pictures").glob("*/*.png"):
        human = np.zeros((20, 24), np.uint8)
        human[:10, 4:12] = 255
        place = terminal.folder / "maps" / path.parent.name
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(human).save(place / path.name)
    return terminal


def weights(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(folder.glob("*.safetensors"))}


def test_groups_are_trained_and_explained(training: Terminal) -> None:
    base = ("train", "pictures", "--backbone", "card.toml", "--out", "models", "--runs", "2", *QUICK)
    plain = training.here(*base, "--json")
    assert plain.code == 0, plain.err
    assert plain.summary["group"] == "plain"
    assert [r["name"] for r in plain.summary["runs"]] == ["plain_01", "plain_02"]
    assert all(0 <= r["accuracy"] <= 1 for r in plain.summary["runs"])
    guided = training.here(*base, "--loss", "guided", "--human", "maps", "--alpha", "0.3")
    assert guided.code == 0, guided.err
    assert "guided_02" in guided.out
    assert "cards: models/guided_*.toml" in guided.out
    centre = training.here(*base, "--loss", "guided", "--control", "centre", "--target", "true", "--log-json")
    assert centre.code == 0, centre.err
    assert [e["model"] for e in centre.events if e["event"] == "finished"] == ["guided-centre"]
    with (training.folder / "models" / "runs.csv").open() as file:
        names = [row["name"] for row in csv.DictReader(file)]
    assert names == [f"{g}_{i:02d}" for g in ("guided", "guided-centre", "plain") for i in (1, 2)]
    cards = [word for name in names for word in ("--model", f"models/{name}.toml")]
    explained = training.here(
        *("explain", "pictures", *cards, "--method", "gradcam", "--out", "run", "--no-report", "--json"),
        *("--batch-size", "4", "--memory-format", "contiguous", "--threads", "1", "--device", "cpu"),
    )
    assert explained.code == 0, explained.err
    assert sorted(explained.summary["models"]) == sorted(names)
    assert explained.summary["models"]["plain_01"]["labelled"] == 12


def test_a_small_network_needs_no_more_than_its_name(training: Terminal) -> None:
    done = training.here(
        *("train", "pictures", "-b", "small:width=8", "--size", "16", "--classes", "bee,ant", "--out", "small"),
        *("--runs", "1", "--epochs", "2", "--batch-size", "4", "--schedule", "cosine", "--augment", "flip,shift"),
        *("--balanced", "--patience", "2", "--device", "cpu", "--name", "tiny"),
    )
    assert done.code == 0, done.err
    assert "4 of 12 images have none of these classes" in done.out
    assert 'classes = ["bee", "ant"]' in (training.folder / "small" / "tiny_01.toml").read_text()


def test_a_killed_training_is_carried_on(training: Terminal) -> None:
    command = ("train", "pictures", "-b", "card.toml", "--runs", "2", "--epochs", "8", "--train", "all")
    command = (*command, "--batch-size", "4", "--device", "cpu", "--threads", "1")
    program = training.start(*command, "--out", "models", sleep=0.2)
    checkpoint = training.folder / "models" / ".training" / "plain_01.safetensors"
    wait_for(lambda: checkpoint.exists() or program.poll() is not None, "a checkpoint")
    program.send_signal(signal.SIGKILL)
    program.communicate(timeout=60)
    assert not (training.folder / "models" / "plain_01.json").exists()
    again = training.here(*command, "--out", "models", "--log-json")
    assert again.code == 0, again.err
    finished = next(e for e in again.events if e["event"] == "finished" and e["model"] == "plain")
    assert training.here(*command, "--out", "whole").code == 0
    assert weights(training.folder / "models") == weights(training.folder / "whole")
    assert finished["computed"] >= 8 * 9


def test_an_interrupted_training_says_how_to_carry_on(training: Terminal) -> None:
    command = (
        "train",
        "pictures",
        "-b",
        "card.toml",
        "--runs",
        "1",
        "--epochs",
        "8",
        "--train",
        "all",
        "--batch-size",
        "4",
    )
    program = training.start(*command, "--device", "cpu", "--out", "models", sleep=0.2)
    wait_for(lambda: (training.folder / "models" / ".training" / "plain_01.safetensors").exists(), "a checkpoint")
    program.send_signal(signal.SIGTERM)
    _, err = program.communicate(timeout=60)
    assert program.returncode == 130
    assert "What is done is kept in models; run the same command again" in err


def test_broken_images_are_named_and_the_exit_code_says_so(training: Terminal) -> None:
    (training.folder / "pictures" / "bee" / "001.png").write_bytes(b"broken")
    done = training.here("train", "pictures", "-b", "card.toml", "--runs", "1", "--out", "models", *QUICK)
    assert done.code == 1
    assert "left out: " in done.out
    assert "bee/001.png" in done.out
    assert "1 image could not be read" in done.out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--loss", "guided"), "needs human maps: --human FOLDER"),
        (("--loss", "guided", "--human", "map"), "Did you mean 'maps'"),
        (("--loss", "guided", "--human", "boxes"), "needs a box for each image"),
        (("--loss", "guide"), "Did you mean 'guided'"),
        (("--classes", "ant"), "two or more different names"),
        (("--classes", "ant,dog"), "no image of the class 'dog'"),
        (("--train", "conv9"), "does not exist"),
        (("--control", "centre"), "which the loss 'cross-entropy' does not use"),
        (("--lr", "1e30"), "The loss is no number any more"),
        (("--backbone", "small:depth=3"), "no small network"),
        (("--validation", "1.5"), "validation is 1.5"),
    ],
)
def test_refusals_say_what_to_do(training: Terminal, words: tuple[str, ...], message: str) -> None:
    done = training.here("train", "pictures", "-b", "card.toml", "--runs", "1", "--out", "models", *QUICK, *words)
    assert done.code == 2
    assert done.out == ""
    assert "Traceback" not in done.err
    assert message in done.err.splitlines()[-1]  # before it, what was decoded


def test_json_is_all_that_is_printed(training: Terminal) -> None:
    done = training.here("train", "pictures", "-b", "card.toml", "--runs", "1", "--out", "models", *QUICK, "--json")
    told = json.loads(done.out)
    assert told["event"] == "done"
    assert told["trained"] == 1
