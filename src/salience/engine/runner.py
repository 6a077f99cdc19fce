"""One model over the images of a unit: decode, explain, pack what is to be stored, survive anything."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from salience.cores import threads
from salience.data.base import ImageRef, ImageSource
from salience.data.decode import LoadedImage
from salience.engine.fills import DRAWN
from salience.engine.landing import Flight, Landed
from salience.engine.loader import Decode, Loader, Stream
from salience.engine.method import Labelled, Method, PointMethod, Rivals
from salience.engine.passes import Calls, rival_count
from salience.engine.plan import Plan, Precision, by_precision
from salience.engine.pool import Pool
from salience.engine.queries import QueryMethod
from salience.engine.scalars import Output
from salience.engine.sweep import Batch, OutOfMemory, Sweep
from salience.engine.targets import Target
from salience.engine.transfer import upload
from salience.engine.tune import running
from salience.engine.work import OnRows, unheard
from salience.errors import ImagesError
from salience.models.classifier import Classifier
from salience.store.maps import Failure
from salience.store.unit import Content, FailureRow, ImageResult, Known, MapRows, Recipe, UnitResult

Array = npt.NDArray[Any]

UNIT_BYTES = 64 * 2**20
UNIT_CALLS = 4096
UNIT_IMAGES = 1024
_NO_CLASS = {
    "label": "The label is to be explained, and the image has none. Give labels, or use the target 'predicted'.",
    "given": "There is no class to explain: the reference has no usable answer for this image, or the model no such "
    "class.",
}


@dataclass(frozen=True)
class Request:
    """What is asked of one model."""

    methods: tuple[Labelled, ...]
    target: Target
    output: Output | None = None
    """The scalar that is explained; None leaves each method its own."""
    seed: int = 0
    pool: Pool | None = None
    """Other images, where a method needs them."""


def make_recipes(
    classifier: Classifier,
    request: Request,
    map_dtype: str,
    layers: dict[str, str | None],
    precision: Precision = "float32",
) -> list[Recipe]:
    """Return the recipe of every method: all that decides its maps but for the image.

    ``precision`` is named where it is not float32, so that recipes of earlier versions stay what they are.
    """
    weights = classifier.fingerprint()
    recipes = []
    for item in request.methods:
        traits = item.method.traits
        decides: dict[str, Any] = {
            "weights": weights,
            "name": traits.name,
            "version": traits.version,
            "settings": item.method.settings(),
            "layer": layers.get(item.label),
            "target": str(request.target),
            "output": request.output or item.method.output,
            "seed": request.seed if traits.stochastic or _draws(item.method, classifier.num_classes) else None,
            "map_dtype": map_dtype,
            **by_precision(precision),
        }
        if item.method.needs_pool and request.pool is not None:
            decides["pool"] = request.pool.hash
        identity = hashlib.sha256(json.dumps(decides, sort_keys=True, default=str).encode()).hexdigest()
        description = {
            "model": classifier.name,
            "method": item.label,
            "summary": traits.summary,
            "family": traits.family,
            "reference": traits.reference,
            "signed": item.method.signed,
            "identity": identity,
            **decides,
        }
        recipes.append(
            Recipe(item.label, classifier.name, identity, description, request.target.count(classifier.num_classes))
        )
    return recipes


def _draws(method: Method, classes: int) -> bool:
    """Whether settings make a method draw that otherwise does not: among many rivals, or its fill."""
    if isinstance(method, QueryMethod) and method.fill in DRAWN:
        return True
    wants = method.wants if isinstance(method, PointMethod) else ()
    return any(isinstance(w, Rivals) and rival_count(w, classes) is not None for w in wants)


def result_key(content: str, label: int | None) -> str:
    """Return the name of a result within its recipe: the image's content, and the label where that is the target."""
    return content if label is None else f"{content}:{label}"


