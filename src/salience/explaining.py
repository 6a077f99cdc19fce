"""Explain a whole set of images: the verb that every other verb stands on."""

from __future__ import annotations

import platform
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal, overload

import torch

from salience.data.base import ImageSource, Shard
from salience.data.labels import resolve_labels
from salience.data.source import open_images
from salience.engine.crew import Crew
from salience.engine.descent import DescentMethod
from salience.engine.driver import Summary
from salience.engine.events import Listener, ignore
from salience.engine.fidelity import Fidelity
from salience.engine.hiring import Staff, carry_out, check_crew
from salience.engine.mapping import MapCraft, map_work
from salience.engine.method import Activation, Labelled, PointMethod, WholeMethod
from salience.engine.passes import needs_pixels
from salience.engine.plan import MemoryFormat, Plan, Precision
from salience.engine.pool import POOL_SIZE, draw_pool
from salience.engine.queries import QueryMethod
from salience.engine.runner import Request, choose_unit_images, make_recipes
from salience.engine.scalars import check_output
from salience.engine.settling import Asked, Check, settle
from salience.engine.sweep import Sweep
from salience.engine.targets import Target, parse_target
from salience.engine.tune import make_plan
from salience.errors import MethodError, SalienceError, SettingsError
from salience.methods.registry import parse_method
from salience.models.classifier import Classifier
from salience.models.layers import find_layer
from salience.models.loading import load_model
from salience.store.maps import Maps
from salience.store.memory import MemorySink
from salience.store.place import Place, folder_for
from salience.store.run import Run, open_run
from salience.store.unit import Recipe, Sink
from salience.store.writer import RunWriter

MapDtype = Literal["float16", "float32"]


@dataclass(frozen=True)
class RunSettings:
    """How a job is run: nothing but the precision changes a map beyond the order of floating-point sums."""

    batch: int | None = None
    memory_format: MemoryFormat | None = None
    threads: int | None = None
    """Of the CPU, in all."""
    lanes: int | None = None
    """Model calls side by side, see :mod:`salience.engine.lanes`."""
    unit_images: int | None = None
    decoders: int | None = None
    precision: Asked = "float32"
    """Of model calls: ``float32``; ``bfloat16``, refused where it changes maps by more than a tolerance; or ``auto``,
    which takes bfloat16 where it is within the tolerance and faster. See :mod:`salience.engine.settling`."""
    fidelity: Fidelity | None = None
    """What a check of bfloat16 found before; it is not checked again for the methods in it."""
    crew: Crew | Staff | None = None
    """Several workers, where one process is not to do it all; a staff are workers that are there already."""


@contextmanager
def staffed(settings: RunSettings) -> Iterator[RunSettings]:
    """Keep a crew's workers, with the model that they have, from one stage of the body to the next."""
    if not isinstance(settings.crew, Crew):
        yield settings
        return
    with Staff(settings.crew) as staff:
        yield replace(settings, crew=staff)


@dataclass(frozen=True)
class Job:
    """One model's share of a command, with everything resolved and checked before the first image is read."""

    classifier: Classifier
    request: Request
    recipes: tuple[Recipe, ...]
    labels: tuple[int | None, ...]
    classes: tuple[int | None, ...]
    """The class of each image that is explained where the target goes by image: its label, or the one given."""
    note: str
    plan: Plan
    unit_images: int
    fidelity: Fidelity | None = None
    """What was found where bfloat16 was checked."""


@dataclass
class Outcome:
    """What a command came to: one summary a model, and the run."""

    run: Run
    summaries: dict[str, Summary] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def failures(self) -> int:
        """Number of images and maps of the run that could not be computed."""
        return len(self.run.table("failures"))


