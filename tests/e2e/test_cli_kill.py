"""Kill it anywhere, run it again: nothing finished is repeated, and the results are those of an uninterrupted run."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
from pathlib import Path

import pytest
from terminal import FAST, Terminal, results_of, wait_for, write_pictures

import salience

COMMAND = ("--model", "card.toml", "--method", "gradient,smoothgrad:samples=2,gradcam", *FAST, "--unit-images", "8")
MANY = ("explain", "many", *COMMAND, "--no-report", "--log-json")


@pytest.fixture
def many(terminal: Terminal) -> Terminal:
    write_pictures(terminal.folder / "many", {"ant": 20, "bee": 20, "cat": 20})
    return terminal


def files_of_finished_units(run: Path) -> dict[str, tuple[int, int]]:
    """Every file of the committed units, with its time and number on the disk."""
    found = {}
    for record in sorted((run / "units").glob("*.json")):
        number = int(record.stem)
        parts = [record, *run.glob(f"tables/*/{record.stem}.parquet"), *run.glob(f"maps/*/c/{number}/0/0")]
        found.update({str(p.relative_to(run)): (p.stat().st_mtime_ns, p.stat().st_ino) for p in parts})
    return found


def stop_in_the_middle(many: Terminal, how: signal.Signals) -> tuple[int, str]:
    """Start a slow run, and stop it when two units are safe."""
    program = many.start(*MANY, "--out", "run", sleep=0.04)
    units = many.folder / "run" / "units"

    def enough() -> bool:
        assert program.poll() is None, program.communicate()
        return len(list(units.glob("*.json"))) >= 2

    wait_for(enough, "two work units")
    program.send_signal(how)
    _, err = program.communicate(timeout=60)
    return program.returncode, err


def resume_and_compare(many: Terminal) -> None:
    run = many.folder / "run"
    kept = files_of_finished_units(run)
    assert 2 <= len(list((run / "units").glob("*.json"))) < 8
    assert len(salience.open_run(run).maps("gradcam").image_ids) >= 16  # what is there can be read
    again = many.here(*MANY, "--out", "run")
    assert again.code == 0, again.err
    started = again.event("started")
    assert started["reused"] >= 16
    assert started["images"] == 60 - started["reused"]
    after = files_of_finished_units(run)
    assert {name: after[name] for name in kept} == kept
    assert not list(run.rglob("*.partial"))
    assert many.here(*MANY, "--out", "whole").code == 0
    assert results_of(run) == results_of(many.folder / "whole")
    assert salience.open_run(run).info["status"] == "complete"


def test_killed_without_warning(many: Terminal) -> None:
    code, _ = stop_in_the_middle(many, signal.SIGKILL)
    assert code == -signal.SIGKILL
    assert salience.open_run(many.folder / "run").info["status"] == "running"
    resume_and_compare(many)


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_interrupted(many: Terminal, how: signal.Signals) -> None:
    code, err = stop_in_the_middle(many, how)
    assert code == 130
    assert "Traceback" not in err
    told = json.loads(err.splitlines()[-1])
    assert told == {
        "event": "error",
        "message": "interrupted. Finished work is kept in run; run the same command again to carry on.",
        "exit_code": 130,
    }
    assert salience.open_run(many.folder / "run").info["status"] == "interrupted"
    resume_and_compare(many)


def test_interrupted_before_anything_was_computed(many: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("salience.explaining.prepare", interrupt)
    done = many.here(*MANY, "--out", "run")
    assert done.code == 130
    assert done.event("error")["message"] == "interrupted before anything was computed."
    assert not (many.folder / "run").exists()


def test_torn_files_of_an_unfinished_unit_do_not_count(many: Terminal) -> None:
    """What a power cut leaves: a unit without its record, and files that were being written."""
    assert many.here(*MANY, "--out", "run").code == 0
    assert many.here(*MANY, "--out", "whole").code == 0
    run = many.folder / "run"
    last = max((run / "units").glob("*.json"))
    last.unlink()
    for shard in run.glob(f"maps/*/c/{int(last.stem)}/0/0"):
        shard.write_bytes(shard.read_bytes()[:100])
    (run / "units" / ".000099.json.1.partial").write_bytes(b"{")
    again = many.here(*MANY, "--out", "run")
    assert again.event("started")["images"] == 4
    assert results_of(run) == results_of(many.folder / "whole")


def test_one_writer_at_a_time(many: Terminal) -> None:
    (many.folder / "run").mkdir()
    with (many.folder / "run" / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        said = many.here(*MANY, "--out", "run").refusal()
        assert said == "Another process is writing run. Wait for it, or choose another --out."
    assert many.here(*MANY, "--out", "run", "--limit", "4").code == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs root")
def test_a_full_disk(many: Terminal) -> None:
    disk = many.folder / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=240k", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no small disk can be mounted here")
    try:
        full = many.here(*MANY, "--out", "disk/run")
        assert full.code == 2
        said = full.event("error")["message"]
        assert said.startswith("No space is left for disk/run/")
        assert said.endswith("Everything finished before is kept: free some space and run the same command again.")
        done = len(salience.open_run(disk / "run").units())
        assert done >= 1
        subprocess.run(["mount", "-o", "remount,size=8m", str(disk)], check=True)
        again = many.here(*MANY, "--out", "disk/run")
        assert again.code == 0, again.err
        assert again.event("started")["reused"] == 8 * done
        assert many.here(*MANY, "--out", "whole").code == 0
        assert results_of(disk / "run") == results_of(many.folder / "whole")
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)
