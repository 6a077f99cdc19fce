"""``salience evaluate`` as its user types it: tables, JSON, kill and resume, bad input."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest
from terminal import FAST, Terminal, wait_for, write_pictures

import salience
from salience.scores import HEADLINE, read_scores

METRICS = "complete-sound:points=4,srg:points=4,gini"


@pytest.fixture
def pictures(terminal: Terminal) -> Terminal:
    write_pictures(terminal.folder / "photos", {"ant": 3, "bee": 3})
    return terminal


def command(*more: str, out: str = "run") -> tuple[str, ...]:
    return (
        *("evaluate", "photos", "--model", "card.toml", "--method", "gradient,gradcam", "--metric", METRICS),
        *("--labels", "all", "--out", out, *FAST, *more),
    )


def test_a_ranking_for_people(pictures: Terminal) -> None:
    done = pictures.here(*command("--background", "dataset-mean,blur"))
    assert done.code == 0, done.err
    assert "card, background dataset-mean: 6 images" in done.out
    assert "card, background blur: 6 images" in done.out
    assert "card, maps alone: 6 images" in done.out
    for name in ("gradient", "gradcam", "(random)", "(sobel)", "(centre)", "(class-agnostic:gradient)", HEADLINE):
        assert name in done.out, name
    assert "warnings:" in done.out
    assert "\nrun:  run\n" in done.out
    assert done.out.rstrip().endswith(f"page: {pictures.folder / 'run' / 'report' / 'index.html'}")


def test_a_ranking_for_programs(pictures: Terminal) -> None:
    done = pictures.here(*command("--json", "--smooth", "0,2", "--limit", "4"))
    assert done.code == 0, done.err
    found = json.loads(done.out)
    assert found["images"] == 4
    assert found["failures"] == 0
    row = found["ranking"][0]
    assert (row["metric"], row["smooth"], row["rank"]) == (f"{HEADLINE}:points=4", 0.0, 1)
    assert row["low"] <= row["mean"] <= row["high"]
    assert {r["smooth"] for r in found["ranking"]} == {0.0, 2.0}
    assert read_scores(str(pictures.folder / "run")).ranking() == found["ranking"]


def test_the_maps_stay_in_the_run_and_can_be_scored_again(pictures: Terminal) -> None:
    assert pictures.here(*command()).code == 0
    run = salience.open_run(pictures.folder / "run")
    assert len(run.maps("gradient")) == 6 * 4
    assert run.info["stages"]["evaluate"]["settings"]["labels"] == "predicted+3"
    beside = pictures.here(
        *("evaluate", "photos", "--model", "card.toml", "--run", "run", "--metric", "gini", "--labels", "all"),
        *("--out", "beside", *FAST),
    )
    assert beside.code == 0, beside.err
    assert "gradcam of run" in beside.out


def test_tiles(pictures: Terminal) -> None:
    done = pictures.here(*command("--tiles", "--json"))
    assert done.code == 0, done.err
    found = json.loads(done.out)
    assert any("tile of two" in note for note in found["notes"])
    ids = salience.open_run(pictures.folder / "run").images["image_id"].to_pylist()
    assert all(" + " in i for i in ids)


def test_an_unreadable_image_is_a_failure_and_the_others_are_scored(pictures: Terminal) -> None:
    (pictures.folder / "photos" / "ant" / "001.png").write_bytes(b"")
    done = pictures.here(*command("--json"))
    assert done.code == 1
    found = json.loads(done.out)
    assert found["failures"] == 1
    assert found["images"] == 5
    assert pictures.here(*command("--json")).code == 1  # it stays one


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--metric", "soundnes"), "no metric 'soundnes'. Did you mean 'soundness'"),
        (("--background", "gray"), "Background 'gray' is unknown"),
        (("--labels", "class:1"), "The label set is 'class:1'; choose predicted+M, all or predicted."),
        (("--smooth", "a lot"), "--smooth is 'a lot'; write pixels as 0,2,4."),
        (("--maps", "nowhere.npz"), "nowhere.npz cannot be read"),
        (("--run", "nowhere"), "nowhere is no run directory"),
    ],
)
def test_bad_input_is_told_in_one_line(pictures: Terminal, more: tuple[str, ...], message: str) -> None:
    words = list(command())
    for key, value in zip(more[::2], more[1::2], strict=True):
        if key in words:
            words[words.index(key) + 1] = value
        else:
            words += [key, value]
    assert message in pictures.here(*words).refusal()


def test_nothing_to_score(pictures: Terminal) -> None:
    said = pictures.here("evaluate", "photos", "--model", "card.toml", "--out", "run", *FAST).refusal()
    assert said == "There is nothing to score: name methods, or give maps or runs."


# ---------------------------------------------------------------------- kill it anywhere


def tables(run: Path) -> tuple[object, object]:
    opened = salience.open_run(run)
    return opened.table("scores").to_pylist(), opened.table("curves").to_pylist()


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_killed_while_scoring(pictures: Terminal, how: signal.Signals) -> None:
    words = command("--unit-images", "1", "--log-json")
    program = pictures.start(*words, sleep=0.004)
    scores = pictures.folder / "run" / "tables" / "scores"

    def enough() -> bool:
        assert program.poll() is None, program.communicate()
        return len(list(scores.glob("[0-9]*.parquet"))) >= 2

    wait_for(enough, "two units of scores")
    program.send_signal(how)
    program.communicate(timeout=60)
    kept = {p.name: p.stat().st_mtime_ns for p in scores.glob("[0-9]*.parquet")}
    assert len(kept) < 6
    again = pictures.here(*words)
    assert again.code == 0, again.err
    started = [e for e in again.events if e["event"] == "started" and e["verb"] == "score"]
    assert started[0]["reused"] >= len(kept) - 1  # a part whose record was not written does not count
    assert started[0]["images"] == 6 - started[0]["reused"]
    assert pictures.here(*command("--unit-images", "1", "--log-json", out="whole")).code == 0
    assert tables(pictures.folder / "run") == tables(pictures.folder / "whole")
