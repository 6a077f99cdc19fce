"""``salience audit`` as its user types it: groups, tables, JSON, kill and resume, bad input."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest
from terminal import FAST, Terminal, wait_for, write_card, write_pictures

import salience
from salience.behaviour.conditions.registry import conditions

MEASURES = "entropy,geometry,stability"


@pytest.fixture
def models(terminal: Terminal) -> Terminal:
    """Two groups of two runs, and four pictures."""
    for group in ("plain", "guided"):
        (terminal.folder / group).mkdir()
        for run in range(2):
            write_card(terminal.folder / group / f"{group}_{run}.toml", "small" if group == "plain" else "other")
        (terminal.folder / group / "nets.py").symlink_to(terminal.folder / "nets.py")
    write_pictures(terminal.folder / "photos", {"ant": 2, "bee": 2})
    return terminal


def command(*more: str, measure: str = MEASURES, out: str = "run") -> tuple[str, ...]:
    return (
        *("audit", "photos", "--group", "plain=plain/plain_*.toml", "--group", "guided=guided"),
        *("--measure", measure, "--out", out, *FAST, *more),
    )


def derived(run: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted((run / "derived").glob("*.parquet"))}


def test_an_overview_for_people(models: Terminal) -> None:
    done = models.here(*command("--no-report"))
    assert done.code == 0, done.err
    head, columns, *lines = done.out.splitlines()
    assert head.startswith("plain (2 runs), guided (2 runs): 4 images, maps of gradcam")
    assert columns.split() == ["measure", "form", "number", "better", "plain", "guided"]
    first = {line.split()[0] for line in lines if line[:1].islower()}
    assert first >= {"entropy", "geometry", "stability"}
    for words in ("histogram-entropy", "spatial-entropy", "published", "corrected", "chance-corrected"):
        assert words in done.out, words
    assert "No difference between guided and plain models can be shown with 2 runs a group" in done.out
    assert done.out.rstrip().endswith("run:  run")


def test_an_overview_for_programs(models: Terminal) -> None:
    done = models.here(*command("--json"))
    assert done.code == 0, done.err
    found = json.loads(done.out)
    assert found["groups"] == {"plain": ["plain_0", "plain_1"], "guided": ["guided_0", "guided_1"]}
    assert found["measures"] == ["entropy", "geometry", "stability"]
    assert found["images"] == 4
    assert found["failures"] == 0
    assert Path(found["report"]).is_file()
    rows = {(r["measure"], r["form"], r["group"]) for r in found["overview"]}
    assert rows >= {(m, "corrected", g) for m in found["measures"] for g in found["groups"]}
    assert found["sentences"] == salience.read_audit(models.folder / "run").sentences()
    same = [r for r in found["overview"] if (r["measure"], r["form"]) == ("stability", "corrected")]
    assert all(r["low"] <= r["value"] <= r["high"] for r in same if r["low"] is not None)


def test_identical_runs_agree_fully(models: Terminal) -> None:
    """Both runs of a group are the same network here."""
    assert models.here(*command("--no-report", measure="stability")).code == 0
    rows = salience.read_audit(models.folder / "run").effects.to_pylist()
    alike = {r["group"]: r["value"] for r in rows if (r["statistic"], r["reference"]) == ("pearson", None)}
    assert alike == {"plain": pytest.approx(1), "guided": pytest.approx(1)}


def test_single_models_of_all_measures(models: Terminal) -> None:
    write_pictures(models.folder / "others", {".": 2})
    done = models.here(
        *("audit", "photos", "-m", "card.toml", "-m", "second=plain/plain_1.toml", "--out-of-set", "others"),
        *("--background", "blur", "--limit", "2", "--out", "run", "--json", *FAST),
    )
    assert done.code == 0, done.err
    found = json.loads(done.out)
    assert found["groups"] == {"card": ["card"], "second": ["second"]}
    assert found["measures"] == ["entropy", "out-of-set", "geometry", "degradation"]
    assert found["images"] == 2
    assert any("needs a group of two runs" in note for note in found["notes"])
    run = models.folder / "run"
    changed = salience.open_run(run / "conditions" / "second").images
    assert len(changed) == 2 * len(conditions())
    assert len(salience.open_run(run / "out-of-set").images) == 2


def test_progress_is_of_the_whole(models: Terminal) -> None:
    done = models.here(*command("--no-report", "--log-json"))
    assert done.code == 0, done.err
    assert done.event("started")["model"] == "audit"
    shares = [e["share"] for e in done.events if e["event"] == "progress"]
    assert {e["model"] for e in done.events if e["event"] == "progress"} == {"audit"}
    assert shares[-1] == 1
    finished = [e["model"] for e in done.events if e["event"] == "finished"]
    assert finished[:3] == ["plain_0, clean", "plain_0, conditions", "plain_0, changed"] or finished[:3] == [
        *("plain_0, clean", "plain_0, conditions", "plain_1, clean")
    ]
    assert finished[-1] == "audit"


def kill_after(models: Terminal, folder: str) -> None:
    """Kill an audit without warning once a unit below ``folder`` is safe."""
    program = models.start(*command("--no-report", "--unit-images", "4"), sleep=0.03)
    wanted = models.folder / "run" / folder / "units"

    def there() -> bool:
        assert program.poll() is None, program.communicate()
        return any(wanted.glob("*.json"))

    wait_for(there, f"a work unit in {folder}")
    program.send_signal(signal.SIGKILL)
    program.communicate(timeout=60)
    assert program.returncode == -signal.SIGKILL


def test_killed_twice_and_carried_on(models: Terminal) -> None:
    for folder in ("conditions/plain_0", "conditions/guided_1"):
        kill_after(models, folder)
        assert salience.open_run(models.folder / "run").info["status"] == "running"
        assert not derived(models.folder / "run")
    shown = models.here("status", "run")
    assert "killed" in shown.out
    again = models.here(*command("--no-report", "--unit-images", "4", "--json"))
    assert again.code == 0, again.err
    assert models.here(*command("--no-report", "--unit-images", "4", out="whole")).code == 0
    assert derived(models.folder / "run") == derived(models.folder / "whole")
    assert len(derived(models.folder / "run")) == 3
    assert not list((models.folder / "run").rglob("*.partial"))
    assert salience.open_run(models.folder / "run").info["status"] == "complete"


def test_a_broken_picture_is_a_failure(models: Terminal) -> None:
    (models.folder / "photos" / "ant" / "001.png").write_bytes(b"")
    done = models.here(*command("--no-report", measure="geometry"))
    assert done.code == 1
    assert "4 failures:" in done.out  # one for each model
    assert "the file is empty" in done.out
    rows = salience.read_audit(models.folder / "run").measures
    assert len(set(rows["image_id"].to_pylist())) == 3


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--group", "plain"), "write NAME=CARD,CARD"),
        (("--group", "plain=none_*.toml"), "holds no model card"),
        (("--group", "plain=photos"), "holds no model card"),
        ((), "There are no models"),
        (("-m", "card.toml", "--measure", "focus"), "There is no measure 'focus'"),
        (("-m", "card.toml", "--measure", "stability"), "needs a group of two runs"),
        (("-m", "card.toml", "--measure", "entropy", "--out-of-set", "photos"), "second dataset"),
        (("-m", "card.toml", "--method", "gradcamm"), "Did you mean 'gradcam'"),
        (("-m", "a=card.toml", "-m", "a=plain/plain_0.toml"), "Name them"),
    ],
)
def test_what_cannot_be_done_is_said(models: Terminal, words: tuple[str, ...], said: str) -> None:
    assert said in models.here("audit", "photos", "--out", "run", *words).refusal()
    assert not (models.folder / "run").exists()
