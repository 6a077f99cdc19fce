"""Work of all stages by workers: one that only pretends to be another process, and real ones where that matters."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from PIL import Image

import salience
from salience.comparing import compare
from salience.data.source import open_images
from salience.engine import worker as workers
from salience.engine.crew import Crew, Died, Done, Task
from salience.engine.events import Event, Failed, Finished, PlanChanged, Progress, Started
from salience.engine.hiring import Staff
from salience.engine.processes import Processes
from salience.engine.worker import Assignment, Team, Worker
from salience.errors import ModelError, RunError, SettingsError
from salience.evaluating import evaluate
from salience.explaining import RunSettings, explain_run, staffed
from salience.store.run import open_run

NETS = """
from salience.testing.models import small_classifier
def small(): return small_classifier(16, 4, seed=1).module
def other(): return small_classifier(16, 4, seed=2).module
def third(): return small_classifier(16, 4, seed=3).module
"""
PLAN: dict[str, Any] = {"batch": 4, "memory_format": "contiguous", "threads": 1, "unit_images": 2}
HERE = RunSettings(**PLAN)
CREW = RunSettings(**PLAN, crew=Crew(workers=2))


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with eight pictures and two cards, in which the command was typed."""
    (tmp_path / "nets.py").write_text(NETS)
    known = ["ant", "bee", "cat", "dog"]
    for name, classes in (("small", known), ("other", ["bee", "ant", "cat", "hound"]), ("third", known)):
        keys = {"factory": f"nets.py:{name}", "size": 16, "mean": [0.5] * 3, "std": [0.25] * 3, "classes": classes}
        card = "".join(f"{k} = {json.dumps(v)}\n" for k, v in keys.items())
        (tmp_path / f"{name}.toml").write_text(card)
    (tmp_path / "photos").mkdir()
    for i in range(8):
        picture(tmp_path, i, seed=i)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def picture(folder: Path, number: int, seed: int) -> None:
    pixels = np.random.default_rng(seed).integers(0, 255, (20, 24, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "photos" / f"{number}.png")


@dataclass
class Inline(Team):
    """A worker in this process that is told everything as bytes; it dies of tasks that ``deadly`` names."""

    deadly: Callable[[Assignment, Task], bool] = lambda assignment, task: False
    assigned: list[Assignment] = field(default_factory=list)
    closed: int = 0

    def __post_init__(self) -> None:
        self.worker = Worker()
        self._task: Task | None = None

    def assign(self, assignment: Assignment, device: str) -> None:
        copy = pickle.loads(pickle.dumps(assignment))
        self.assigned.append(copy)
        self.worker.begin(copy, device, 1)

    def idle(self) -> int:
        return int(self._task is None)

    def give(self, task: Task) -> None:
        assert self._task is None
        self._task = task

    def wait(self) -> list[Done | Died]:
        task, self._task = self._task, None
        assert task is not None
        if self.deadly(self.assigned[-1], task):
            return [Died(task, "it fell")]
        return [self.worker.do(pickle.loads(pickle.dumps(task)))]

    def close(self) -> None:
        self.closed += 1
        self.worker.close()


@pytest.fixture
def team(monkeypatch: pytest.MonkeyPatch) -> Inline:
    """The workers that every crew gets."""
    made = Inline()
    monkeypatch.setattr(Staff, "_start", lambda self: made)
    return made


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the models that a worker loads."""
    found: list[str] = []
    load = workers.load_model

    def spied(spec: str, **more: Any) -> Any:
        found.append(more["name"])
        return load(spec, **more)

    monkeypatch.setattr(workers, "load_model", spied)
    return found


def score(out: str, how: RunSettings, listen: Any = lambda event: None, **more: Any) -> salience.Scores:
    metrics = ["srg:points=4", "gini", "max-sensitivity:draws=2"]
    words: dict[str, Any] = {"metrics": metrics, "labels": "all", "device": "cpu", "settings": how, "listen": listen}
    return evaluate("small.toml", "photos", ["gradient"], out=out, **{**words, **more})


def is_score(assignment: Assignment) -> bool:
    return type(assignment.craft).__name__ == "ScoreCraft"


def results(run: str | Path) -> dict[str, bytes]:
    """The bytes of all results, unit by unit."""
    rooms = {"tables", "maps", "derived"}
    files = [p for p in sorted(Path(run).rglob("*")) if p.is_file() and rooms & set(p.relative_to(run).parts)]
    return {str(p.relative_to(run)): p.read_bytes() for p in files}


# ---------------------------------------------------------------------- one staff for all stages


def test_a_worker_loads_its_model_once_for_all_stages(place: Path, team: Inline, loads: list[str]) -> None:
    score("run", CREW)
    assert [type(a.craft).__name__ for a in team.assigned] == ["MapCraft", "ScoreCraft"]
    assert loads == ["small"]
    assert team.closed == 1
    score("whole", HERE)
    assert results("run") == results("whole")
    score("run", CREW)  # nothing is missing, so nobody is asked
    assert len(team.assigned) == 2


def test_models_in_turn_in_another_label_space(place: Path, team: Inline, loads: list[str]) -> None:
    words: dict[str, Any] = {
        "method": "ig:steps=4:baseline=black",
        "segments": "grid:rows=2:columns=2",
        "class_map": {"other": {"hound": "dog"}},
        "encoder": "third.toml",
        "concepts": 2,
        "confirm": 2,
        "device": "cpu",
    }
    whole = compare("small.toml", "other.toml", "photos", out="whole", settings=HERE, **words)
    found = compare("small.toml", "other.toml", "photos", out="run", settings=CREW, **words)
    assert len(whole.interventions) > 0
    for name in ("segments", "attributions", "concepts", "effects", "interventions"):
        path = Path("derived") / f"{name}.parquet"
        assert (Path("run") / path).read_bytes() == (Path("whole") / path).read_bytes()
    for name in ("drops", "embeddings", "partitions"):
        assert found.run.table(name).equals(whole.run.table(name))
    assert loads == ["small", "other", "third", "small", "other"]
    assert [type(a.craft).__name__.removesuffix("Craft") for a in team.assigned] == [
        *("Map", "Map", "Describe", "Ask", "Ask")
    ]


def test_a_staff_that_is_given_stays_until_its_body_ends(place: Path, team: Inline) -> None:
    with staffed(CREW) as how:
        score("run", how)
        score("second", how)
        assert team.closed == 0
    assert team.closed == 1


def test_workers_of_work_that_failed_are_ended(place: Path, team: Inline) -> None:
    def breaks(assignment: Assignment, task: Task) -> bool:
        raise RunError("no space is left")

    team.deadly = breaks
    with staffed(CREW) as how, pytest.raises(RunError, match="no space"):
        score("run", how)
    assert team.closed == 1
    assert open_run("run").info["status"] == "failed"
    team.deadly = lambda assignment, task: False
    score("run", CREW)
    score("whole", HERE)
    assert results("run") == results("whole")


# ---------------------------------------------------------------------- images that kill


def test_an_image_that_kills_the_scoring_is_a_failure_until_it_changes(place: Path, team: Inline) -> None:
    team.deadly = lambda assignment, task: is_score(assignment) and 3 in task.images
    told: list[Event] = []
    scores = score("run", CREW, told.append)
    (failure,) = scores.failures
    assert (failure["image_id"], failure["kind"], failure["model"]) == ("3.png", "crash", "small")
    assert "it fell" in failure["message"]
    (failed,) = [e for e in told if isinstance(e, Failed)]
    assert (failed.image_id, failed.why) == ("3.png", "crash")
    last = [e for e in told if isinstance(e, Finished)][-1]
    assert (last.verb, last.computed, last.failures) == ("score", 7, 1)
    score("whole", HERE)
    rows = open_run("whole").table("scores").to_pylist()
    assert open_run("run").table("scores").to_pylist() == [r for r in rows if r["image_id"] != "3.png"]

    again: list[Event] = []
    score("run", HERE, again.append)  # it would kill this process: it is not tried
    assert [e.images for e in again if isinstance(e, Started) and e.verb == "score"] == [0]
    assert [e.reused for e in again if isinstance(e, Started) and e.verb == "score"] == [8]

    team.deadly = lambda assignment, task: False
    picture(place, 3, seed=99)
    assert not score("run", CREW).failures
    assert len(set(open_run("run").table("scores")["image_id"].to_pylist())) == 8


def test_an_image_that_kills_the_explaining_is_not_scored(place: Path, team: Inline) -> None:
    team.deadly = lambda assignment, task: 5 in task.images
    scores = score("run", CREW)
    (failure,) = scores.failures  # one, not one for each stage
    assert (failure["image_id"], failure["recipe"]) == ("5.png", None)
    assert len(set(open_run("run").table("scores")["image_id"].to_pylist())) == 7


@pytest.mark.usefixtures("place")
def test_a_concept_is_confirmed_without_an_image_that_kills(team: Inline) -> None:
    words: dict[str, Any] = {"method": "ig:steps=4:baseline=black", "segments": "grid:rows=2:columns=2"}
    words |= {"concepts": 2, "confirm": 2, "device": "cpu"}
    whole = compare("small.toml", None, "photos", out="whole", settings=HERE, **words).run.table("drops").to_pylist()
    killed = {r["image_id"] for r in whole}.pop()
    place = int(killed.removesuffix(".png"))
    team.deadly = lambda a, task: type(a.craft).__name__ == "AskCraft" and place in task.images
    found = compare("small.toml", None, "photos", out="run", settings=CREW, **words)
    assert [(f["image_id"], f["kind"]) for f in found.failures] == [(killed, "crash")]
    assert found.run.table("drops").to_pylist() == [r for r in whole if r["image_id"] != killed]
    again = compare("small.toml", None, "photos", out="run", settings=HERE, **words)  # it is not tried
    assert [(f["image_id"], f["kind"]) for f in again.failures] == [(killed, "crash")]


def test_an_image_that_kills_the_encoder_is_not_compared(place: Path, team: Inline) -> None:
    team.deadly = lambda a, task: type(a.craft).__name__ == "DescribeCraft" and 6 in task.images
    words: dict[str, Any] = {"method": "ig:steps=4:baseline=black", "segments": "grid:rows=2:columns=2"}
    words |= {"encoder": "third.toml", "concepts": 2, "confirm": 0, "device": "cpu", "settings": CREW}
    for _ in range(2):
        told: list[Event] = []
        found = compare("small.toml", None, "photos", out="run", listen=told.append, **words)
        (failure,) = found.failures
        assert (failure["image_id"], failure["kind"], failure["model"]) == ("6.png", "crash", "small")
        assert found.images == tuple(f"{i}.png" for i in range(8) if i != 6)
    assert ("segments", "describe") not in [(e.model, e.verb) for e in told if isinstance(e, Started)]


# ---------------------------------------------------------------------- what workers tell


def test_a_batch_that_was_halved_is_told_of_and_recorded(
    place: Path, team: Inline, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = workers.load_model

    def scarce(spec: str, **more: Any) -> Any:
        classifier = load(spec, **more)

        def refuse(_module: Any, args: tuple[torch.Tensor, ...]) -> None:
            if len(args[0]) > 2:
                raise torch.OutOfMemoryError("CUDA out of memory")

        classifier.module.register_forward_pre_hook(refuse)
        return classifier

    monkeypatch.setattr(workers, "load_model", scarce)
    told: list[Event] = []
    score("run", CREW, told.append)
    assert [(type(e), e.batch) for e in told if isinstance(e, PlanChanged)] == [(PlanChanged, 2)] * 2
    info = open_run("run").info
    assert info["models"]["small"]["plan"]["batch"] == 2
    assert info["stages"]["evaluate"]["plans"]["small"]["batch"] == 2
    assert not open_run("run").table("failures").num_rows


def test_progress_counts_model_calls_within_a_unit(place: Path) -> None:
    told: list[Event] = []
    score("run", RunSettings(**{**PLAN, "unit_images": 8}), told.append, metrics=["srg:points=64"])
    begin = max(i for i, e in enumerate(told) if isinstance(e, Started))
    shares = [e.share for e in told[begin:] if isinstance(e, Progress)]
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    assert any(0 < share < 1 for share in shares)  # one unit: it moved within


def test_other_weights_on_the_worker_are_refused(place: Path, team: Inline, monkeypatch: pytest.MonkeyPatch) -> None:
    load = workers.load_model
    monkeypatch.setattr(workers, "load_model", lambda spec, **more: load("other.toml", name=more["name"], device="cpu"))
    with pytest.raises(ModelError, match="loads other weights for 'small'"):
        score("run", CREW)


def test_a_model_goes_by_the_name_and_the_layer_that_it_has_now(place: Path, team: Inline, loads: list[str]) -> None:
    model = salience.load_model("small.toml", device="cpu")
    model.name = "renamed"
    model.layer = next(name for name, m in model.module.named_modules() if isinstance(m, torch.nn.Conv2d))
    explain_run([model], "photos", ["gradcam"], "run", settings=CREW)
    explain_run([model], "photos", ["gradcam"], "whole", settings=HERE)
    assert loads == ["small"]
    assert results("run") == results("whole")


# ---------------------------------------------------------------------- real processes


def test_processes_stay_from_stage_to_stage_and_one_that_died_between_is_replaced(place: Path) -> None:
    me = psutil.Process(os.getpid())
    others = {p.pid for p in me.children()}
    model = salience.load_model("small.toml", device="cpu")
    pids: list[set[int]] = []
    with staffed(RunSettings(**PLAN, crew=Crew(workers=1))) as how:
        for out in ("first", "second", "third"):
            explain_run([model], "photos", ["gradient"], out, settings=how)
            now = [p for p in me.children() if p.pid not in others and "spawn_main" in " ".join(p.cmdline())]
            pids.append({p.pid for p in now})
            if out == "second":
                for process in now:
                    process.kill()
                    process.wait(10)
    explain_run([model], "photos", ["gradient"], "whole", settings=HERE)
    first, second, third = pids
    assert first == second
    assert len(third) == 1
    assert third != second
    for out in ("first", "second", "third"):
        assert results(out) == results("whole")
    assert not any(psutil.pid_exists(pid) for pid in third)


def test_what_cannot_be_sent_is_named(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Processes, "_start", lambda self, number: None)
    monkeypatch.setattr(Processes, "close", lambda self: None)
    source = open_images("photos")
    source.titles = {0: lambda: None}  # type: ignore[dict-item]
    model = salience.load_model("small.toml", device="cpu")
    with pytest.raises(SettingsError, match="cannot be sent to workers"):
        explain_run([model], source, ["gradient"], "run", settings=CREW)
