"""Runs on an object store, as their user types it, against a server that speaks S3: the bytes of a run in a folder."""

from __future__ import annotations

import json
import signal
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from terminal import FAST, Terminal, wait_for, write_card, write_pictures

import salience
from s3_server import BUCKET, S3, serving
from salience.store.connections import bucket_of
from salience.store.object_path import ObjectPath
from salience.store.place import place_of, storage

METHODS = ("--method", "gradient,smoothgrad:samples=2")
MANY = ("--model", "card.toml", *METHODS, *FAST, "--unit-images", "4", "--no-report")
NOT_RESULTS = (".lock", "run.json", "report/")


@pytest.fixture(scope="module")
def server() -> Iterator[S3]:
    pytest.importorskip("obstore", reason="obstore is not installed (the extra 'object-stores' has it)")
    with serving() as found:
        yield found


@dataclass(frozen=True)
class Store:
    """A folder of the bucket for one test."""

    server: S3
    name: str

    def __truediv__(self, part: str) -> str:
        return f"s3://{BUCKET}/{self.name}/{part}"


@pytest.fixture
def store(server: S3, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Store:
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    return Store(server, request.node.name)


def files_of(run: str | Path) -> dict[str, bytes]:
    """The files of a run by their places in it, less what tells of time and place."""
    place = place_of(run)
    if isinstance(place, ObjectPath):
        bucket, start = bucket_of(place.root), len(place.key) + 1
        found = {entry.key[start:]: bucket.read(entry.key) for entry in bucket.entries(place.key)}
    else:
        found = {str(p.relative_to(place)): p.read_bytes() for p in place.rglob("*") if p.is_file()}
    kept = {}
    for name, data in found.items():
        if any(part in name for part in NOT_RESULTS):
            continue
        if "units/" in name:
            data = json.dumps({**json.loads(data), "seconds": None}).encode()
        kept[name] = data
    return kept


def same(run: str, other: str | Path) -> None:
    a, b = files_of(run), files_of(other)
    assert sorted(a) == sorted(b)
    assert [name for name in a if a[name] != b[name]] == []
    mine, its = salience.open_run(run).info, salience.open_run(other).info
    for key in ("models", "recipes", "current", "status", "stages"):
        assert mine.get(key) == its.get(key), key


def stopped(terminal: Terminal, out: str, units: int) -> subprocess.Popen[str]:
    """Start a slow run and kill it when so many units are safe."""
    program = terminal.start("explain", "pictures", *MANY, "--out", out, sleep=0.3)

    def enough() -> bool:
        assert program.poll() is None, program.communicate()
        return sum(1 for _ in (place_of(out) / "units").glob("*.json")) >= units

    wait_for(enough, "work units")
    return program


def test_killed_and_resumed_it_has_the_bytes_of_a_run_in_a_folder(terminal: Terminal, store: Store) -> None:
    run = store / "run"
    write_pictures(terminal.folder / "pictures", {"ant": 10, "bee": 9, "cat": 9})
    program = stopped(terminal, run, 2)
    going = terminal.here("status", run, "--json").summary
    assert going["state"] == "running"
    assert "Another process is writing" in terminal.here("resume", run).refusal()
    said = terminal.here("explain", "pictures", *MANY, "--out", run).refusal()
    assert said.startswith(f"Another process is writing {run}: process {program.pid} on ")
    assert f"salience resume {run} --take-over" in said
    program.send_signal(signal.SIGKILL)
    program.communicate(timeout=60)
    found = terminal.here("status", run, "--json").summary
    assert (found["state"], found["folder"]) == ("killed", run)
    assert 0 < found["shares"][0]["done"] < 28
    before = files_of(run)
    finished = [name for name in before if name.startswith("units/")]
    done = terminal.here("resume", run)  # its process was on this machine: nobody has to wait
    assert done.code == 0, done.err
    assert {name: before[name] for name in finished}.items() <= files_of(run).items()
    assert terminal.here("explain", "pictures", *MANY, "--out", "whole").code == 0
    same(run, "whole")
    found = terminal.here("status", run, "--json").summary
    assert (found["state"], [s["done"] for s in found["shares"]]) == ("complete", [28, 28])


def test_workers_write_it_too(terminal: Terminal, store: Store) -> None:
    done = terminal.here("explain", "pictures", *MANY, "--workers", "2", "--out", store / "run")
    assert done.code == 0, done.err
    assert terminal.here("explain", "pictures", *MANY, "--out", "whole").code == 0
    a, b = salience.open_run(store / "run"), salience.open_run("whole")
    for method in a.methods:
        assert a.maps(method).values.tobytes() == b.maps(method).values.tobytes()
    assert files_of(store / "run").keys() == files_of("whole").keys()


def test_taken_over_from_a_machine_that_is_gone(terminal: Terminal, store: Store) -> None:
    run = store / "run"
    assert terminal.here("explain", "pictures", *MANY, "--out", run, "--limit", "4").code == 0
    path = place_of(run) / ".lock"
    holder = json.loads(path.read_text())
    assert holder["token"] == ""
    with storage(path).writing(path) as file:
        file.write(json.dumps({**holder, "token": "other", "host": "elsewhere", "machine": "another"}).encode())
    said = terminal.here("explain", "pictures", *MANY, "--out", run).refusal()
    assert "on elsewhere, since 20" in said
    assert "Another process is writing" in terminal.here("resume", run).refusal()
    done = terminal.here("resume", run, "--take-over")
    assert done.code == 0, done.err
    assert terminal.here("status", run, "--json").summary["state"] == "complete"


def test_shards_are_joined(terminal: Terminal, store: Store) -> None:
    for number, out in (("1", store / "part1"), ("2", "part2")):  # one of them is in a folder
        assert terminal.here("explain", "pictures", *MANY, "--shard", f"{number}/2", "--out", out).code == 0
        assert (
            terminal.here("explain", "pictures", *MANY, "--shard", f"{number}/2", "--out", f"local{number}").code == 0
        )
    done = terminal.here("merge", store / "part1", "part2", "--out", store / "all", "--json")
    assert done.code == 0, done.err
    assert done.summary["page"] == store / "all/report/index.html"
    assert terminal.here("merge", "local1", "local2", "--out", "all", "--no-report").code == 0
    a, b = files_of(store / "all"), files_of("all")
    assert {n: d for n, d in a.items() if "units/" not in n} == {n: d for n, d in b.items() if "units/" not in n}
    assert terminal.here("merge", store / "part1", store / "part1", "--out", store / "x").refusal() == (
        "A run is named twice."
    )


def test_its_page_is_written_served_and_taken_home(terminal: Terminal, store: Store) -> None:
    run = store / "run"
    assert terminal.here("explain", "pictures", *MANY, "--out", run).code == 0
    assert f"{run} has no page yet" in terminal.here("serve", run, "--port", "0").refusal()
    done = terminal.here("report", run)
    assert (done.code, done.out.strip()) == (0, f"{run}/report/index.html"), done.err
    page = (place_of(run) / "report" / "index.html").read_bytes()
    assert terminal.here("report", run, "--out", "home").out.strip() == "home/index.html"
    assert Path("home/index.html").read_bytes() == page
    program = terminal.start("serve", run, "--port", "0")
    try:
        assert program.stdout is not None
        where = program.stdout.readline().split(";")[0]
        with urllib.request.urlopen(where) as reply:
            assert reply.read() == page
        for path in ("../run.json", "%2e%2e/run.json", "none.html", "../report/index.html/.."):
            with pytest.raises(urllib.error.HTTPError, match="404"):
                urllib.request.urlopen(where + path)
    finally:
        program.send_signal(signal.SIGINT)
        _, err = program.communicate(timeout=30)
    assert (program.returncode, err) == (0, "")


def test_scores(terminal: Terminal, store: Store) -> None:
    common = ("--model", "card.toml", *METHODS, "--metric", "deletion:points=4", "--labels", "predicted+1")
    for out in (store / "run", "run"):
        done = terminal.here("evaluate", "pictures", *common, *FAST, "--seeds", "2", "--out", out, "--no-report")
        assert done.code == 0, done.err
    same(store / "run", "run")
    assert f"{store / 'run'}/report/index.html" in terminal.here("report", store / "run").out


def test_behaviour(terminal: Terminal, store: Store) -> None:
    common = ("--model", "card.toml", "--measure", "entropy,geometry", "--method", "gradient")
    for out in (store / "run", "run"):
        done = terminal.here("audit", "pictures", *common, *FAST, "--out", out)
        assert done.code == 0, done.err
    same(store / "run", "run")


def test_a_comparison(terminal: Terminal, store: Store) -> None:
    write_card(terminal.folder / "new.toml", "other")
    common = ("--model", "old=card.toml", "--model", "new=new.toml", "--encoder", "color", "--method", "ig:steps=4")
    for out in (store / "run", "run"):
        done = terminal.here("compare", "pictures", *common, *FAST, "--concepts", "2", "--confirm", "1", "--out", out)
        assert done.code == 0, done.err
    a, b = files_of(store / "run"), files_of("run")
    derived = [name for name in b if name.startswith("derived/")]
    assert len(derived) == 5
    assert {name: a[name] for name in derived} == {name: b[name] for name in derived}  # units: as threads came by


def test_while_the_store_answers_badly(terminal: Terminal, store: Store) -> None:
    """Every third request fails before anything is done, or its answer is lost after it."""
    run = store / "run"
    for late in (False, True):
        store.server.fail(60, every=3, status=500, late=late)
        assert terminal.here("explain", "pictures", *MANY, "--out", run, *(() if late else ("--limit", "5"))).code == 0
        store.server.mend()
    for more in (("--limit", "5"), ()):
        assert terminal.here("explain", "pictures", *MANY, "--out", "whole", *more).code == 0
    same(run, "whole")


def test_a_url_that_cannot_be_a_run(terminal: Terminal, store: Store) -> None:
    def refusal(*more: str) -> Any:
        return terminal.here("explain", "pictures", *MANY, *more).refusal()

    assert "Runs cannot be on ftp://" in refusal("--out", "ftp://host/run")
    assert "names a bucket and no folder" in refusal("--out", "s3://bucket")
    assert "there is no bucket s3://nowhere" in refusal("--out", "s3://nowhere/run")
    assert "is no run directory" in terminal.here("status", store / "none").refusal()


# ---------------------------------------------------------------------- a cluster


def results_of(run: str | Path) -> dict[str, object]:
    """What a comparison found, however its units are numbered."""
    found: dict[str, object] = {k: v for k, v in files_of(run).items() if k.startswith("derived/")}
    opened = salience.open_run(run)
    for model in opened.models:
        found |= {f"{model} {method}": opened.maps(method, model).values.tobytes() for method in opened.methods}
    assert len(found) > len(opened.models)
    return found


VERBS = {
    "explain": ("--model", "card.toml", *METHODS),
    "evaluate": ("--model", "card.toml", *METHODS, "--metric", "srg:points=4,gini", "--labels", "all"),
    "audit": ("-m", "old=card.toml", "-m", "new=new.toml", "--measure", "geometry", "--limit", "3"),
    "compare": (
        *("-m", "old=card.toml", "-m", "new=new.toml", "--method", "ig:steps=4:baseline=black+white"),
        *("--segments", "grid:rows=3:columns=3", "--concepts", "4", "--confirm", "2"),
    ),
}


@pytest.mark.parametrize("verb", VERBS)
def test_workers_of_a_cluster_write_what_one_process_writes(
    terminal: Terminal, store: Store, cluster: Any, verb: str
) -> None:
    write_card(terminal.folder / "new.toml", "other")
    node = cluster.add_node(num_cpus=2)  # it has the credentials of this environment
    words = (verb, "pictures", *VERBS[verb], *FAST, "--unit-images", "4", "--no-report")
    done = terminal.run(
        *words, "--engine", "ray", "--address", cluster.address, "--workers", "2", "--out", store / "run"
    )
    assert done.code == 0, done.err
    assert terminal.here(*words, "--out", "whole").code == 0
    cluster.remove_node(node)
    if verb == "compare":  # its stages overlap, so that its units are numbered as they come
        assert results_of(store / "run") == results_of(terminal.folder / "whole")
    else:
        same(store / "run", terminal.folder / "whole")