def prepare(
    classifier: Classifier,
    source: ImageSource,
    methods: Sequence[str],
    *,
    target: str | int,
    output: str | None,
    seed: int,
    map_dtype: str,
    settings: RunSettings,
    options: Mapping[str, Any] | None = None,
    budget: int | None = None,
    pool: Callable[[], ImageSource] | None = None,
    pool_size: int = POOL_SIZE,
    plan: Plan | None = None,
    unit_images: int | None = None,
    allow_none: bool = False,
    given: Mapping[str, int] | None = None,
) -> Job:
    """Resolve one model's methods, layers, labels and plan; every mistake is told here, before the work begins.

    ``pool`` opens the images that backgrounds are drawn from, where a method needs some; ``source`` where it is None.
    Where ``allow_none``, there may be no method: the images are described and nothing is computed. ``given`` holds the
    class to explain of each image id, and is the target.
    """
    chosen = () if allow_none and not methods else _choose(methods, dict(options or {}), budget)
    classes = classifier.num_classes
    request = Request(
        chosen,
        parse_target(target, classifier.class_names) if given is None else Target("given"),
        None if output is None else check_output(output),
        seed,
    )
    source.check(classifier.preprocessing)
    labels = resolve_labels(source.refs, source.label_names, classifier.classes, classes, titles=source.titles)
    if request.target.kind == "label" and all(v is None for v in labels.values):
        raise SettingsError(
            f"--target label needs labels, and none of the {len(source)} images has one that model "
            f"{classifier.name!r} knows. {labels.note or 'Use --target predicted, or give a manifest with labels.'}"
        )
    if any(item.method.needs_pool for item in chosen):
        others = source if pool is None else pool()
        request = replace(request, pool=draw_pool(others, classifier.preprocessing, pool_size, seed))
    layers = _layers(classifier, chosen)
    known = tuple(labels.values)
    explained = known if given is None else tuple(given.get(ref.image_id) for ref in source.refs)
    plan, fidelity = _settle(classifier, request, source, explained, settings, plan)
    names = {k: None if v is None else v[0] for k, v in layers.items()}
    recipes = make_recipes(classifier, request, map_dtype, names, plan.precision)
    if unit_images is None:
        unit_images = settings.unit_images or _unit_images(classifier, request, plan, layers, map_dtype)
    return Job(classifier, request, tuple(recipes), known, explained, labels.note, plan, unit_images, fidelity)


def _settle(
    classifier: Classifier,
    request: Request,
    source: ImageSource,
    classes: Sequence[int | None],
    settings: RunSettings,
    recorded: Plan | None,
) -> tuple[Plan, Fidelity | None]:
    """Return the plan, and what was found where bfloat16 was asked for."""
    gradients = any(_uses_pixels(item) for item in request.methods)
    check = Check(
        classifier,
        request.methods,
        request.target,
        request.output,
        request.seed,
        request.pool,
        source,
        classes,
        gradients,
    )

    def plan_for(precision: Precision) -> Plan:
        return make_plan(
            classifier,
            gradients=gradients,
            batch=settings.batch,
            memory_format=settings.memory_format,
            threads=settings.threads,
            lanes=settings.lanes,
            precision=precision,
        )

    return settle(check, settings.precision, plan_for, recorded, settings.fidelity)


def _choose(methods: Sequence[str], options: dict[str, Any], budget: int | None) -> tuple[Labelled, ...]:
    if not methods:
        raise MethodError("No method is named. 'salience list methods' shows them all.")
    chosen: list[Labelled] = []
    for text in methods:
        item = parse_method(text, options)
        if any(c.label == item.label for c in chosen):
            raise MethodError(f"Method {item.label!r} is named twice.")
        chosen.append(item)
    if budget is None:
        return tuple(chosen)
    if not any(isinstance(item.method, QueryMethod) for item in chosen):
        raise MethodError(
            "A budget is given, and none of the methods asks for outputs alone: "
            f"{', '.join(item.label for item in chosen)}. Leave it out, or choose a black-box method."
        )
    return tuple(_within(item, budget) for item in chosen)


def _within(item: Labelled, budget: int) -> Labelled:
    """Give a black-box method its budget, unless its own text names one."""
    if not isinstance(item.method, QueryMethod) or ":budget=" in item.label:
        return item
    try:
        return Labelled(item.label, item.method.within(budget))
    except MethodError as error:
        raise MethodError(f"Method {item.method.traits.name!r}: {error}") from error


def _uses_pixels(item: Labelled) -> bool:
    if isinstance(item.method, QueryMethod):
        return False
    return not isinstance(item.method, PointMethod) or needs_pixels(item.method.wants)


def _layers(classifier: Classifier, chosen: Sequence[Labelled]) -> dict[str, tuple[str, tuple[int, int]] | None]:
    """Return the layer, and its grid, that each method will use: part of what decides its maps."""
    found: dict[str, tuple[str, tuple[int, int]] | None] = {}
    known: dict[str | None, tuple[str, tuple[int, int]]] = {}
    for item in chosen:
        wanted: str | Literal[False] | None = False
        if isinstance(item.method, PointMethod):
            wanted = next((w.layer for w in item.method.wants if isinstance(w, Activation)), False)
        elif isinstance(item.method, WholeMethod):
            wanted = item.method.layer
        if wanted is False:
            found[item.label] = None
            continue
        if wanted not in known:
            try:
                layer = find_layer(classifier, wanted)
            except SalienceError as error:
                raise type(error)(f"Method {item.label!r}: {error}") from error
            known[wanted] = (layer.name, layer.grid)
        found[item.label] = known[wanted]
    return found


