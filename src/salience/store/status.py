"""How far a run is, read from its directory: nothing is locked, nothing is loaded."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from salience.store.place import Place, storage
from salience.store.run import Run, open_run

State = Literal["complete", "running", "interrupted", "failed", "killed"]


@dataclass(frozen=True)
class Share:
    """How far one model's maps by one method, or one model's part of a stage, are.

    Attributes
    ----------
    what
        The method, or the stage.
    done, failed, images
        Images that are finished; that failed; that the run is about.
    """

    model: str
    what: str
    done: int
    failed: int
    images: int


@dataclass(frozen=True)
class Status:
    """How far a run is.

    Attributes
    ----------
    state
        ``running``: a process writes it now; ``killed``: none does, and the last one could not say how it ended.
    seconds
        Work so far, over all calls.
    size
        Bytes of all files.
    command, directory
        The last command and where it was typed; empty where the run was made from Python.
    """

    folder: Place
    kind: str
    state: State
    images: int
    shares: tuple[Share, ...]
    units: int
    failures: int
    seconds: float
    size: int
    created: str
    updated: str
    command: tuple[str, ...]
    directory: str

    @property
    def finished(self) -> bool:
        """Whether there is nothing left to do."""
        return self.state == "complete"

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain values."""
        return {**asdict(self), "folder": str(self.folder)}


def read_status(path: str | Place) -> Status:
    """Look how far a run is.

    Raises
    ------
    RunError
        When there is no run, or one of a newer format.
    """
    run = open_run(path)
    failures = run.table("failures").to_pylist()
    return Status(
        run.folder,
        run.info["kind"],
        _state(run),
        len(run.images),
        (*_maps(run, failures), *_stages(run, failures)),
        len(run.units()),
        len(failures),
        run.info.get("seconds", 0.0),
        storage(run.folder).size(run.folder),
        run.info.get("created", ""),
        run.info.get("updated", ""),
        tuple(run.info.get("command", ())),
        run.info.get("directory", ""),
    )


def _state(run: Run) -> State:
    said: State = run.info.get("status", "interrupted")
    if storage(run.folder).held(run.folder):
        return "running"
    return "killed" if said == "running" else said


def _maps(run: Run, failures: list[dict[str, Any]]) -> list[Share]:
    rows = run.table("maps")
    owners = set(zip(rows["recipe"].to_pylist(), rows["image_id"].to_pylist(), strict=True))
    found = []
    for recipe in run.info["current"]:
        entry = run.info["recipes"][recipe]
        model, method = entry["model"], entry["method"]
        lost = {f["image_id"] for f in failures if f["model"] == model and f["method"] in (None, method)}
        found.append(Share(model, method, sum(r == recipe for r, _ in owners), len(lost), len(run.images)))
    return found


def _stages(run: Run, failures: list[dict[str, Any]]) -> list[Share]:
    contents = run.table("contents")
    now = dict(zip(contents["image_id"].to_pylist(), contents["content_hash"].to_pylist(), strict=True))
    known = set(run.images["image_id"].to_pylist())
    found = []
    for stage, entry in run.info.get("stages", {}).items():
        done = run.finished(stage)
        by_model: dict[str, set[str]] = {}
        for recipe in run.current(stage):
            by_model.setdefault(entry["recipes"][recipe].get("model", ""), set()).add(recipe)
        for model, recipes in by_model.items():
            whole = 0
            for image_id in known & done.keys():
                made: set[str] = set()
                for _, content, of in done[image_id]:
                    made |= of if content == now.get(image_id) else set()
                whole += recipes <= made
            lost = {f["image_id"] for f in failures if f["recipe"] in recipes}
            found.append(Share(model, stage, whole, len(lost), len(known)))
    return found
