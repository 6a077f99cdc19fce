"""Several workers on this machine and on a Ray cluster: the bytes of one process, whatever dies."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from terminal import FAST, Terminal, lives, results_of, wait_for, workers_of, write_card, write_pictures

import salience

METHODS = ("--method", "gradient,smoothgrad:samples=2,gradcam", *FAST, "--unit-images", "4", "--no-report")
POISON = '''
import os, ctypes
from nets import small

class Poisoned(type(small())):
    """Takes its process with it when it sees a picture that is all white."""
    def forward(self, x):
        if x.shape[-1] == 16 and bool((x.flatten(1).min(1).values > 1.9).any()):
            {death}
        return super().forward(x)

def poisoned(): return Poisoned(small().inner)
'''


@pytest.fixture
def many(terminal: Terminal) -> Terminal:
    write_pictures(terminal.folder / "many", {"ant": 16, "bee": 16, "cat": 16})
    return terminal


@pytest.fixture
def whole(many: Terminal) -> dict[str, object]:
    """What one undisturbed process computes."""
    assert many.here("explain", "many", "--model", "card.toml", *METHODS, "--out", "whole").code == 0
    return results_of(many.folder / "whole")


def command(*more: str | Path) -> tuple[str | Path, ...]:
    return ("explain", "many", "--model", "card.toml", *METHODS, "--out", "run", "--log-json", *more)


def units(run: Path) -> int:
    return len(list((run / "units").glob("*.json")))


# ---------------------------------------------------------------------- processes


def test_two_processes_write_what_one_writes(many: Terminal, whole: dict[str, object]) -> None:
    done = many.here(*command("--workers", "2"))
    assert done.code == 0, done.err
    assert done.event("started")["workers"] == 2
    assert (done.event("finished")["computed"], done.event("finished")["failures"]) == (48, 0)
    run = many.folder / "run"
    assert results_of(run) == whole
    # not only what is read back: the files are the same, unit by unit
    for name in ("tables/maps", "tables/predictions", "tables/contents", "maps"):
        ours = {p.relative_to(run): p.read_bytes() for p in (run / name).rglob("*") if p.is_file()}
        theirs = many.folder / "whole"
        assert ours == {p.relative_to(theirs): p.read_bytes() for p in (theirs / name).rglob("*") if p.is_file()}
    again = many.here(*command("--workers", "2"))
    assert again.event("finished")["computed"] == 0


def test_a_worker_that_is_killed_costs_nothing(many: Terminal, whole: dict[str, object]) -> None:
    program = many.start(*command("--workers", "2"), sleep=0.03)
    run = many.folder / "run"
    wait_for(lambda: units(run) >= 2, "two units")
    workers = workers_of(program)
    assert len(workers) == 2
    workers[0].kill()
    _, err = program.communicate(timeout=120)
    assert program.returncode == 0, err
    assert results_of(run) == whole
    assert salience.open_run(run).table("failures").num_rows == 0


def test_a_command_that_is_killed_takes_its_workers_along_and_is_carried_on(
    many: Terminal, whole: dict[str, object]
) -> None:
    program = many.start(*command("--workers", "2"), sleep=0.03)
    run = many.folder / "run"
    wait_for(lambda: units(run) >= 2, "two units")
    workers = workers_of(program)
    program.send_signal(signal.SIGKILL)
    program.communicate()
    wait_for(lambda: not any(map(lives, workers)), "its workers' end")
    kept = units(run)
    assert 2 <= kept < 12
    done = many.here(*command("--workers", "2"))
    assert done.code == 0, done.err
    assert done.event("started")["reused"] >= 4 * 2
    assert results_of(run) == whole


def test_interrupted_it_says_how_to_carry_on(many: Terminal, whole: dict[str, object]) -> None:
    program = many.start(*command("--workers", "2"), sleep=0.03)
    run = many.folder / "run"
    wait_for(lambda: units(run) >= 2, "two units")
    program.send_signal(signal.SIGINT)
    _, err = program.communicate(timeout=60)
    assert program.returncode == 130
    assert "run the same command again" in err
    assert "Traceback" not in err
    assert many.here(*command()).code == 0  # by one process
    assert results_of(run) == whole


@pytest.mark.parametrize("death", ["os._exit(3)", "ctypes.string_at(0)"])
def test_an_image_that_kills_its_worker_becomes_a_failure(terminal: Terminal, death: str) -> None:
    from PIL import Image

    write_pictures(terminal.folder / "many", {"ant": 6, "bee": 6})
    Image.new("RGB", (24, 20), "white").save(terminal.folder / "many" / "ant" / "003.png")
    (terminal.folder / "deadly.py").write_text(POISON.format(death=death), encoding="utf-8")
    write_card(terminal.folder / "card.toml", factory="poisoned")
    card = terminal.folder / "card.toml"
    card.write_text(card.read_text().replace("nets.py:poisoned", "deadly.py:poisoned"))
    done = terminal.run(*command("--workers", "2"))
    assert done.code == 1, done.err
    run = salience.open_run(terminal.folder / "run")
    (failure,) = run.table("failures").to_pylist()
    assert (failure["image_id"], failure["kind"]) == ("ant/003.png", "crash")
    assert ("exit code 3" if "exit" in death else "SIGSEGV") in failure["message"]
    assert len(run.maps("gradcam")) == 11
    assert run.info["status"] == "complete"


def test_what_workers_cannot_do_is_refused(terminal: Terminal) -> None:
    from salience.cli.inputs import crew_of
    from salience.engine.crew import Crew
    from salience.errors import ModelError, SettingsError
    from salience.explaining import RunSettings, explain_run
    from salience.testing.models import small_classifier

    with pytest.raises(ModelError, match="made in Python"):
        explain_run(
            [small_classifier(16, 4)], "pictures", ["gradient"], "run", settings=RunSettings(crew=Crew(workers=2))
        )
    with pytest.raises(SettingsError, match="belong to --engine ray"):
        crew_of("local", None, "auto", 0.0)
    assert "choose local or ray" in terminal.explain("--engine", "dask").refusal()


def test_a_model_that_fails_to_load_in_a_worker_says_so(terminal: Terminal) -> None:
    nets = terminal.folder / "nets.py"
    parent = os.getpid()
    nets.write_text(nets.read_text() + f"\n\nif os.getpid() != {parent}: raise OSError('only here')\n")
    done = terminal.here(*command("--workers", "1")[:1], "pictures", *command("--workers", "1")[2:])
    assert done.code == 2
    assert "only here" in done.err


# ---------------------------------------------------------------------- Ray


def on(cluster: Any, workers: int) -> tuple[str | Path, ...]:
    return command("--engine", "ray", "--address", cluster.address, "--workers", str(workers))


def test_a_cluster_writes_what_one_process_writes_also_when_a_node_leaves(
    many: Terminal, whole: dict[str, object], cluster: Any
) -> None:
    staying = cluster.add_node(num_cpus=1)
    leaving = cluster.add_node(num_cpus=1)
    program = many.start(*on(cluster, 2), sleep=0.06)
    run = many.folder / "run"
    wait_for(lambda: units(run) >= 2 or program.poll() is not None, "two units")
    cluster.remove_node(leaving, allow_graceful=False)
    _, err = program.communicate(timeout=180)
    assert program.returncode == 0, err
    assert results_of(run) == whole
    assert salience.open_run(run).table("failures").num_rows == 0
    cluster.remove_node(staying)


def test_a_driver_that_is_killed_is_carried_on_by_a_cluster_that_grew(
    many: Terminal, whole: dict[str, object], cluster: Any
) -> None:
    first = cluster.add_node(num_cpus=1)
    program = many.start(*on(cluster, 2), sleep=0.06)  # there is room for one of the two
    run = many.folder / "run"
    wait_for(lambda: units(run) >= 2 or program.poll() is not None, "two units")
    program.send_signal(signal.SIGKILL)
    program.communicate()
    kept = units(run)
    assert 2 <= kept < 12
    program = many.start(*on(cluster, 2), sleep=0.06)
    wait_for(lambda: units(run) > kept or program.poll() is not None, "another unit")
    second = cluster.add_node(num_cpus=1)
    _, err = program.communicate(timeout=180)
    assert program.returncode == 0, err
    assert results_of(run) == whole
    cluster.remove_node(first)
    cluster.remove_node(second)


def test_a_command_outside_the_cluster_reaches_it_through_its_client_port(
    many: Terminal, whole: dict[str, object], cluster: Any
) -> None:
    pytest.importorskip("grpc", reason="grpcio is not installed (the extra 'ray' has it)")
    node = cluster.add_node(num_cpus=2)
    port = cluster.head_node._ray_params.ray_client_server_port
    done = many.run(*command("--engine", "ray", "--address", f"ray://127.0.0.1:{port}", "--workers", "2"))
    assert done.code == 0, done.err
    assert done.event("started")["workers"] == 2
    assert results_of(many.folder / "run") == whole
    cluster.remove_node(node)


def test_a_cluster_that_is_not_there_is_named(terminal: Terminal) -> None:
    pytest.importorskip("ray", reason="Ray is not installed (the extra 'ray')")
    begin = time.monotonic()
    done = terminal.run("explain", "pictures", *command()[2:], "--engine", "ray", "--address", "127.0.0.1:1")
    assert done.code == 2
    assert "no Ray cluster" in done.err
    assert time.monotonic() - begin < 60