def _unit_images(
    classifier: Classifier,
    request: Request,
    plan: Plan,
    layers: Mapping[str, tuple[str, tuple[int, int]] | None],
    map_dtype: str,
) -> int:
    grids = [classifier.preprocessing.size if layer is None else layer[1] for layer in layers.values()]
    columns = request.target.count(classifier.num_classes)
    map_bytes = columns * sum(h * w for h, w in grids) * (2 if map_dtype == "float16" else 4)
    sweep = Sweep(classifier, [m.method for m in request.methods], request.target, request.output, request.seed, plan)
    return choose_unit_images(plan, map_bytes, sweep.calls_per_image())


def carry_out_job(job: Job, source: ImageSource, sink: Sink, listen: Listener, settings: RunSettings) -> Summary:
    """Explain what is missing."""
    craft = MapCraft(source, job.classes, job.request, job.recipes, sink.map_dtype, settings.decoders)
    work = map_work(craft, job.classifier, job.plan, sink.known(), job.unit_images)
    summary = carry_out(work, sink, settings.crew, listen)
    if job.classifier.account is not None:
        job.classifier.account.finish()
    return summary


# ---------------------------------------------------------------------- in memory


@overload
def explain(
    model: Classifier | str,
    images: Any,
    method: str = "gradient",
    *,
    target: str | int = "predicted",
    output: str | None = None,
    budget: int | None = None,
    pool: Any = None,
    pool_size: int = POOL_SIZE,
    labels: Sequence[int | str | None] | None = None,
    limit: int | None = None,
    seed: int = 0,
    device: str = "auto",
    batch_size: int | None = None,
    precision: Asked = "float32",
    listen: Listener = ignore,
    **settings: Any,
) -> Maps: ...


@overload
def explain(
    model: Classifier | str,
    images: Any,
    method: Sequence[str],
    *,
    target: str | int = "predicted",
    output: str | None = None,
    budget: int | None = None,
    pool: Any = None,
    pool_size: int = POOL_SIZE,
    labels: Sequence[int | str | None] | None = None,
    limit: int | None = None,
    seed: int = 0,
    device: str = "auto",
    batch_size: int | None = None,
    precision: Asked = "float32",
    listen: Listener = ignore,
    **settings: Any,
) -> dict[str, Maps]: ...


