"""A group of training runs: the verb behind ``salience train``."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from salience.data.source import open_images
from salience.engine.events import Listener, ignore
from salience.errors import SalienceError, SettingsError
from salience.models.classifier import Classifier
from salience.models.registry import check_name
from salience.training.fitting import EpochRow, Fitted, Problem, fit, row_values
from salience.training.human import centre_map, human_maps
from salience.training.loss import GuidedLoss
from salience.training.meter import Meter
from salience.training.recipe import Recipe
from salience.training.records import STATE, RunRecord, card_of, locked, read_run, run_name, write_run, write_runs_table
from salience.training.samples import CHUNK, Decoded, choose_samples, decode_once, digest, split
from salience.training.setup import inputs_of, parse_backbone, set_up

NUMERICS = 2
"""Changes when the same recipe would give other weights."""


@dataclass(frozen=True)
class Trained:
    """What a command came to.

    Attributes
    ----------
    folder
        Where the cards are.
    group
        Name of the group.
    runs
        Its runs, those that were finished before among them.
    trained
        How many were not.
    failures
        Image id and message of images that could not be read and were left out.
    notes
        What was assumed.
    """

    folder: Path
    group: str
    runs: tuple[RunRecord, ...]
    trained: int
    failures: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]

    @property
    def cards(self) -> tuple[Path, ...]:
        """The model cards, one a run."""
        return tuple(self.folder / record.card for record in self.runs)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain values, ready for JSON."""
        accuracy = np.array([record.accuracy for record in self.runs])
        return {
            "event": "done",
            "folder": str(self.folder),
            "group": self.group,
            "accuracy": float(accuracy.mean()),
            "sd": float(accuracy.std(ddof=1)) if len(accuracy) > 1 else None,
            "trained": self.trained,
            "runs": [record.to_dict() for record in self.runs],
            "failures": [{"image_id": image_id, "message": message} for image_id, message in self.failures],
            "notes": list(self.notes),
        }


def train(
    images: Any,
    backbone: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    classes: Sequence[str] | None = None,
    runs: int = 10,
    recipe: Recipe | None = None,
    human: str | os.PathLike[str] | None = None,
    name: str | None = None,
    size: int | None = None,
    columns: Mapping[str, str] | None = None,
    limit: int | None = None,
    device: str = "auto",
    threads: int | None = None,
    listen: Listener = ignore,
) -> Trained:
    """Train a group of runs that differ in their seeds alone; finished runs are kept, killed ones go on.

    Parameters
    ----------
    images
        Labelled images, as everywhere.
    backbone
        Card or spec of a model that ends in a linear layer, which gets a new one for the classes; or ``small`` or
        ``small:width=16``, a small residual network (widths 8, 16, 32, 64), of which all weights are trained.
    out
        Folder for the cards and weights; groups of other names may be in it.
    classes
        Names of the classes, in the order of the outputs; by default the label names, sorted.
    runs
        How many runs the group has in the end.
    recipe
        How they are trained; by default plain, the head alone, with the published settings.
    human
        For the guided loss: a folder of maps with the names of the images, or ``boxes``; see
        :func:`~salience.training.human.human_maps`. Not needed with the control ``centre``.
    name
        Name of the group; by default ``plain``, ``guided``, ``guided-shuffled`` or ``guided-centre``.
    size
        Input side in pixels, where it is not the backbone's own.
    columns, limit
        Of the images: see :func:`~salience.data.source.open_images`.
    device
        ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.
    threads
        CPU threads.
    listen
        Hears how far it is.

    Returns
    -------
    Trained
        One record a run, with the accuracy on the images held out.

    Raises
    ------
    SettingsError
        When a setting has no meaning here, or memory runs out.
    ImagesError
        When images, labels or human maps cannot be used.
    ModelError
        When the backbone cannot be used, or the loss is no number any more.
    MethodError
        When the backbone has no class activation maps and the loss needs them.
    RunError
        When a run of that name was trained in another way, or the folder cannot be written.
    """
    recipe = recipe or Recipe()
    group = check_name(name or recipe.default_name)
    _check(runs, recipe, human)
    spec, scratch = parse_backbone(os.fspath(backbone), recipe)
    folder = Path(out)
    source = open_images(images, columns=columns, limit=limit)
    samples, notes = choose_samples(source, classes)
    notes = [source.note, *notes] if source.note else notes
    with _threads(threads):
        setup = set_up(spec, recipe, samples.classes, size, device)
        classifier, where = setup.classifier, folder / STATE
        meter = Meter(listen, "images", len(samples), verb="decode", batch=CHUNK, device="cpu", calls=0)
        decoded = decode_once(samples, classifier.preprocessing, where, meter.reached)
        meter.finish()
        rows, held_out = split(decoded.samples, recipe.validation, recipe.seed)
        maps = _maps(recipe, human, decoded, rows, classifier, where)
        decides = {
            "numerics": NUMERICS,
            "recipe": recipe.to_dict(),
            "backbone": setup.fingerprint,
            "classes": list(samples.classes),
            "images": digest(decoded.key, decoded.samples.labels.tolist()),
            "human": None if maps is None else _hash(maps),
            "from": setup.part.start,
            "layer": setup.layer,
        }
        names = {run: run_name(group, run) for run in range(1, runs + 1)}
        known = {run: read_run(folder, names[run], decides) for run in names}
        left = [run for run, record in known.items() if record is None]
        if left:
            problem = Problem(
                classifier=classifier,
                head=setup.head,
                part=setup.part,
                cut=setup.cut,
                recipe=recipe,
                loss=_with_weights(setup.loss, recipe, decoded.samples.labels[rows]),
                inputs=inputs_of(setup, decoded, where, listen),
                labels=decoded.samples.labels,
                human=maps,
                training=rows,
                validation=held_out,
                scratch=scratch,
                key=digest(decides),
            )
            card = card_of(spec, folder, setup.head, classifier, setup.layer)
            total = len(left) * recipe.epochs * len(rows)
            meter = Meter(listen, group, total, verb="train", batch=recipe.batch_size, device=str(classifier.device))
            for run in left:
                known[run] = _train_one(problem, folder, group, run, card, decides, meter)
            meter.finish()
        write_runs_table(folder)
    records = tuple(record for record in known.values() if record is not None)
    return Trained(folder, group, records, len(left), decoded.failures, tuple(notes))


