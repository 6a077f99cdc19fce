"""``salience status``, ``resume``, ``merge`` and ``--shard``: runs in parts, and how far they are."""

from __future__ import annotations

import json
import os
import signal
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from terminal import FAST, Terminal, wait_for, write_card

import salience

METHODS = ("--method", "gradient,gradcam")


def part(terminal: Terminal, number: int, of: int, *more: str) -> Path:
    name = f"part{number}"
    done = terminal.explain(*METHODS, "--shard", f"{number}/{of}", *more, out=name)
    assert done.code == 0, done.err
    return terminal.folder / name


def same_maps(first: Path, second: Path) -> None:
    a, b = salience.open_run(first), salience.open_run(second)
    assert a.methods == b.methods
    for method in a.methods:
        x, y = a.maps(method), b.maps(method)
        assert x.image_ids == y.image_ids
        assert np.array_equal(x.values, y.values)
        assert np.array_equal(x.targets, y.targets)
        assert np.array_equal(x.labels, y.labels)
        assert np.array_equal(x.probabilities, y.probabilities)


def test_shards_joined_are_the_run_that_was_never_cut(terminal: Terminal) -> None:
    for number in (1, 2, 3):
        # other units, other shapes of shards: the parts may come from machines that measured otherwise
        folder = part(terminal, number, 3, "--unit-images", str(number + 1))
        assert len(salience.open_run(folder).images) == 4
        assert salience.open_run(folder).info["images"]["shard"] == f"{number}/3"
    terminal.explain(*METHODS, out="whole")
    done = terminal.here("merge", "part1", "part2", "part3", "--out", "all", "--json")
    assert done.code == 0, done.err
    assert done.summary["state"] == "complete"
    assert [(s["done"], s["images"]) for s in done.summary["shares"]] == [(12, 12), (12, 12)]
    assert Path(done.summary["page"]).is_file()
    same_maps(terminal.folder / "all", terminal.folder / "whole")


def test_a_joined_run_is_carried_on_like_any_other(terminal: Terminal) -> None:
    part(terminal, 1, 2)
    part(terminal, 2, 2)
    terminal.here("merge", "part1", "part2", "--out", "all", "--no-report")
    done = terminal.explain("--method", "gradient,gradcam,positive", out="all")
    assert done.code == 0, done.err
    assert done.event("finished")["computed"] == 12  # for the one method that is new
    terminal.explain("--method", "gradient,gradcam,positive", out="whole")
    same_maps(terminal.folder / "all", terminal.folder / "whole")


def test_joining_is_carried_on_where_it_stopped(terminal: Terminal) -> None:
    part(terminal, 1, 2, "--unit-images", "2")
    part(terminal, 2, 2, "--unit-images", "2")
    terminal.here("merge", "part1", "part2", "--out", "all", "--no-report")
    run = terminal.folder / "all"
    units = sorted((run / "units").glob("*.json"))
    before = {p.name: p.read_bytes() for p in units}
    for lost in units[-2:]:
        lost.unlink()
    done = terminal.here("merge", "part1", "part2", "--out", "all", "--no-report")
    assert done.code == 0, done.err
    assert {p.name: p.read_bytes() for p in sorted((run / "units").glob("*.json"))} == before
    terminal.explain(*METHODS, out="whole")
    same_maps(run, terminal.folder / "whole")


def test_runs_with_other_methods_of_the_same_images_are_joined(terminal: Terminal) -> None:
    terminal.explain("--method", "gradient", out="a")
    terminal.explain("--method", "gradcam", out="b")
    assert terminal.here("merge", "a", "b", "--out", "all", "--no-report").code == 0
    assert salience.open_run("all").methods == ("gradient", "gradcam")
    terminal.explain(*METHODS, out="whole")
    same_maps(terminal.folder / "all", terminal.folder / "whole")


def test_scores_of_parts_are_joined(terminal: Terminal) -> None:
    common = ("--model", "card.toml", "--method", "gradient", "--metric", "deletion:points=4", "--labels", "predicted")
    rows = [f"pictures/{c}/{i:03d}.png" for c in ("ant", "bee") for i in range(4)]
    Path("all.csv").write_text("file,label\n" + "".join(f"{r},{r.split('/')[1]}\n" for r in rows))
    done = terminal.here("evaluate", "all.csv", *common, *FAST, "--out", "a", "--no-report", "--limit", "3")
    assert done.code == 0, done.err
    done = terminal.here("evaluate", "all.csv", *common, *FAST, "--out", "b", "--no-report")
    assert done.code == 0, done.err
    assert terminal.here("merge", "a", "b", "--out", "both", "--no-report").code == 0
    assert salience.open_run("both").table("scores").equals(salience.open_run("b").table("scores"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("--target", "class:2"), "other settings"),
        (("--seed", "1", "--method", "smoothgrad:samples=2"), None),
    ],
)
def test_runs_that_differ_are_refused(terminal: Terminal, change: tuple[str, ...], message: str | None) -> None:
    terminal.explain("--method", "gradient", out="a")
    terminal.explain("--method", "gradient", *change, out="b")
    done = terminal.here("merge", "a", "b", "--out", "all", "--no-report")
    if message is None:
        assert done.code == 0, done.err
    else:
        assert message in done.refusal()
        assert not Path("all").exists()


