"""What a training leaves: a card, weights, a log and a record for each run, and one table of all runs."""

from __future__ import annotations

import csv
import fcntl
import io
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from salience.errors import RunError
from salience.models.classifier import Classifier
from salience.models.registry import parse_spec
from salience.store.files import read_json, whole_file, write_json

KIND = "salience training run"
VERSION = 1
TABLE = "runs.csv"
STATE = ".training"
"""Folder of what is needed to carry on, and of what is computed once for all runs. It may be deleted."""
LIBRARIES = ("timm", "torchvision", "hf")


@dataclass(frozen=True)
class RunRecord:
    """One finished run.

    Attributes
    ----------
    name, group, run
        ``guided_03`` is run 3 of the group ``guided``.
    accuracy, recall
        On the images held out, after the best epoch: the share that is right, and its mean over the classes.
    best_epoch, epochs
        The epoch whose weights are kept, and how many were trained.
    loss, cross_entropy, map_error
        Of the training images during the best epoch; ``map_error`` is zero for plain runs.
    seconds
        Of training and validation.
    card
        Path of the model card, relative to the folder.
    """

    name: str
    group: str
    run: int
    accuracy: float
    recall: float
    best_epoch: int
    epochs: int
    loss: float
    cross_entropy: float
    map_error: float
    seconds: float
    card: str

    def to_dict(self) -> dict[str, Any]:
        """Return the record as plain values."""
        return asdict(self)


def run_name(group: str, run: int) -> str:
    """Return the name of a run: ``guided_03``."""
    return f"{group}_{run:02d}"


def write_run(
    folder: Path,
    record: RunRecord,
    decides: Mapping[str, Any],
    card: Mapping[str, Any],
    state: Mapping[str, Tensor],
    log: Sequence[Mapping[str, Any]],
) -> None:
    """Write all of a finished run; the record comes last and says that the rest is there.

    Raises
    ------
    RunError
        When the disk is full or the folder cannot be written.
    """
    from safetensors.torch import save

    with whole_file(folder / f"{record.name}.safetensors") as file:
        file.write(save({k: t.detach().cpu().contiguous().clone() for k, t in state.items()}))
    with whole_file(folder / f"{record.name}.log.csv") as file:
        file.write(_csv(log))
    with whole_file(folder / record.card) as file:
        file.write("".join(f"{k} = {_toml(v)}\n" for k, v in card.items() if v is not None).encode())
    write_json(
        folder / f"{record.name}.json",
        {"kind": KIND, "version": VERSION, **record.to_dict(), "decides": dict(decides)},
    )


def read_run(folder: Path, name: str, decides: Mapping[str, Any]) -> RunRecord | None:
    """Return a run that is finished, or None.

    Raises
    ------
    RunError
        When a run of that name was trained from something else, or in another way: nothing is trained over it.
    """
    path = folder / f"{name}.json"
    if not path.exists():
        return None
    known = read_json(path)
    if known.get("kind") != KIND or known.get("version") != VERSION:
        raise RunError(f"{path} is no record of a training run of this version. Choose another --out or --name.")
    before, now = known["decides"], json.loads(json.dumps(decides))
    changed = [key for key in now if before.get(key) != now[key]]
    if changed:
        told = "; ".join(f"{key} was {_short(before.get(key))} and is now {_short(now[key])}" for key in changed[:3])
        raise RunError(
            f"{folder / name} was trained in another way: {told}. Choose another --name or --out, or delete the files "
            f"{name}.* there."
        )
    if not all((folder / f"{name}{suffix}").exists() for suffix in (".safetensors", ".toml", ".log.csv")):
        return None
    return _record(known)


def _record(known: Mapping[str, Any]) -> RunRecord:
    return RunRecord(**{field: known[field] for field in RunRecord.__dataclass_fields__})


def write_runs_table(folder: Path) -> None:
    """Write the table of all finished runs of a folder, of every group."""
    found = []
    for path in sorted(folder.glob("*_*.json")):
        known = read_json(path)
        if isinstance(known, dict) and known.get("kind") == KIND:
            found.append(_record(known).to_dict())
    found.sort(key=lambda row: (row["group"], row["run"]))
    if found:
        with whole_file(folder / TABLE) as file:
            file.write(_csv(found))


def card_of(backbone: str, folder: Path, head: str, classifier: Classifier, layer: str | None) -> dict[str, Any]:
    """Return what the model cards of a group share: the backbone with another head, and how images come to it.

    Parameters
    ----------
    backbone
        Spec of the backbone, as it was typed; in the card its paths are relative to ``folder``.
    folder
        Where the card is.
    head
        Dotted name of the linear layer that was replaced.
    classifier
        The network: its preprocessing and classes.
    layer
        For class activation maps, None where it is found by itself.
    """
    return {
        "backbone": _moved(backbone, folder),
        "head": head,
        **classifier.preprocessing.to_dict(),
        "classes": list(classifier.class_names),
        "layer": layer,
        "token_grid": None if classifier.token_grid is None else list(classifier.token_grid),
    }


def _moved(backbone: str, folder: Path) -> str:
    """Return a backbone's spec as it reads from another folder, without weights that the card brings along."""
    found, target, options = parse_spec(backbone)
    if found.prefix == "card":
        return _relative(Path(target), folder)
    path, _, function = target.rpartition(":")
    if found.prefix == "python" and path.endswith(".py"):
        backbone = f"{_relative(Path(path), folder)}:{function}{_query(options)}"
    if found.prefix in LIBRARIES:
        kept = {k: v for k, v in options.items() if k not in ("weights", "classes")} | {"pretrained": "false"}
        return f"{found.prefix}:{target}{_query(kept)}"
    return backbone


def _relative(path: Path, folder: Path) -> str:
    return Path(os.path.relpath(path.absolute(), folder.absolute())).as_posix()


def _query(options: Mapping[str, str]) -> str:
    return "?" * bool(options) + "&".join(f"{key}={value}" for key, value in options.items())


def _toml(value: Any) -> str:
    """Write text, numbers and lists of them as TOML, whose notation of these is JSON's."""
    return json.dumps(value, ensure_ascii=False)


def _csv(rows: Sequence[Mapping[str, Any]]) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


@contextmanager
def locked(folder: Path, name: str) -> Iterator[None]:
    """Hold a run: two processes must not train the same one.

    Raises
    ------
    RunError
        When another process holds it, or the folder cannot be written.
    """
    path = folder / STATE / f"{name}.lock"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("w")
    except OSError as error:
        raise RunError(f"Cannot write {path}: {error.strerror or error}. Choose another --out.") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise RunError(
                f"Another process is training {folder / name} now. Wait for it, or choose another --name."
            ) from error
        yield