def explain(
    model: Classifier | str,
    images: Any,
    method: str | Sequence[str] = "gradient",
    *,
    target: str | int = "predicted",
    output: str | None = None,
    budget: int | None = None,
    pool: Any = None,
    pool_size: int = POOL_SIZE,
    labels: Sequence[int | str | None] | None = None,
    limit: int | None = None,
    seed: int = 0,
    device: str = "auto",
    batch_size: int | None = None,
    precision: Asked = "float32",
    listen: Listener = ignore,
    **settings: Any,
) -> Maps | dict[str, Maps]:
    """Explain images in memory.

    Parameters
    ----------
    model
        A :class:`~salience.Classifier`, or a model card or spec for :func:`~salience.load_model`.
    images
        A path (folder, manifest, ``.npz``, file), a uint8 array (N, H, W, 3), a float tensor (N, 3, H, W) in [0, 1]
        of the model's size, or a list of PIL images, arrays or paths.
    method
        A method's name, with settings as ``"ig:steps=64"`` where one likes; or several, computed together.
    target
        ``predicted``, ``label``, ``class:K`` (number or name; a plain int means the same), or ``all``.
    output
        The scalar that is explained: ``logit``, ``prob``, ``logprob`` or ``margin``.
    pool
        For methods that put other images in the place of pixels: where to draw them from, of any kind that ``images``
        may be. Without it they are drawn from ``images``, all of them whatever the limit, and maps then depend on
        what else is explained. No image is ever drawn for itself.
    pool_size
        So many of them are drawn, once; fewer where there are fewer.
    labels
        For arrays and lists: the true classes.
    limit
        Take the first so many images.
    seed
        For methods that draw; every image draws its own numbers from it.
    device
        ``auto``, ``cpu``, ``cuda``, ``cuda:1``, ``mps``; for a model given as a spec.
    batch_size
        Images in a model call; measured where None.
    precision
        ``float32``; ``bfloat16``, refused where it changes maps by more than a tolerance; or ``auto``.
    listen
        Called with every :class:`~salience.engine.events.Event`.
    **settings
        Settings of the method, e.g. ``steps=64``.

    Returns
    -------
    Maps
        For one method; a dictionary of Maps by name for a sequence of methods. Images that failed are in
        ``Maps.failures`` and have no row.

    Raises
    ------
    SalienceError
        When the model, the images, the method or a setting cannot be used.
    """
    classifier = load_model(model, device=device) if isinstance(model, str) else model
    names = [method] if isinstance(method, str) else list(method)
    source = open_images(images, labels=labels, limit=limit)
    # Measuring costs more than a handful of images do: below that, any sensible batch serves. Not so where one image
    # fills batches by itself.
    long = any(isinstance(item.method, (DescentMethod, QueryMethod)) for item in _choose(names, settings, None))
    few = min(8, 1 << (len(source) - 1).bit_length()) if len(source) <= 32 and not long else None
    given = few or (batch_size is not None and len(source) <= 32)
    how = RunSettings(batch_size or few, "channels_last" if given else None, precision=precision)
    job = prepare(
        classifier,
        source,
        names,
        target=target,
        output=output,
        budget=budget,
        pool=partial(open_images, images if pool is None else pool),
        pool_size=pool_size,
        seed=seed,
        map_dtype="float32",
        settings=how,
        options=settings,
    )
    sink = MemorySink()
    carry_out_job(job, source, sink, listen, how)
    known = {ref.image_id: label for ref, label in zip(source.refs, job.labels, strict=True)}
    maps = {
        recipe.label: sink.maps(
            recipe,
            signed=item.method.signed,
            labels=known,
            input_size=classifier.preprocessing.size,
            class_names=classifier.class_names,
        )
        for recipe, item in zip(job.recipes, job.request.methods, strict=True)
    }
    return maps[names[0].strip()] if isinstance(method, str) else maps


# ---------------------------------------------------------------------- into a run directory