def test_joining_refuses_what_does_not_belong_together(terminal: Terminal) -> None:
    terminal.explain("--method", "gradient", out="a")
    assert "Two runs or more" in terminal.here("merge", "a", "--out", "all").refusal()
    assert "named twice" in terminal.here("merge", "a", "a", "--out", "all").refusal()
    write_card(Path("card.toml"), factory="other")
    terminal.explain("--method", "gradient", out="b")
    assert "other weights" in terminal.here("merge", "a", "b", "--out", "all").refusal()
    assert "one of the runs" in terminal.here("merge", "a", "b", "--out", "a").refusal()
    Path("elsewhere").mkdir()
    for i in range(2):
        os.link(f"pictures/ant/{i:03d}.png", f"elsewhere/{i}.png")
    terminal.explain("--method", "gradient", out="c", images="elsewhere")
    assert "their images" in terminal.here("merge", "b", "c", "--out", "all").refusal()


@pytest.mark.parametrize("text", ["0/3", "4/3", "1", "a/b", "1/0"])
def test_a_shard_that_is_none_is_refused(terminal: Terminal, text: str) -> None:
    assert "i from 1 to n" in terminal.explain("--shard", text).refusal()


def test_a_shard_without_images_is_refused(terminal: Terminal) -> None:
    assert "Shard 13/13 is empty" in terminal.explain("--shard", "13/13").refusal()


def test_the_pages_of_a_run_are_served_to_this_machine(terminal: Terminal) -> None:
    assert terminal.here("explain", "pictures", "--model", "card.toml", "--out", "run", *FAST).code == 0
    program = terminal.start("serve", "run", "--port", "0")
    try:
        assert program.stdout is not None
        where = program.stdout.readline().split(";")[0]
        assert where.startswith("http://127.0.0.1:")
        with urllib.request.urlopen(where) as reply:
            assert reply.read() == (terminal.folder / "run" / "report" / "index.html").read_bytes()
    finally:
        program.send_signal(signal.SIGINT)
        _, err = program.communicate(timeout=30)
    assert program.returncode == 0
    assert err == ""


# ---------------------------------------------------------------------- status and resume


def test_a_killed_run_says_so_and_is_resumed_from_anywhere(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    program = terminal.start(
        *("explain", "pictures", "--model", "card.toml", *METHODS, "--out", "run", *FAST, "--no-report"),
        *("--unit-images", "2"),
        sleep=0.2,
    )
    units = terminal.folder / "run" / "units"
    wait_for(lambda: len(list(units.glob("*.json"))) >= 1, "the first unit")
    going = terminal.here("status", "run", "--json").summary
    assert going["state"] == "running"
    assert "writing" in terminal.here("resume", "run").refusal()
    program.send_signal(signal.SIGKILL)
    program.wait()
    found = terminal.here("status", "run", "--json").summary
    assert found["state"] == "killed"
    assert 0 < found["shares"][0]["done"] < 12
    shown = terminal.here("status", "run").out
    assert "killed" in shown
    assert "salience resume" in shown

    away = terminal.folder / "away"
    away.mkdir()
    monkeypatch.chdir(away)
    done = terminal.here("resume", terminal.folder / "run")
    assert done.code == 0, done.err
    monkeypatch.chdir(terminal.folder)
    found = terminal.here("status", "run", "--json").summary
    assert found["state"] == "complete"
    assert [s["done"] for s in found["shares"]] == [12, 12]
    assert found["command"][:2] == ["salience", "explain"]  # as it was typed, so that it can be resumed again
    terminal.explain(*METHODS, out="whole")
    same_maps(terminal.folder / "run", terminal.folder / "whole")


def test_status_counts_failures_and_stages(terminal: Terminal) -> None:
    (terminal.folder / "pictures" / "ant" / "broken.png").write_bytes(b"no image")
    common = ("--model", "card.toml", "--method", "gradient", "--metric", "deletion:points=4", "--labels", "predicted")
    done = terminal.here("evaluate", "pictures", *common, *FAST, "--out", "run", "--no-report")
    assert done.code == 1, done.err
    found = terminal.here("status", "run", "--json").summary
    assert found["failures"] >= 1
    by_what = {s["what"]: s for s in found["shares"]}
    assert (by_what["gradient"]["done"], by_what["gradient"]["failed"], by_what["gradient"]["images"]) == (12, 1, 13)
    assert by_what["evaluate"]["done"] == 12


def test_status_of_what_is_no_run(terminal: Terminal) -> None:
    assert "no run directory" in terminal.here("status", "pictures").refusal()


def test_a_run_made_from_python_cannot_be_resumed(terminal: Terminal) -> None:
    from salience.explaining import explain_run
    from salience.models.loading import load_model

    explain_run([load_model("card.toml")], "pictures", ["gradient"], "run")
    assert "not made from the command line" in terminal.here("resume", "run").refusal()


def test_a_run_whose_folder_is_gone_says_what_to_type(terminal: Terminal) -> None:
    terminal.explain("--method", "gradient")
    path = terminal.folder / "run" / "run.json"
    info = json.loads(path.read_text())
    path.write_text(json.dumps({**info, "directory": "/nowhere/at/all"}))
    assert "salience explain pictures" in terminal.here("resume", "run").refusal()
