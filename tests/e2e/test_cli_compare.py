"""``salience compare`` as its user types it: words, JSON, kill and resume, label spaces, groups, masks, bad input."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from terminal import CLASSES, FAST, Terminal, wait_for, write_card

import salience

COUNTS = {"ant": 16, "bee": 16, "cat": 16, "dog": 16}
QUICK = (
    *("--method", "ig:steps=8:baseline=black+white", "--segments", "grid:rows=3:columns=3"),
    *("--concepts", "4", "--confirm", "2"),
)
TABLES = ("segments", "attributions", "concepts", "effects", "interventions")
STAGES = ("partitions", "maps", "embeddings", "drops")


def blocks(seed: int, side: int = 24) -> np.ndarray[Any, Any]:
    """A picture of nine plain blocks."""
    colours = np.random.default_rng(seed).integers(0, 256, (3, 3, 3), dtype=np.uint8)
    return colours.repeat(side // 3, axis=0).repeat(side // 3, axis=1)


@pytest.fixture
def pair(terminal: Terminal) -> Terminal:
    """Sixty-four pictures of four classes, and two models."""
    write_card(terminal.folder / "new.toml", "other")
    for c, (name, count) in enumerate(COUNTS.items()):
        (terminal.folder / "photos" / name).mkdir(parents=True)
        for i in range(count):
            Image.fromarray(blocks(100 * c + i)).save(terminal.folder / "photos" / name / f"{i:03d}.png")
    return terminal


def command(
    *more: str, images: str = "photos", models: tuple[str, ...] = ("old=card.toml", "new=new.toml")
) -> list[str]:
    named = [word for model in models for word in ("--model", model)]
    return ["compare", images, *named, "--out", "run", *FAST, *QUICK, *more]


def found(done: Any) -> dict[str, Any]:
    assert done.code == 0, done.err
    said: dict[str, Any] = json.loads(done.out)
    return said


def digests(run: Path) -> dict[str, str]:
    return {t: hashlib.sha256((run / "derived" / f"{t}.parquet").read_bytes()).hexdigest() for t in TABLES}


# ---------------------------------------------------------------------- what is printed


def test_for_people(pair: Terminal) -> None:
    done = pair.here(*command())
    assert done.code == 0, done.err
    comparison = salience.read_comparison(pair.folder / "run")
    assert done.out.startswith(comparison.claims()[0])
    assert "\nold (reference): right on " in done.out
    assert "\nnew: right on " in done.out
    assert "McNemar p = " in done.out
    assert "\nrun:  run\n" in done.out
    page = pair.folder / "run" / "report" / "index.html"
    assert done.out.rstrip().endswith(f"page: {page}")
    assert page.stat().st_size > 100_000
    assert (page.parent / "maps.html").exists()
    for line in (
        "segments: 64 images to partition",
        "old: 64 images to explain",
        "concepts: 64 images compared in",
        "images to change",
    ):
        assert line in done.err, line


def test_for_programs(pair: Terminal) -> None:
    told = found(pair.here(*command("--json", "--no-report")))
    assert (told["images"], told["models"], told["reference"]) == (64, ["old", "new"], "old")
    assert told["report"] is None
    assert sum(told["quadrants"]["new"].values()) == 64
    assert 0 <= told["mcnemar"]["new"] <= 1
    assert set(told["accuracy"]) == {"old", "new"}
    comparison = salience.read_comparison(pair.folder / "run")
    assert told["claims"] == comparison.claims()
    assert told["confirmed"] == comparison.confirmed.to_pylist()
    assert told["failures"] == 0
    assert not (pair.folder / "run" / "report").exists()


def test_events_tell_of_every_stage(pair: Terminal) -> None:
    done = pair.here(*command("--log-json", "--no-report"))
    assert done.code == 0, done.err
    started = {(e["model"], e["verb"]) for e in done.events if e["event"] == "started"}
    finished = {(e["model"], e["verb"]) for e in done.events if e["event"] == "finished"}
    assert started == finished == {
        ("segments", "partition"),
        ("segments", "describe"),
        ("old", "explain"),
        ("new", "explain"),
        ("concepts", "compare"),
        ("old", "change"),
        ("new", "change"),
    }  # fmt: skip
    last = [e for e in done.events if e["event"] == "progress"][-1]
    assert (last["model"], last["share"]) == ("new", 1.0)


def test_the_same_model_twice(pair: Terminal) -> None:
    told = found(pair.here(*command("--json", "--no-report", models=("a=card.toml", "b=card.toml"))))
    assert told["confirmed"] == []
    (claim,) = told["claims"]
    assert claim == "No difference of b from a can be shown on these 64 images: every effect is exactly zero."
    assert told["mcnemar"] == {"b": 1.0}


@pytest.mark.parametrize("models", [("only=card.toml",), ("a=card.toml", "b=new.toml", "c=card.toml")])
def test_one_model_and_three(pair: Terminal, models: tuple[str, ...]) -> None:
    told = found(pair.here(*command("--json", models=models)))
    assert told["models"] == [m.partition("=")[0] for m in models]
    assert Path(told["report"]).exists()
    assert len(told["mcnemar"]) == len(models) - 1
    effects = salience.read_comparison(pair.folder / "run").effects["model"].to_pylist()
    assert set(effects) == set(told["models"][1:] or told["models"])


# ---------------------------------------------------------------------- label spaces, sizes, groups, masks


def test_models_of_other_sizes_and_classes(pair: Terminal) -> None:
    write_card(pair.folder / "wide.toml", "other", size=32, crop=0.875, classes=["ant", "wasp", "cat", "hound"])
    words = command("--json", "--no-report", models=("old=card.toml", "new=wide.toml"))
    said = pair.here(*words).refusal()
    assert "'wasp' of 'new' is none of the reference's" in said
    assert "--class-map" in said
    (pair.folder / "map.csv").write_text("model,from,to\nnew,wasp,bee\nnew,hound,dog\n")
    told = found(pair.here(*words, "--class-map", "map.csv"))
    assert told["images"] == 64
    again = found(pair.here(*words, "--class-map", "same-order"))
    assert again["accuracy"] == told["accuracy"]
    comparison = salience.read_comparison(pair.folder / "run")
    assert comparison.classes == CLASSES
    assert comparison.preprocessing("new").size == (32, 32)


def test_groups_of_a_manifest(pair: Terminal) -> None:
    files = sorted((pair.folder / "photos").rglob("*.png"))
    rows = [f"photos/{f.parent.name}/{f.name},{f.parent.name},p{i // 2}" for i, f in enumerate(files)]
    (pair.folder / "list.csv").write_text("file,label,patient\n" + "\n".join(rows) + "\n")
    found(pair.here(*command("--json", "--no-report", "--group-by", "patient", images="list.csv")))
    rows = salience.read_comparison(pair.folder / "run").effects.to_pylist()
    assert {r["n"] for r in rows if r["family"] == "use"} == {32}


def test_masks_with_names(pair: Terminal) -> None:
    for path in sorted((pair.folder / "photos").rglob("*.png")):
        place = pair.folder / "masks" / path.parent.name / path.stem
        place.mkdir(parents=True)
        for name, part in (("left", np.s_[:, :8]), ("right", np.s_[:, 16:])):
            mask = np.zeros((24, 24), np.uint8)
            mask[part] = 255
            Image.fromarray(mask).save(place / f"{name}.png")
    found(pair.here(*command("--json", "--segments", "masks:masks")))
    names = salience.read_comparison(pair.folder / "run").concepts["name"].to_pylist()
    assert sorted(names) == ["left", "rest", "right"]


def test_what_the_reference_predicts_where_nothing_is_labelled(pair: Terminal) -> None:
    flat = pair.folder / "flat"
    flat.mkdir()
    for i, path in enumerate(sorted((pair.folder / "photos").rglob("*.png"))):
        path.rename(flat / f"{i:03d}.png")
    told = found(pair.here(*command("--json", images="flat")))
    assert told["accuracy"] == {"old": None, "new": None}
    assert told["quadrants"] == {"new": {}}
    comparison = salience.read_comparison(pair.folder / "run")
    assert (comparison.targets == comparison.predicted("old")).all()


# ---------------------------------------------------------------------- again, killed, broken


def test_a_second_run_does_nothing_again(pair: Terminal) -> None:
    assert pair.here(*command("--no-report")).code == 0
    run = pair.folder / "run"
    units, before = sorted(p.name for p in (run / "units").iterdir()), digests(run)
    again = pair.here(*command("--no-report", "--log-json"))
    assert again.code == 0, again.err
    assert {e["images"] for e in again.events if e["event"] == "started" and e["model"] != "concepts"} == {0}
    assert sorted(p.name for p in (run / "units").iterdir()) == units
    assert digests(run) == before


def test_killed_at_every_stage(pair: Terminal) -> None:
    """A run that is killed in its stages, as by a power cut, comes to what an uninterrupted one comes to."""
    words = command("--unit-images", "4", "--no-report")
    run = pair.folder / "run"
    kills = 0
    for stage in STAGES:
        have = parts_of(run, stage)
        program = pair.start(*words, sleep=0.005)
        wait_for(lambda p=program, s=stage, h=have: parts_of(run, s) > h or p.poll() is not None, stage)  # type: ignore[misc]
        if program.poll() is None:  # an earlier process may have finished the stage before it was killed
            program.kill()
            kills += 1
            with pytest.raises(salience.SalienceError, match="not finished"):
                salience.read_comparison(run)
        program.communicate()
    assert kills >= 2
    kept = {p.name: p.read_bytes() for p in (run / "units").glob("*.json")}
    done = pair.here(*words)
    assert done.code == 0, done.err
    assert {name: (run / "units" / name).read_bytes() for name in kept} == kept
    assert not list(run.rglob("*.partial"))
    assert pair.here(*[w if w != "run" else "whole" for w in words]).code == 0
    assert digests(run) == digests(pair.folder / "whole")
    assert salience.open_run(run).info["status"] == "complete"


def parts_of(run: Path, table: str) -> int:
    """Return how many units have rows of a table."""
    return len(list((run / "tables" / table).glob("*.parquet")))


def test_interrupted(pair: Terminal) -> None:
    program = pair.start(*command("--unit-images", "4", "--log-json"), sleep=0.01)
    drops = pair.folder / "run" / "tables" / "maps"
    wait_for(lambda: len(list(drops.glob("*.parquet"))) > 1, "maps")
    program.send_signal(signal.SIGINT)
    _, err = program.communicate(timeout=60)
    assert program.returncode == 130
    assert "Traceback" not in err
    told = json.loads(err.splitlines()[-1])
    assert told["message"] == "interrupted. Finished work is kept in run; run the same command again to carry on."
    assert salience.open_run(pair.folder / "run").info["status"] == "interrupted"
    assert pair.here("report", "run").code == 0  # the maps there are can be looked at


def test_an_unreadable_image_is_a_failure_and_the_others_are_compared(pair: Terminal) -> None:
    (pair.folder / "photos" / "ant" / "003.png").write_bytes(b"")
    done = pair.here(*command("--json"))
    assert done.code == 1
    told = json.loads(done.out)
    assert (told["failures"], told["images"]) == (1, 63)
    assert any("1 of 64 images could not be compared" in note for note in told["notes"])
    words = pair.here(*command())
    assert words.code == 1  # it stays one
    assert "1 failure:" in words.out
    assert "ant/003.png" in words.out


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--concepts", "lots"), "concepts is 'lots'; give 'auto' or a number, 1 or more."),
        (("--segments", "gird"), "There is no partition 'gird'"),
        (("--target", "all"), "The target is 'all'; one class of each image is compared: label, predicted or class:K."),
        (("--output", "logits"), "Output 'logits' is unknown"),
        (("--encoder", "card.toml"), "The encoder is model 'old' itself"),
        (("--class-map", "no.csv"), "no.csv cannot be read"),
        (("--group-by", "patient"), "Columns belong to a manifest"),
        (("--method", "ig:stepps=8"), "has no setting 'stepps'"),
    ],
)
def test_bad_input_is_told_in_one_line(pair: Terminal, more: tuple[str, str], message: str) -> None:
    words = command("--no-report")
    if more[0] in words:
        words[words.index(more[0]) + 1] = more[1]
    else:
        words += more
    assert message in pair.here(*words).refusal()
    assert not (pair.folder / "run").exists()


def test_two_models_of_one_name(pair: Terminal) -> None:
    said = pair.here(*command(models=("card.toml", "card.toml"))).refusal()
    assert said.startswith("Two models are called 'card'. Name them:")


def test_help_is_fast_and_says_what_there_is(pair: Terminal) -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "salience", "compare", "--help"],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "COLUMNS": "200"},
    )
    for word in ("--encoder", "--group-by", "--class-map", "--confirm", "masks:DIR"):
        assert word in done.stdout
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if "|" in line}
    assert not imported & {"torch", "numba", "sklearn", "scipy"}