def _check(runs: int, recipe: Recipe, human: str | os.PathLike[str] | None) -> None:
    if runs < 1:
        raise SettingsError(
            f"runs is {runs}: one or more is needed, and five or more for a group that can be compared."
        )
    if recipe.guided and human is None and recipe.control != "centre":
        raise SettingsError(
            "The loss 'guided' needs human maps: --human FOLDER with a grey image for each image, or --human boxes for "
            "the boxes of the manifest. The control 'centre' needs none."
        )
    if human is not None and not recipe.guided:
        raise SettingsError("Human maps are given, and the loss does not use them: say --loss guided, alpha below 1.")


def _maps(
    recipe: Recipe,
    human: str | os.PathLike[str] | None,
    decoded: Decoded,
    rows: npt.NDArray[np.int64],
    classifier: Classifier,
    folder: Path,
) -> npt.NDArray[np.uint8] | None:
    if not recipe.guided:
        return None
    if recipe.control == "centre" or human is None:
        height, width = classifier.preprocessing.size
        return np.broadcast_to(centre_map(height, width), (len(rows), height, width))
    return human_maps(os.fspath(human), decoded, rows, classifier.preprocessing, folder)


def _hash(maps: npt.NDArray[np.uint8]) -> str:
    """Name the content of human maps; a map that stands for all is read once."""
    once = maps[:1] if maps.strides[0] == 0 else maps
    return hashlib.sha256(str(maps.shape).encode() + np.ascontiguousarray(once).tobytes()).hexdigest()[:32]


def _with_weights(loss: GuidedLoss, recipe: Recipe, labels: npt.NDArray[np.int64]) -> GuidedLoss:
    if not recipe.balanced:
        return loss
    counts = np.bincount(labels)
    weights = tuple(float(w) for w in len(labels) / (len(counts) * counts))
    return GuidedLoss(loss.alpha, loss.layer, loss.target, weights)


def _train_one(
    problem: Problem,
    folder: Path,
    group: str,
    run: int,
    card: Mapping[str, Any],
    decides: Mapping[str, Any],
    meter: Meter,
) -> RunRecord:
    name = run_name(group, run)
    path = folder / STATE / f"{name}.safetensors"
    with locked(folder, name):
        known = read_run(folder, name, decides)  # another process may just have finished it
        if known is not None:
            return known
        meter.begin(problem.recipe.epochs * len(problem.training))
        try:
            done = fit(problem, run, path, meter.add)
        except SalienceError as error:
            raise type(error)(f"{name}: {error}") from error
        meter.end()
        record = _record(name, group, run, done)
        named = {"name": name, **card, "weights": f"{name}.safetensors"}
        state = problem.module.state_dict()
        write_run(folder, record, decides, named, state, [row_values(row) for row in done.history])
        path.unlink(missing_ok=True)
        return record


def _record(name: str, group: str, run: int, done: Fitted) -> RunRecord:
    best: EpochRow = done.history[done.best - 1]
    kept = {
        k: v for k, v in row_values(best).items() if k in ("accuracy", "recall", "loss", "cross_entropy", "map_error")
    }
    seconds = round(sum(row.seconds for row in done.history), 1)
    return RunRecord(
        name=name,
        group=group,
        run=run,
        best_epoch=done.best,
        epochs=len(done.history),
        seconds=seconds,
        card=f"{name}.toml",
        **kept,
    )


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    """Run torch on so many threads; the number is the whole process's, so it is put back."""
    before = torch.get_num_threads()
    if count is not None:
        if count < 1:
            raise SettingsError(f"threads is {count}: one or more is needed.")
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