def explain_run(
    models: Sequence[Classifier],
    images: Any,
    methods: Sequence[str],
    out: str | Place,
    *,
    target: str | int = "predicted",
    output: str | None = None,
    budget: int | None = None,
    pool: Any = None,
    pool_size: int = POOL_SIZE,
    columns: Mapping[str, str] | None = None,
    limit: int | None = None,
    shard: Shard | None = None,
    seed: int = 0,
    map_dtype: MapDtype = "float16",
    settings: RunSettings | None = None,
    listen: Listener = ignore,
    command: Sequence[str] = (),
    writer_type: type[RunWriter] = RunWriter,
    allow_none: bool = False,
    purse: Place | None = None,
    given: Mapping[str, int] | None = None,
    beside: Callable[[RunWriter], AbstractContextManager[None]] = lambda writer: nullcontext(),
) -> Outcome:
    """Explain images with one or several models into a run directory, or carry on with one.

    What the directory holds already under the same content keys is kept; everything else is computed. The same
    call after a kill gives the same bytes as one that was never interrupted. Of a ``shard`` only its part of the images
    is explained; :func:`salience.store.merge.merge_runs` joins the parts' runs. Paid models are counted, and their
    answers kept, in the run ``purse`` where one is named: several runs are then one to their limits. ``given`` names
    the class to explain of each image id, in the place of ``target``. ``beside`` is entered while the models work: what
    needs none of them can write into the same run.

    Raises
    ------
    SalienceError
        When something cannot be used; whatever was committed before stays.
    """
    settings = settings or RunSettings()
    source = open_images(images, columns=columns, limit=limit)
    if shard is not None:
        source = source.part(shard)
    names = [m.name for m in models]
    for name in names:
        if names.count(name) > 1:
            raise SettingsError(f"Two models are called {name!r}. Name them: --model first=CARD --model second=CARD.")
    check_crew(settings.crew, models, out)
    location = (
        str(Path(source.location).expanduser().resolve())
        if Path(source.location).expanduser().exists()
        else source.location
    )
    notes: list[str] = [source.note] if source.note else []
    # Backgrounds come from all of the images, so that a limit does not change them.
    others = partial(open_images, images, columns=columns) if pool is None else partial(open_images, pool)
    writer = writer_type(out, kind="explain", source=location, map_dtype=map_dtype)
    with writer, answers_kept(models, writer, purse):

        def job_of(classifier: Classifier, settings: RunSettings) -> Job:
            before = writer.info["models"].get(classifier.name, {})
            how = _resumed(writer.info, classifier, settings, shard)
            plan = _recorded(before.get("plan"), classifier, how)
            if plan is not None and settings.batch not in (None, plan.batch):
                notes.append(
                    f"The run keeps its batch of {plan.batch} for {classifier.name!r}, so that all its maps are "
                    "computed alike. Choose another --out for another batch."
                )
            return prepare(
                classifier,
                source,
                methods,
                target=target,
                output=output,
                budget=budget,
                pool=others,
                pool_size=pool_size,
                seed=seed,
                map_dtype=map_dtype,
                settings=how,
                plan=plan,
                unit_images=before.get("unit_images"),  # shards have a fixed size, on every device
                allow_none=allow_none,
                given=given,
            )

        jobs = [job_of(classifier, settings) for classifier in models]
        if len({job.plan.precision for job in jobs}) > 1:  # left to auto: models are compared, so they are run alike
            alike = replace(settings, precision="float32")
            jobs = [job_of(job.classifier, replace(alike, fidelity=job.fidelity)) for job in jobs]
        notes += [job.note for job in jobs if job.note]
        if settings.precision == "auto":
            notes += [f"{job.classifier.name}: {job.fidelity.told(job.plan.precision)}" for job in jobs if job.fidelity]
        entries = _with_queries({job.classifier.name: described(job) for job in jobs}, jobs)
        for job in jobs:
            writer.use_recipes(job.classifier.name, list(job.recipes), job.unit_images)
        writer.set_images(_image_columns(source, jobs[0].labels))
        writer.describe(
            images={
                "source": location,
                "kind": source.kind,
                "count": len(source),
                "limit": limit,
                "shard": None if shard is None else str(shard),
            },
            labels_of=jobs[0].classifier.name,
            models={**writer.info["models"], **entries},
            settings={
                "methods": list(methods),
                "target": str(target) if given is None else "given",
                "output": output,
                "budget": budget,
                "pool": None if pool is None else others().location,
                "pool_size": pool_size,
                "seed": seed,
                "map_dtype": map_dtype,
            },
            command=list(command),
            directory=str(Path.cwd()),
            environment=_environment(),
            status="running",
        )
        begin = time.perf_counter()
        summaries: dict[str, Summary] = {}
        try:
            with beside(writer):
                for job in jobs:
                    summary = carry_out_job(job, source, writer, listen, settings)
                    summaries[job.classifier.name] = summary
                    if summary.plan is not None and summary.plan != job.plan:
                        entries[job.classifier.name]["plan"] = summary.plan.to_dict()
        except BaseException as error:
            status = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
            writer.describe(status=status, models={**writer.info["models"], **_with_queries(entries, jobs)})
            raise
        spent = writer.info.get("seconds", 0.0) + time.perf_counter() - begin
        writer.describe(
            status="complete",
            seconds=round(spent, 3),
            models={**writer.info["models"], **_with_queries(entries, jobs)},
            last={
                name: {
                    "computed": s.computed,
                    "reused": s.reused,
                    "failures": s.failures,
                    "seconds": round(s.seconds, 3),
                    "forward_calls": s.calls.forward,
                    "backward_calls": s.calls.backward,
                }
                for name, s in summaries.items()
            },
        )
    return Outcome(open_run(out), summaries, tuple(dict.fromkeys(notes)))


@contextmanager
def answers_kept(models: Sequence[Classifier], writer: RunWriter, purse: Place | None = None) -> Iterator[None]:
    """Keep what paid models answer in the run directory until the results made of it are committed."""
    with ExitStack() as stack:
        for classifier in models:
            if classifier.account is not None and classifier.paid:
                what = f"The answers of the paid model {classifier.name!r} are kept in files as they come"
                folder = folder_for(purse or writer.folder, what) / "queries" / classifier.name
                keep = classifier.account.kept_in(folder, classifier.fingerprint(), writer.describe)
                stack.enter_context(keep)
        yield


def _with_queries(entries: dict[str, dict[str, Any]], jobs: Sequence[Job]) -> dict[str, dict[str, Any]]:
    """Add to the entries of paid models how many rows they were ever sent for this run."""
    for job in jobs:
        if job.classifier.account is not None and job.classifier.paid:
            entries[job.classifier.name]["queries"] = job.classifier.account.sent
    return entries


