"""Compare models: which visual concepts they use differently, how sure that is, and what the predictions owe to it."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from salience.comparison.encoders import COLOR, Encoder, parse_encoder
from salience.comparison.finding import Finder
from salience.comparison.interventions import FILLS
from salience.comparison.result import STAGE, Comparison, read_comparison
from salience.comparison.segmenting import Segmenter
from salience.comparison.segments import parse_partition
from salience.comparison.stage import SEGMENTS, in_thread, unreadable
from salience.comparison.task import ClassMap, Task, make_task
from salience.data.source import open_images
from salience.engine.events import Listener, ignore
from salience.engine.hiring import check_crew
from salience.engine.plan import Plan
from salience.engine.pool import POOL_SIZE
from salience.errors import SettingsError
from salience.explaining import (
    MapDtype,
    Outcome,
    RunSettings,
    answers_kept,
    as_settled,
    explain_run,
    plan_outputs,
    staffed,
)
from salience.models.classifier import Classifier
from salience.models.loading import load_model
from salience.store.place import Place, place_of
from salience.store.run import open_run
from salience.store.writer import RunWriter

METHOD = "ig:steps=64:baseline=black+white"
"""Integrated gradients, 32 midpoint steps from a black and 32 from a white baseline, channels summed."""
OUTPUT = "margin"
SEGMENTATION = "felzenszwalb"
CONFIRM = 12

AUTO = "auto"


def compare(
    reference: Classifier | str,
    others: Classifier | str | Sequence[Classifier | str] | None,
    images: Any,
    *,
    method: str = METHOD,
    target: str | int | None = None,
    output: str = OUTPUT,
    encoder: Any = COLOR,
    segments: str = SEGMENTATION,
    group_by: str | None = None,
    concepts: int | str = AUTO,
    class_map: ClassMap | None = None,
    confirm: int = CONFIRM,
    out: str | Place | None = None,
    pool: Any = None,
    pool_size: int = POOL_SIZE,
    columns: Mapping[str, str] | None = None,
    limit: int | None = None,
    seed: int = 0,
    map_dtype: MapDtype = "float16",
    device: str = "auto",
    settings: RunSettings | None = None,
    listen: Listener = ignore,
    command: Sequence[str] = (),
    writer_type: type[RunWriter] = RunWriter,
) -> Comparison:
    """Find what models look at differently, and whether it matters to them.

    Parameters
    ----------
    reference
        The model that others are compared with: a :class:`~salience.Classifier`, or a model card or spec for
        :func:`~salience.load_model`. Two models need two names.
    others
        One model or several; None, or none in a sequence, tells what carries the classes of the reference alone.
    images
        Anything that :func:`~salience.explain` takes.
    method
        The saliency method, the same for all models. Only maps that add up to the change of the scalar from a baseline
        have a ledger: those of ``ig``.
    target
        The class that is explained, the same in all models: ``label``, ``predicted`` (by the reference), or
        ``class:K``. By default the label where every image has one, else what the reference predicts.
    output
        The scalar that is explained; ``margin`` is the logit less the log of the summed exponentials of all others.
    encoder
        What embeds the segments: a model that is none of the compared ones (a card, a spec, a Classifier, or a function
        of (N, 3, H, W) to (N, D, h, w)); ``color`` describes them by colour and texture, ``place`` by where they lie.
    segments
        The partition of every image, the same for all models: ``felzenszwalb``, ``slic``, ``grid``, each with settings
        as ``grid:rows=14:columns=14``, or ``masks:DIR``, whose names become the concepts.
    group_by
        Column of the manifest whose equal values belong together (patient, scene): the unit of all statistics.
    concepts
        How many there are at most; ``auto`` takes the number that is found again most reliably.
    class_map
        Where the models' classes differ: a CSV file with the columns ``model``, ``from``, ``to``, or what
        :func:`~salience.comparison.strata.read_class_map` returns; ``same-order`` says that they are the same.
    confirm
        So many concepts are tested by changing their pixels, at most: those that seem to differ most.
    out
        Run directory; one that is unfinished is carried on. Where None, a temporary one goes with the result.
    seed
        For all that is drawn: controls, clustering, resampling.

    Returns
    -------
    Comparison
        Concepts, effects with intervals, the ledger, interventions, claims in words.

    Raises
    ------
    SalienceError
        When something cannot be used; whatever was committed before stays.
    """
    loaded = _load(reference, others, device)
    if group_by is not None:
        columns = {**(columns or {}), "group": group_by}
    source = open_images(images, columns=columns, limit=limit)
    whole = source if limit is None else open_images(images, columns=columns)  # a limit does not change backgrounds
    task = make_task(loaded, source, target=target, output=output, method=method, class_map=class_map)
    wanted = _number(concepts)
    if confirm < 0:
        raise SettingsError(f"confirm is {confirm}: give the number of concepts to test, 0 or more.")
    how = settings or RunSettings()
    check_crew(how.crew, task.models, out)
    partition = parse_partition(segments)
    partition.check([ref.image_id for ref in source.refs])
    embedder = parse_encoder(encoder, loaded[0].device)
    _check_encoder(embedder, loaded)
    folder = place_of(tempfile.mkdtemp(prefix="salience-") if out is None else out)
    try:
        with staffed(how) as how:
            segmenter = Segmenter(source, partition, embedder, task.models[0].name, listen, how.unit_images, how.crew)
            explain = partial(
                explain_run,
                images=source,
                out=folder,
                output=task.output,
                pool=whole if pool is None else open_images(pool),
                pool_size=pool_size,
                seed=seed,
                map_dtype=map_dtype,
                settings=how,
                listen=listen,
                command=command,
                writer_type=writer_type,
            )
            notes = _explain(task, explain, segmenter)
            asked = {
                "models": [m.name for m in task.models],
                "method": task.method,
                "target": str(task.target),
                "output": task.output,
                "encoder": COLOR if embedder is None else embedder.name,
                "partition": segments,
                "frame": list(segmenter.frame.size),
                "group_by": group_by,
                "class_map": str(class_map) if isinstance(class_map, (str, Path)) else class_map,
                "concepts": wanted,
                "confirm": confirm,
                "fills": list(FILLS),
                "seed": seed,
            }
            plans = partial(_plan, folder, how)
            finder = Finder(task.models, source, segmenter, asked, listen, plans, how.crew)
            _finish(folder, writer_type, finder, notes)
            comparison = read_comparison(open_run(folder))
    except BaseException:
        if out is None:
            shutil.rmtree(str(folder), ignore_errors=True)
        raise
    if out is None:
        weakref.finalize(comparison, shutil.rmtree, str(folder), ignore_errors=True)
    return comparison


def _load(
    reference: Classifier | str, others: Classifier | str | Sequence[Classifier | str] | None, device: str
) -> list[Classifier]:
    """Return the models, the reference first; each needs a name of its own."""
    rest = [] if others is None else [others] if isinstance(others, (Classifier, str)) else list(others)
    models = [load_model(m, device=device) if isinstance(m, str) else m for m in (reference, *rest)]
    names = [m.name for m in models]
    for name in names:
        if names.count(name) > 1:
            raise SettingsError(f"Two models are called {name!r}. Name them: --model old=CARD --model new=CARD.")
        if name == SEGMENTS:
            raise SettingsError(f"A model is called {name!r}, as the work on segments is. Give it another name.")
    return models


def _number(concepts: int | str) -> int | None:
    if concepts == AUTO:
        return None
    try:
        count = int(concepts)
    except ValueError:
        count = 0
    if count < 1:
        raise SettingsError(f"concepts is {concepts!r}; give 'auto' or a number, 1 or more.")
    return count


def _check_encoder(encoder: Encoder | None, models: Sequence[Classifier]) -> None:
    """Refuse a compared model as the encoder: concepts would be what that one tells apart."""
    known = {m.fingerprint(): m.name for m in models}
    name = known.get(str((encoder.identity if encoder is not None else {}).get("weights", "")))
    if name is not None:
        raise SettingsError(
            f"The encoder is model {name!r} itself: concepts are to be seen by neither side. Choose a third model, or "
            f"{COLOR!r}."
        )


# ---------------------------------------------------------------------- what is explained


def _explain(task: Task, explain: Callable[..., Outcome], segmenter: Segmenter) -> list[str]:
    """Explain the images with all models, and partition them meanwhile; return what there is to note."""
    reference = task.models[0]
    outcome = explain(task.alike, methods=[task.method], target=str(task.target), beside=partial(_segment, segmenter))
    rows = outcome.run.table("predictions").select(["image_id", "model", "predicted"]).to_pylist()
    predicted = {r["image_id"]: r["predicted"] for r in rows if r["model"] == reference.name}
    notes = [*task.notes, *outcome.notes]
    for model in task.models:
        if model not in task.alike:
            given = task.given(model, segmenter.source, predicted)
            notes += explain([model], methods=[task.method], given=given).notes
    return list(dict.fromkeys(notes))


@contextmanager
def _segment(segmenter: Segmenter, writer: RunWriter) -> Iterator[None]:
    """Partition images while the body explains them; the comparison in the run is unfinished from here on."""
    writer.info.setdefault("stages", {}).setdefault(STAGE, {})["current"] = []  # other models' are of an earlier call
    writer.use_stage(STAGE, SEGMENTS, segmenter.recipes, complete=False)
    writer.describe()
    with in_thread(partial(segmenter.beside, writer)):
        yield


# ---------------------------------------------------------------------- what it comes to


def _plan(folder: Place, settings: RunSettings, model: Classifier, recorded: Mapping[str, Any] | None) -> Plan:
    """Return the plan under which a model is asked about changed images: in the precision of its maps."""
    return plan_outputs(recorded, model, as_settled(open_run(folder), model.name, settings))


def _finish(folder: Place, writer_type: type[RunWriter], finder: Finder, notes: Sequence[str]) -> None:
    """Do all that follows the maps, into the same run."""
    source = open_run(folder).info["images"]["source"]
    with writer_type(folder, kind="explain", source=source) as writer, answers_kept(finder.models, writer):
        writer.describe(labels_of=finder.models[0].name, status="running")
        try:
            finder.segmenter.after(writer, unreadable(open_run(folder)))
            finder.find(writer, notes)
        except BaseException as error:
            _close(writer, finder.models, "interrupted" if isinstance(error, KeyboardInterrupt) else "failed")
            raise
        _close(writer, finder.models, "complete")


def _close(writer: RunWriter, models: Sequence[Classifier], status: str) -> None:
    """Describe how the work ended, and what paid models were sent for it."""
    for model in models:
        if model.account is not None and model.paid:
            writer.info["models"][model.name]["queries"] = model.account.sent
    writer.describe(status=status)
