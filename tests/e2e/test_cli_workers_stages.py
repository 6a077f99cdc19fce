"""Several workers for ``evaluate``, ``audit`` and ``compare``: the bytes of one process, whatever dies."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from terminal import FAST, Done, Terminal, lives, wait_for, workers_of, write_card, write_pictures

import salience

COMMON = (*FAST, "--no-report", "--log-json")
POISON = '''
import os
from nets import small

class Poisoned(type(small())):
    """Takes its process with it when pixels above a white floor are masked."""
    def forward(self, x):
        floor = (x[:, :, -1] > 1.9).float().mean((1, 2)) > 0.5
        if x.shape[-1] == 16 and bool((floor & (x == 0).flatten(1).any(1)).any()):
            os._exit(3)
        return super().forward(x)

def poisoned(): return Poisoned(small().inner)
'''


def files_of(run: Path) -> dict[str, bytes]:
    """Every file of results in a run and in the runs within it; what a killed worker was writing does not count."""
    rooms = {"tables", "maps", "derived", "images.parquet"}
    found = (p for p in sorted(run.rglob("[!.]*")) if p.is_file() and rooms & set(p.relative_to(run).parts))
    return {str(p.relative_to(run)): p.read_bytes() for p in found}


def tables_of(run: Path, *names: str) -> dict[str, Any]:
    """What a run says, however its units were numbered."""
    opened = salience.open_run(run)
    found: dict[str, Any] = {n: opened.table(n).to_pylist() for n in ("predictions", "failures", *names)}
    found["maps"] = opened.table("maps").drop_columns(["row"]).to_pylist()
    for model in opened.models:
        found[f"values {model}"] = {m: opened.maps(m, model).values.tobytes() for m in opened.methods}
    found["derived"] = {p.name: p.read_bytes() for p in sorted((run / "derived").glob("*.parquet"))}
    return found


def verbs(done: Done) -> list[tuple[str, int, int]]:
    """What was done by how many workers, and for how many images."""
    return [(e["verb"], e["workers"], e["images"]) for e in done.events if e["event"] == "started"]


def parts(run: Path, table: str) -> int:
    return len(list((run / "tables" / table).glob("[0-9]*.parquet")))


# ---------------------------------------------------------------------- evaluate


@pytest.fixture
def many(terminal: Terminal) -> Terminal:
    write_pictures(terminal.folder / "photos", {"ant": 4, "bee": 4, "cat": 4})
    return terminal


CURVES = "complete-sound:points=4,srg:points=4,gini"


def evaluate(*more: str, out: str = "run", metrics: str = CURVES) -> list[str]:
    words = ["evaluate", "photos", "--model", "card.toml", "--labels", "all", "--out", out]
    return [*words, "--metric", metrics, "--method", "gradient,smoothgrad:samples=2", *COMMON, *more]


def test_maps_and_scores_are_those_of_one_process(many: Terminal) -> None:
    metrics = f"{CURVES},average-drop,content-free:points=2,max-sensitivity:draws=2"
    words = ("--background", "dataset-mean,road", "--seeds", "2", "--unit-images", "2", "--limit", "6")
    assert many.here(*evaluate(*words, out="whole", metrics=metrics)).code == 0
    done = many.here(*evaluate(*words, "--workers", "2", metrics=metrics))
    assert done.code == 0, done.err
    assert verbs(done) == [("explain", 2, 6), ("explain", 2, 6), ("score", 2, 6)]
    run, whole = many.folder / "run", many.folder / "whole"
    assert files_of(run) == files_of(whole)
    assert parts(run, "scores") == 3
    # another metric of the same curves: the workers read what is stored
    more = CURVES.replace("points=4,srg", "points=4:eps=0.2,srg")
    assert many.here(*evaluate(*words, out="whole", metrics=more)).code == 0
    again = many.here(*evaluate(*words, "--workers", "2", metrics=more))
    assert again.code == 0, again.err
    assert verbs(again) == [("explain", 2, 0), ("explain", 2, 0), ("score", 2, 6)]
    assert files_of(run) == files_of(whole)


def test_a_killed_worker_and_a_killed_command_cost_no_score(many: Terminal) -> None:
    words = evaluate("--unit-images", "1")
    program = many.start(*words, "--workers", "2", sleep=0.01)
    run = many.folder / "run"
    wait_for(lambda: parts(run, "scores") >= 2 or program.poll() is not None, "scores")
    first, _ = workers_of(program)
    first.kill()
    before = parts(run, "scores")
    wait_for(lambda: parts(run, "scores") >= before + 2 or program.poll() is not None, "scores after a death")
    workers = workers_of(program)
    program.send_signal(signal.SIGKILL)
    program.communicate(timeout=60)
    wait_for(lambda: not any(map(lives, workers)), "its workers' end")
    kept = {p: p.read_bytes() for p in (run / "units").glob("*.json")}
    scored = len(set(salience.open_run(run).table("scores")["image_id"].to_pylist()))
    assert 2 <= scored < 12
    done = many.here(*words, "--workers", "2")
    assert done.code == 0, done.err
    assert verbs(done)[-1] == ("score", 2, 12 - scored)
    assert {p: p.read_bytes() for p in kept} == kept
    assert many.here(*evaluate("--unit-images", "1", out="whole")).code == 0
    assert tables_of(run, "scores", "curves") == tables_of(many.folder / "whole", "scores", "curves")


def test_an_image_that_kills_its_worker_has_no_score_and_is_not_tried_again(many: Terminal) -> None:
    (many.folder / "deadly.py").write_text(POISON, encoding="utf-8")
    card = write_card(many.folder / "card.toml", factory="poisoned")
    card.write_text(card.read_text().replace("nets.py:poisoned", "deadly.py:poisoned"))
    picture = np.random.default_rng(7).integers(0, 255, (20, 24, 3), dtype=np.uint8)
    picture[8:] = 255
    Image.fromarray(picture).save(many.folder / "photos" / "bee" / "002.png")
    done = many.run(*evaluate("--unit-images", "1", "--workers", "2"))
    assert done.code == 1, done.err
    run = salience.open_run(many.folder / "run")
    (failure,) = run.table("failures").to_pylist()
    assert (failure["image_id"], failure["kind"]) == ("bee/002.png", "crash")
    assert "exit code 3" in failure["message"]
    assert run.info["status"] == "complete"
    assert len(run.maps("gradient")) == 12 * 4  # it could be explained
    scored = set(run.table("scores")["image_id"].to_pylist())
    assert len(scored) == 11
    again = many.here(*evaluate("--unit-images", "1"))  # here it would end this process
    assert again.code == 1
    assert verbs(again)[-1] == ("score", 1, 0)


def test_a_cluster_scores_as_one_process_does_also_when_a_node_leaves(many: Terminal, cluster: Any) -> None:
    staying, leaving = cluster.add_node(num_cpus=1), cluster.add_node(num_cpus=1)
    words = evaluate("--unit-images", "1")
    program = many.start(*words, "--engine", "ray", "--address", cluster.address, "--workers", "2", sleep=0.02)
    run = many.folder / "run"
    wait_for(lambda: parts(run, "scores") >= 2 or program.poll() is not None, "scores")
    cluster.remove_node(leaving, allow_graceful=False)
    _, err = program.communicate(timeout=180)
    assert program.returncode == 0, err
    assert many.here(*evaluate("--unit-images", "1", out="whole")).code == 0
    assert files_of(run) == files_of(many.folder / "whole")
    cluster.remove_node(staying)


# ---------------------------------------------------------------------- audit


def test_measures_are_those_of_one_process(many: Terminal) -> None:
    write_card(many.folder / "new.toml", "other")
    words = ["audit", "photos", "-m", "old=card.toml", "-m", "new=new.toml", "--background", "blur"]
    words += ["--measure", "geometry,degradation", "--limit", "3", "--unit-images", "8", *COMMON]
    assert many.here(*words, "--out", "whole").code == 0
    done = many.here(*words, "--out", "run", "--workers", "2")
    assert done.code == 0, done.err
    run, whole = files_of(many.folder / "run"), files_of(many.folder / "whole")
    assert run == whole
    assert {Path(name).parts[0] for name in run} >= {"conditions", "derived", "tables", "maps"}


# ---------------------------------------------------------------------- compare


def test_a_comparison_that_is_killed_comes_to_what_one_process_finds(terminal: Terminal) -> None:
    write_pictures(terminal.folder / "photos", dict.fromkeys(("ant", "bee", "cat"), 12))
    write_card(terminal.folder / "new.toml", "other", classes=["wasp", "ant", "cat", "hound"])
    (terminal.folder / "map.csv").write_text("model,from,to\nnew,wasp,bee\nnew,hound,dog\n")
    words = ["compare", "photos", "--model", "old=card.toml", "--model", "new=new.toml", "--class-map", "map.csv"]
    words += ["--method", "ig:steps=8:baseline=black+white", "--segments", "grid:rows=3:columns=3"]
    words += ["--concepts", "4", "--confirm", "2", "--unit-images", "4", *COMMON]
    assert terminal.here(*words, "--out", "whole").code == 0
    run = terminal.folder / "run"
    program = terminal.start(*words, "--out", "run", "--workers", "2", sleep=0.01)
    # a third table comes from a worker whose first unit counts
    wait_for(lambda: parts(run, "drops") >= 3 or program.poll() is not None, "answers to changed images")
    program.send_signal(signal.SIGKILL)
    program.communicate(timeout=60)
    kept = parts(run, "drops")
    assert 3 <= kept < parts(terminal.folder / "whole", "drops")
    done = terminal.here(*words, "--out", "run", "--workers", "2")
    assert done.code == 0, done.err
    asked = [e for e in done.events if e["event"] == "started" and e["verb"] == "change"]
    assert [(e["model"], e["workers"]) for e in asked] == [("old", 2), ("new", 2)]
    assert sum(e["reused"] for e in asked) > 0
    rooms = ("partitions", "embeddings", "drops")
    assert tables_of(run, *rooms) == tables_of(terminal.folder / "whole", *rooms)


# ---------------------------------------------------------------------- what cannot be


def test_what_workers_cannot_do_is_refused_before_anything_is_written(terminal: Terminal) -> None:
    from salience.engine.crew import Crew
    from salience.errors import ModelError, SettingsError
    from salience.explaining import RunSettings
    from salience.testing.models import small_classifier

    made, how = small_classifier(16, 4), RunSettings(crew=Crew(workers=2))
    for ask in (
        lambda: salience.evaluate(made, "pictures", ["gradient"], out="run", settings=how),
        lambda: salience.audit(made, "pictures", out="run", settings=how),
        lambda: salience.compare(made, None, "pictures", out="run", settings=how),
    ):
        with pytest.raises(ModelError, match="made in Python"):
            ask()
    assert not (terminal.folder / "run").exists()
    cluster = RunSettings(crew=Crew("ray"))
    with pytest.raises(SettingsError, match="all of them see"):
        salience.evaluate("card.toml", "pictures", ["gradient"], settings=cluster, device="cpu")
    said = terminal.here("audit", "pictures", "-m", "card.toml", "--out", "run", "--address", "auto", *FAST).refusal()
    assert "belong to --engine ray" in said