def _recorded(plan: Mapping[str, Any] | None, classifier: Classifier, settings: RunSettings) -> Plan | None:
    """Return the plan that a run already has for this model, where it is of this kind of device and precision."""
    found = Plan.read(plan)
    if found is None or found.device != str(classifier.device):
        return None
    if settings.precision not in ("auto", found.precision):
        return None  # another batch may be the fastest then, or the only one that is exact
    return found.within(settings.threads) if settings.threads else found


def _resumed(
    info: Mapping[str, Any], classifier: Classifier, settings: RunSettings, shard: Shard | None
) -> RunSettings:
    """Return the settings under which a run is carried on: ``auto`` stays with the precision that it has.

    All models of a run are then run alike, as they are compared with one another.

    Raises
    ------
    SettingsError
        When parts of the images might decide differently.
    """
    models: dict[str, Any] = info["models"]
    if settings.precision == "auto" and models:
        plan = models.get(classifier.name, next(iter(models.values()))).get("plan", {})
        settings = replace(settings, precision=plan.get("precision", "float32"))
    if settings.precision == "auto" and shard is not None:
        raise SettingsError(
            "Parts of the images that each choose a precision cannot be merged where they disagree. Name one: "
            "--precision bfloat16, or float32."
        )
    found = _checked(models.get(classifier.name, {}), classifier)
    return replace(settings, fidelity=found) if found is not None and settings.fidelity is None else settings


def _checked(entry: Mapping[str, Any], classifier: Classifier) -> Fidelity | None:
    """Return what was found when bfloat16 was checked on these weights and this kind of device."""
    same = entry.get("fingerprint") == classifier.fingerprint()
    if not same or entry.get("plan", {}).get("device") != str(classifier.device):
        return None
    return Fidelity.read(entry.get("fidelity"))


def as_settled(run: Run, model: str, settings: RunSettings) -> RunSettings:
    """Return settings that keep a model to the precision of a run, as it was checked there."""
    entry = run.info["models"][model]
    found = Fidelity.read(entry.get("fidelity"))
    return replace(settings, precision=entry["plan"].get("precision", "float32"), fidelity=found)


def plan_outputs(recorded: Mapping[str, Any] | None, classifier: Classifier, settings: RunSettings) -> Plan:
    """Return the plan under which a model is asked for outputs alone: the one that a run has for that, or a new one.

    ``settings`` are those of :func:`as_settled`, so that outputs are in the precision of the maps.
    """
    assert settings.precision != "auto"  # it was settled
    return _recorded(recorded, classifier, settings) or make_plan(
        classifier,
        gradients=False,
        batch=settings.batch,
        memory_format=settings.memory_format,
        threads=settings.threads,
        lanes=settings.lanes,
        precision=settings.precision,
    )


def described(job: Job) -> dict[str, Any]:
    """Return a model's entry in ``run.json``."""
    c = job.classifier
    return {
        "spec": c.spec,
        "architecture": type(c.module).__name__,
        "parameters": sum(p.numel() for p in c.module.parameters()),
        "fingerprint": c.fingerprint(),
        "preprocessing": c.preprocessing.to_dict(),
        "classes": list(c.class_names),
        "capabilities": sorted(c.capabilities),
        "plan": job.plan.to_dict(),
        "unit_images": job.unit_images,
        **({} if job.fidelity is None else {"fidelity": job.fidelity.to_dict()}),
    }


def _image_columns(source: ImageSource, labels: Sequence[int | None]) -> dict[str, list[Any]]:
    rows: dict[str, list[Any]] = {
        "image_id": [],
        "index": [],
        "path": [],
        "label": [],
        "label_text": [],
        "group": [],
        "boxes": [],
    }
    for ref, label in zip(source.refs, labels, strict=True):
        title = source.titles.get(ref.label) if ref.label is not None else None
        rows["image_id"].append(ref.image_id)
        rows["index"].append(ref.index)
        rows["path"].append(ref.path)
        rows["label"].append(label)
        rows["label_text"].append(title or (None if ref.label is None else str(ref.label)))
        rows["group"].append(ref.group)
        rows["boxes"].append([list(b) for b in ref.boxes])
    return rows


def _environment() -> dict[str, Any]:
    def installed(name: str) -> str | None:
        try:
            return version(name)
        except PackageNotFoundError:
            return None

    return {
        "salience": installed("salience"),
        "python": platform.python_version(),
        "platform": f"{sys.platform} {platform.machine()}",
        "torch": torch.__version__,
        "numpy": installed("numpy"),
        "pillow": installed("pillow"),
    }