@dataclass
class Runner:
    """Explains images of a source with one model, unit by unit; see :mod:`salience.engine.mapping`.

    Parameters
    ----------
    labels
        True class of each image of the source, None where unknown; the class to explain where the target is ``given``.
    map_dtype
        The stored type: ``float16`` or ``float32``.
    on_rows
        Hears of the rows that the model is given, forward and backward.
    decoders
        Threads that decode; as many as there are cores for each lane of the plan when None.
    """

    classifier: Classifier
    source: ImageSource
    labels: Sequence[int | None]
    request: Request
    recipes: Sequence[Recipe]
    plan: Plan
    map_dtype: str
    on_rows: OnRows = unheard
    decoders: int | None = None

    def __post_init__(self) -> None:
        self._stamps: dict[int, tuple[int, int]] = {}
        self._sweeps: dict[tuple[int, ...], Sweep] = {}
        self._refs = {ref.index: ref for ref in self.source.refs}
        self._label_of = {ref.index: label for ref, label in zip(self.source.refs, self.labels, strict=True)}

    @contextmanager
    def ready(self) -> Iterator[None]:
        """Have the model and the decoders ready for :meth:`compute`, and leave all as it was found."""
        with running(self.classifier, self.plan), self._loading() as self._decode:
            yield

    def compute(self, images: Sequence[int], members: tuple[int, ...]) -> tuple[UnitResult, Calls, Plan]:
        """Return a unit of the images at these places of the source, the model calls, and the plan that held.

        Raises
        ------
        SalienceError
            When the model fails.
        """
        refs = [self._refs[place] for place in images]
        sweep = self._sweeps.setdefault(members, self._sweep(members))
        before = replace(sweep.calls)
        unit = self._unit(refs, members, sweep, self._decode(refs, sweep.plan.batch))
        spent = Calls(sweep.calls.forward - before.forward, sweep.calls.backward - before.backward)
        return unit, spent, sweep.plan

    def calls_per_image(self, members: tuple[int, ...]) -> Calls:
        """Return the rows that an image needs for these methods."""
        return self._sweep(members).calls_per_image()

    def least(self, members: tuple[int, ...]) -> int:
        """Return how many images keep the model busy with these methods: a batch, or fewer where each asks often."""
        return self._sweep(members).least()

    @contextmanager
    def _loading(self) -> Iterator[Decode]:
        """Start the threads that decode; yield the way in which they are used beside this model."""
        with Loader(self.source, self.classifier.preprocessing, self._decoders(), self._stamps) as loader:
            yield loader.between if self.classifier.device.type == "cpu" else loader.ahead

    # ------------------------------------------------------------------ what to do

    def missing(self, known: Known) -> list[tuple[list[ImageRef], tuple[int, ...]]]:
        """Group the images by the methods they lack: [(images, positions of methods)]."""
        groups: dict[tuple[int, ...], list[ImageRef]] = {}
        for ref in self.source.refs:
            content = self.source.hash_since(ref, known.contents.get(ref.image_id))
            label = self._label(ref)
            lacking = []
            for i, recipe in enumerate(self.recipes):
                if content is not None:
                    key = result_key(content, label)
                    if known.done.get((recipe.id, ref.image_id)) == key:
                        continue
                    if known.failed.get((recipe.id, ref.image_id)) == key:
                        continue
                lacking.append(i)
            if lacking and known.failed.get((self.classifier.name, ref.image_id)) == self.image_key(ref, content):
                continue
            if lacking:
                groups.setdefault(tuple(lacking), []).append(ref)
        return [(refs, members) for members, refs in groups.items()]

    def _label(self, ref: ImageRef) -> int | None:
        return self._label_of[ref.index] if self.request.target.by_image else None

    def image_key(self, ref: ImageRef, content: str | None) -> str:
        """Return the key under which an image as a whole fails: the model and its content, or the file's stamp."""
        if content is None:
            try:
                content = "stamp {} {}".format(*self.source.stamp(ref))
            except (OSError, ImagesError):
                return f"missing {time.time_ns()}"  # a file that is not there is looked for every time
        return "{}:{}".format(self.recipes[0].description["weights"], result_key(content, self._label(ref)))

    def _sweep(self, members: tuple[int, ...]) -> Sweep:
        return Sweep(
            self.classifier,
            [self.request.methods[i].method for i in members],
            self.request.target,
            self.request.output,
            self.request.seed,
            self.plan,
            self._on_calls,
            self.request.pool,
        )

    def _decoders(self) -> int:
        if self.decoders:
            return self.decoders
        return threads(self.plan.lanes)

    # ------------------------------------------------------------------ one unit

    def unit_name(self, images: Sequence[int], members: tuple[int, ...]) -> str:
        """Name a unit by what is in it: begun again after a kill, it finds the answers that were paid for."""
        what = ([self.recipes[i].id for i in members], [self._refs[place].image_id for place in images])
        return hashlib.sha256(json.dumps(what).encode()).hexdigest()[:16]

    def _unit(
        self,
        refs: Sequence[ImageRef],
        members: tuple[int, ...],
        sweep: Sweep,
        stream: Stream,
    ) -> UnitResult:
        begin = time.perf_counter()
        unit = UnitResult(self.classifier.name, maps={self.recipes[i].id: MapRows() for i in members})
        ready: list[tuple[ImageRef, LoadedImage]] = []
        flying: list[Flight] = []
        for position in range(len(refs)):
            ref, loaded = next(stream)
            if isinstance(loaded, ImagesError):
                self._fail(unit, ref.image_id, "unreadable", str(loaded), self.image_key(ref, None))
            elif self.request.target.by_image and self._label_of[ref.index] is None:
                unit.unanswered.append(self._content_of(ref, loaded))
                self._fail(
                    unit,
                    ref.image_id,
                    "label",
                    _NO_CLASS[self.request.target.kind],
                    self.image_key(ref, loaded.content_hash),
                )
            else:
                ready.append((ref, loaded))
            if len(ready) == sweep.plan.batch or (position == len(refs) - 1 and ready):
                begun = self._explain(unit, ready, members, sweep)
                self._land(unit, members, flying)  # while the device works on what has begun
                ready, flying = [], begun
        self._land(unit, members, flying)
        unit.seconds = time.perf_counter() - begin
        return unit

    def _explain(
        self, unit: UnitResult, ready: list[tuple[ImageRef, LoadedImage]], members: tuple[int, ...], sweep: Sweep
    ) -> list[Flight]:
        """Have a batch explained, and return what is then under way to the host."""
        pixels = to_pixels([image.pixels for _, image in ready], self.classifier)
        batch = Batch(
            tuple(ref.image_id for ref, _ in ready),
            self.source.finish([ref for ref, _ in ready], pixels),
            torch.tensor([-1 if (v := self._label_of[ref.index]) is None else v for ref, _ in ready]),
        )
        try:
            result = sweep.run(batch)
        except OutOfMemory as error:
            if len(ready) > 1:  # find out which of them it was
                return [flight for single in ready for flight in self._explain(unit, [single], members, sweep)]
            ((ref, image),) = ready
            self._stamps.pop(ref.index, None)
            message = f"There is no memory for a batch of one image: {error}"
            self._fail(unit, ref.image_id, "memory", message, self.image_key(ref, image.content_hash))
            return []
        return [Flight(ready, result, [self._pack(m.values) for m in result.maps])]

    def _land(self, unit: UnitResult, members: tuple[int, ...], flights: Sequence[Flight]) -> None:
        """Put what arrives into the unit's rows."""
        for flight in flights:
            self._take(unit, members, flight.ready, flight.land())

    def _take(
        self, unit: UnitResult, members: tuple[int, ...], ready: Sequence[tuple[ImageRef, LoadedImage]], host: Landed
    ) -> None:
        usable: Array = np.asarray(np.isfinite(host.logits).all(axis=1))
        kept = [row for row in range(len(ready)) if usable[row]]
        for row, (ref, image) in enumerate(ready):
            content = self._content_of(ref, image)
            if usable[row]:
                unit.images.append(ImageResult(**vars(content), logits=host.logits[row]))
            else:
                unit.unanswered.append(content)
                message = "The model's output for this image is not finite (NaN or infinite)."
                self._fail(unit, ref.image_id, "model", message, self.image_key(ref, image.content_hash))
        names = [(ref.image_id, result_key(image.content_hash, self._label(ref))) for ref, image in ready]
        for i, place in enumerate(members):
            self._collect(unit, self.recipes[place], host, i, names, kept)

    def _content_of(self, ref: ImageRef, image: LoadedImage) -> Content:
        size, changed = self._stamps.pop(ref.index)
        return Content(ref.image_id, image.content_hash, size, changed, image.width, image.height)

    def _collect(
        self,
        unit: UnitResult,
        recipe: Recipe,
        host: Landed,
        of: int,
        names: Sequence[tuple[str, str]],
        kept: Sequence[int],
    ) -> None:
        """Put one method's maps of a batch into the unit's rows."""
        values, scales, finite = host.maps[of]
        scores, diagnostics = host.scores[of], host.diagnostics[of]
        whole: Array = np.asarray(finite.all(axis=1))
        rows = unit.maps[recipe.id]
        for i in kept:
            image_id, key = names[i]
            if not whole[i]:
                self._fail(unit, image_id, "map", "The map is not finite (NaN or infinite).", key, recipe)
                continue
            targets = host.targets[i].tolist()
            rows.values.extend(values[i])
            rows.scales.extend(scales[i].tolist())
            rows.owners.extend(
                [(image_id, t, score, key) for t, score in zip(targets, scores[i].tolist(), strict=True)]
            )
            for name, column in diagnostics.items():
                rows.diagnostics.extend(
                    [(image_id, t, name, float(v)) for t, v in zip(targets, column[i], strict=True) if v == v]
                )

    def _pack(self, maps: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Bring raw maps (N, T, h, w) to the stored type: values, scales (N, T), and whether they are finite (N, T)."""
        top = maps.abs().amax((2, 3)).float()
        finite = torch.isfinite(top)
        if self.map_dtype == "float32":
            return maps.float(), torch.ones_like(top), finite
        scale = torch.where(finite & (top > torch.finfo(torch.float32).tiny), top, torch.ones_like(top))
        return (maps.float() / scale[:, :, None, None]).to(torch.float16), scale, finite

    def _fail(
        self, unit: UnitResult, image_id: str, kind: str, message: str, key: str, recipe: Recipe | None = None
    ) -> None:
        method = None if recipe is None else recipe.label
        failure = Failure(image_id, kind, message, self.classifier.name, method)
        unit.failures.append(FailureRow(failure, None if recipe is None else recipe.id, key))

    def _on_calls(self, calls: Calls) -> None:
        self.on_rows(calls.forward + calls.backward)


def to_pixels(images: Sequence[Array], classifier: Classifier) -> Tensor:
    """Stack images (H, W, 3), uint8 or float in [0, 1], to pixels (N, 3, H, W) in [0, 1] on the model's device."""
    stacked = upload(images, classifier.device).permute(0, 3, 1, 2)
    if stacked.dtype == torch.uint8:
        return stacked.to(classifier.dtype).div_(255)
    return stacked.to(classifier.dtype)


def choose_unit_images(plan: Plan, map_bytes: int, calls: Calls) -> int:
    """Return a multiple of the batch that keeps a unit's maps near 64 MiB and its model calls near 4096."""
    by_bytes = UNIT_BYTES // max(1, map_bytes)
    by_calls = UNIT_CALLS // max(1, calls.forward + calls.backward)
    if by_calls < plan.batch // 4:  # so much work an image that batches are filled by its own passes
        return max(1, by_calls)
    images = max(1, min(by_bytes, by_calls, UNIT_IMAGES))
    return max(plan.batch, images // plan.batch * plan.batch)
