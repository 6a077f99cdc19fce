"""All methods over a slice of images: points, batches, running means, and what to do when memory runs out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from salience.engine.descent import DescentMethod, ModelCalls, Problem
from salience.engine.fills import CONSTANTS, fill
from salience.engine.method import Activation, Evidence, Method, PointMethod, Subject, Want, WholeMethod
from salience.engine.passes import Calls, Look, Product, call_model, is_out_of_memory, look, pad, products
from salience.engine.plan import Plan
from salience.engine.points import Clean, Points
from salience.engine.pool import Pool
from salience.engine.precision import casting, single
from salience.engine.queries import Found, QueryMethod, Scene, converse, group_size
from salience.engine.scalars import Output, all_scores, score, scores
from salience.engine.targets import Target
from salience.errors import MethodError
from salience.models.classifier import GRADIENTS, LAYERS, Classifier
from salience.models.layers import Layer, find_layer

_FILLED = 8
"""Batches of an image's own points and questions for every other one, which may be half empty."""
_STATE_BYTES = 512 * 2**20


@dataclass(frozen=True)
class Batch:
    """Images ready for the model: pixels (N, 3, H, W) in [0, 1], labels (N,) with -1 where unknown."""

    image_ids: tuple[str, ...]
    pixels: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.image_ids)


@dataclass
class MapBatch:
    """Raw maps (N, T, h, w) of one method for a batch, the clean scalar they explain, and diagnostics: each (N, T)."""

    values: Tensor
    scores: Tensor
    diagnostics: dict[str, Tensor] = field(default_factory=dict)


@dataclass
class BatchResult:
    """What a batch gave: logits (N, C), targets (N, T), maps by the method's position."""

    logits: Tensor
    targets: Tensor
    maps: list[MapBatch]


@dataclass(frozen=True)
class Stage:
    """Passes that one image needs: at so many points one forward pass, and these backward passes, each."""

    points: int
    wants: tuple[Want, ...]
    products: tuple[Product, ...]


class OutOfMemory(Exception):
    """The device has no memory for a batch of one image."""


@dataclass
class Sweep:
    """Explains batch after batch with one model under one plan.

    Must be used inside :func:`salience.models.classifier.as_found`. ``on_calls`` hears of the rows of every pass.
    """

    classifier: Classifier
    methods: Sequence[Method]
    target: Target
    output: Output | None
    seed: int
    plan: Plan
    on_calls: Callable[[Calls], None] = lambda calls: None
    pool: Pool | None = None

    def __post_init__(self) -> None:
        self.calls = Calls(told=self.on_calls)
        if self.pool is not None:
            self.pool = self.pool.to(self.classifier.device)
        self.shared: Output = self.output or "logit"  # passes are shared, so their scalar is
        self.layers: dict[Activation, Layer] = {}
        self._anchors: dict[str, Tensor] = {}
        for method in self.methods:
            self._check(method)
        self.groups: dict[Points, list[int]] = {Clean(): []}
        for i, method in enumerate(self.methods):
            if isinstance(method, PointMethod):
                self.groups.setdefault(method.points, []).append(i)

    def _check(self, method: Method) -> None:
        name = method.traits.name
        differentiates = isinstance(method, DescentMethod) or (isinstance(method, PointMethod) and method.wants)
        if differentiates and GRADIENTS not in self.classifier.capabilities:
            raise MethodError(
                f"Method {name!r} needs gradients, which model {self.classifier.name!r} ({self.classifier.spec}) "
                "does not give. Choose a method that needs outputs alone."
            )
        if isinstance(method, PointMethod):
            layered = [w for w in method.wants if isinstance(w, Activation)]
            for want in layered:
                if want not in self.layers:
                    self.layers[want] = find_layer(self.classifier, want.layer)
        elif isinstance(method, WholeMethod) and LAYERS not in self.classifier.capabilities:
            raise MethodError(f"Method {name!r} runs a torch module itself; model {self.classifier.name!r} is none.")

    # ------------------------------------------------------------------ sizes

    def stages(self) -> list[Stage]:
        """Return what an image needs, group by group of points, whole methods left out."""
        columns = self.target.count(self.classifier.num_classes)
        size = self.classifier.preprocessing.size
        asking = [Stage(m.questions(size), (), ()) for m in self.methods if isinstance(m, QueryMethod)]
        descending = []
        for method in self.methods:
            if isinstance(method, DescentMethod):
                forward, backward = method.passes(self.plan.batch)
                descending.append(Stage(columns * backward, (), (Product(layers=False, pixels=True),)))
                descending.append(Stage(columns * (forward - backward), (), ()))
        return self._shared() + asking + descending

    def _shared(self) -> list[Stage]:
        """Return what an image needs of the methods that look at points."""
        classes = self.classifier.num_classes
        columns = self.target.count(classes)
        return [
            Stage(points.count, wants, tuple(products(wants, classes, columns)))
            for points, members in self.groups.items()
            for wants in [self._wants(members)]
        ]

    def calls_per_image(self) -> Calls:
        """Return how many forward and backward passes an image needs, whole methods left out."""
        stages = self.stages()
        return Calls(sum(s.points for s in stages), sum(s.points * len(s.products) for s in stages))

    def least(self) -> int:
        """Return how many images keep the model busy.

        That is a batch, except where an image's own points and questions fill so many batches that the others can be
        half empty.
        """
        batch = self.plan.batch
        if any(isinstance(m, WholeMethod | DescentMethod) for m in self.methods):
            return batch
        calls = self.calls_per_image()
        clean = sum(s.points * (1 + len(s.products)) for s in self._shared() if s.points == 1)
        own = calls.forward + calls.backward - clean
        return min(batch, -(-_FILLED * batch * clean // own)) if own else batch

    def _wants(self, members: Sequence[int]) -> tuple[Want, ...]:
        methods = [self.methods[i] for i in members]
        return tuple(dict.fromkeys(w for m in methods if isinstance(m, PointMethod) for w in m.wants))

    # ------------------------------------------------------------------ running

    def run(self, batch: Batch) -> BatchResult:
        """Explain a batch of at most ``plan.batch`` images; smaller batches are tried when memory runs out.

        Raises
        ------
        OutOfMemory
            When a single image does not fit.
        ModelError
            When the model fails or answers with something unusable.
        """
        pieces: list[BatchResult] = []
        at = 0
        batch = Batch(batch.image_ids, batch.pixels.to(self.classifier.device, self.classifier.dtype), batch.labels)
        while at < len(batch):
            size = min(self.plan.batch, len(batch) - at)
            part = Batch(batch.image_ids[at : at + size], batch.pixels[at : at + size], batch.labels[at : at + size])
            before = (self.calls.forward, self.calls.backward)
            try:
                pieces.append(self._explain(part))
                at += size
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                self.calls.count(before[0] - self.calls.forward, before[1] - self.calls.backward)
                if self.plan.batch == 1:
                    raise OutOfMemory(str(error)) from error
                self.plan = replace(self.plan, batch=self.plan.batch // 2)
                self._anchors = {}
                if self.classifier.device.type == "cuda":
                    torch.cuda.empty_cache()
        return pieces[0] if len(pieces) == 1 else _join(pieces)

    def _explain(self, batch: Batch) -> BatchResult:
        n = len(batch)
        classes = self.classifier.num_classes
        columns = self.target.count(classes)
        maps: dict[int, MapBatch] = {}

        clean = self.groups[Clean()]
        wants = self._wants(clean)
        images = batch.pixels
        state = self._look(images, wants, batch.image_ids, n)
        logits = state.logits.detach()
        padded_labels = pad(batch.labels.to(logits.device), len(state.inputs))
        targets = self.target.columns(logits, padded_labels)
        clean_scores = scores(self.shared, logits, targets)
        for t in range(columns):
            found = state.collect(targets[:, t], wants, last=t == columns - 1)
            seen = Evidence(state.inputs, state.inputs, 0, targets[:, t], clean_scores[:, t], found)
            for i in clean:
                method = _point_method(self.methods[i])
                value = method.finish(method.look(seen)[:n])
                if i not in maps:
                    maps[i] = MapBatch(value.new_empty(n, columns, *value.shape[1:]), clean_scores[:n])
                maps[i].values[:, t] = value
        state.release()

        result = BatchResult(logits[:n], targets[:n], [])
        for points, members in self.groups.items():
            if members and not isinstance(points, Clean):
                maps.update(self._travel(points, members, batch, result))
        for i, whole in enumerate(self.methods):
            if isinstance(whole, WholeMethod):
                maps[i] = self._whole(whole, batch, result)
            elif isinstance(whole, QueryMethod):
                maps[i] = self._inquire(whole, batch, result)
            elif isinstance(whole, DescentMethod):
                maps[i] = self._descend(whole, batch, result)
        result.maps = [maps[i] for i in range(len(self.methods))]
        return result

    def _look(self, inputs: Tensor, wants: Sequence[Want], image_ids: tuple[str, ...], rows: int) -> Look:
        padded = pad(inputs, self.plan.batch)
        padded = padded.contiguous(memory_format=self.plan.torch_format)
        ids = (*image_ids, *(image_ids[-1:] * (len(padded) - len(image_ids))))
        return look(
            self.classifier,
            padded,
            wants,
            self.layers,
            self.plan,
            output=self.shared,
            image_ids=ids,
            seed=self.seed,
            rows=rows,
            calls=self.calls,
        )

    # ------------------------------------------------------------------ many points

    def _travel(self, points: Points, members: Sequence[int], batch: Batch, clean: BatchResult) -> dict[int, MapBatch]:
        """Average what the methods see over all points of each image, for as many images at a time as fill calls."""
        found: list[dict[int, MapBatch]] = []
        at = 0
        for size in packed(len(batch), points.count, self.plan.batch):
            rows = slice(at, at + size)
            some = Batch(batch.image_ids[rows], batch.pixels[rows], batch.labels[rows])
            found.append(self._average(points, members, some, BatchResult(clean.logits[rows], clean.targets[rows], [])))
            at += size
        return found[0] if len(found) == 1 else {i: _joined([f[i] for f in found]) for i in members}

    def _average(self, points: Points, members: Sequence[int], batch: Batch, clean: BatchResult) -> dict[int, MapBatch]:
        """Average what the methods see over all points of each image.

        Where images are fewer than the batch, several points of each go in one call; contributions are added in
        the order of the points all the same, so the sums do not depend on it.
        """
        n, columns = clean.targets.shape
        wants = self._wants(members)
        wide = max(1, self.plan.batch // n)
        chunk = max(1, min(columns, _STATE_BYTES // max(1, batch.pixels.numel() * 4 * len(members))))
        sums: dict[tuple[int, int], Tensor] = {}
        prepared = points.prepare(batch.pixels)
        for first in range(0, columns, chunk):
            chosen = range(first, min(columns, first + chunk))
            for draw in range(0, points.count, wide):
                draws = range(draw, min(points.count, draw + wide))
                inputs = torch.cat([points.at(batch.pixels, k, batch.image_ids, self.seed, prepared) for k in draws])
                state = self._look(inputs, wants, batch.image_ids * len(draws), n * len(draws))
                rows = len(state.inputs)
                for t in chosen:
                    target = pad(clean.targets[:, t].repeat(len(draws)), rows)
                    found = state.collect(target, wants, last=t == chosen[-1])
                    values = score(self.shared, state.logits.detach(), target)
                    for j, k in enumerate(draws):
                        cut = slice(j * n, (j + 1) * n)
                        part = {w: tuple(x[cut] for x in v) for w, v in found.items()}
                        seen = Evidence(batch.pixels, state.inputs[cut], k, target[cut], values[cut], part, prepared)
                        for i in members:
                            new = _point_method(self.methods[i]).look(seen)
                            old = sums.get((i, t))
                            sums[i, t] = new.clone() if old is None else old.add_(new)
                state.release()
        out: dict[int, MapBatch] = {}
        for i in members:
            method = _point_method(self.methods[i])
            values = torch.stack([method.finish(sums.pop((i, t)) / points.count) for t in range(columns)], 1)
            at_image = scores(self.shared, clean.logits, clean.targets)
            out[i] = MapBatch(values, at_image, self._diagnose(method, values, at_image, batch, clean))
        return out

    def _diagnose(
        self, method: PointMethod, values: Tensor, at_image: Tensor, batch: Batch, clean: BatchResult
    ) -> dict[str, Tensor]:
        if not method.anchors:
            return {}
        columns = clean.targets.shape[1]
        logits = torch.stack([self._anchor(name, batch) for name in method.anchors])
        found: dict[str, list[Tensor]] = {}
        for t in range(columns):
            at = torch.stack([score(self.shared, z, clean.targets[:, t]) for z in logits])
            for name, value in method.diagnose(values[:, t], at_image[:, t], at).items():
                found.setdefault(name, []).append(value)
        return {name: torch.stack(column, 1) for name, column in found.items()}

    def _anchor(self, name: str, batch: Batch) -> Tensor:
        """Return the logits (N, C) at a baseline; those of a constant one are computed once for all images."""
        if name not in CONSTANTS:
            start = fill(name, batch.pixels)
            return self._look(start, (), batch.image_ids, len(batch)).logits[: len(batch)]
        known = self._anchors.get(name)
        if known is None:
            start = fill(name, batch.pixels).expand_as(batch.pixels[:1])
            known = self._look(start, (), batch.image_ids[:1], 1).logits[:1]
            self._anchors[name] = known
        return known.expand(len(batch), -1)

    # ------------------------------------------------------------------ methods that run the model themselves

    def _whole(self, method: WholeMethod, batch: Batch, clean: BatchResult) -> MapBatch:
        output, targets = self.output or method.output, clean.targets
        layer = None if method.layer is False else find_layer(self.classifier, method.layer)
        layer_module = None if layer is None else self.classifier.module.get_submodule(layer.name)
        module = _Scalars(self.classifier, output, self.calls, self.plan)
        n = len(batch)
        pixels = pad(batch.pixels, self.plan.batch).contiguous(memory_format=self.plan.torch_format)
        ids = (*batch.image_ids, *(batch.image_ids[-1:] * (len(pixels) - n)))
        values = []
        for t in range(targets.shape[1]):
            subject = Subject(
                module=module,
                images=pixels.clone(),
                target=pad(targets[:, t], len(pixels)),
                image_ids=ids,
                rows=n,
                seed=self.seed,
                output=output,
                layer=layer,
                layer_module=layer_module,
            )
            maps = method.attribute(subject)
            if maps.ndim != 3 or len(maps) not in (n, len(pixels)):
                raise MethodError(
                    f"Method {method.traits.name!r} returned shape {tuple(maps.shape)} for {n} images; "
                    "(N, h, w) is needed."
                )
            values.append(single(maps[:n].detach()))
        return MapBatch(torch.stack(values, 1), scores(output, clean.logits, targets))

    # ------------------------------------------------------------------ methods that optimise their maps

    def _descend(self, method: DescentMethod, batch: Batch, clean: BatchResult) -> MapBatch:
        """Optimise the maps of all images and classes of a batch together."""
        model = ModelCalls(self.classifier, self.plan, self.calls)
        found = method.descend(Problem(model, batch.pixels, batch.image_ids, clean.targets, self.seed, self.pool))
        at_image = scores(self.output or method.output, clean.logits, clean.targets)
        return MapBatch(found.maps, at_image, found.diagnostics)

    # ------------------------------------------------------------------ methods that ask for outputs alone

    def _inquire(self, method: QueryMethod, batch: Batch, clean: BatchResult) -> MapBatch:
        """Explain a batch group by group; groups are filled up, so that every search has the same shapes."""
        output = self.output or method.output
        at_image = scores(output, clean.logits, clean.targets)
        together = group_size(method, self.classifier.preprocessing.size, self.plan.batch)
        found = [
            self._search(method, batch, clean, at_image, slice(at, min(len(batch), at + together)), together, output)
            for at in range(0, len(batch), together)
        ]
        return MapBatch(
            torch.cat([f.maps for f in found]),
            at_image,
            {name: torch.cat([f.diagnostics[name] for f in found]) for name in found[0].diagnostics},
        )

    def _search(
        self,
        method: QueryMethod,
        batch: Batch,
        clean: BatchResult,
        at_image: Tensor,
        rows: slice,
        together: int,
        output: Output,
    ) -> Found:
        real = rows.stop - rows.start
        ids = batch.image_ids[rows]
        lead = clean.logits.argmax(1) if self.target.kind == "all" else clean.targets.new_zeros(len(batch))
        scene = Scene(
            images=pad(batch.pixels[rows], together).contiguous(memory_format=self.plan.torch_format),
            image_ids=(*ids, *(ids[-1:] * (together - real))),
            seed=self.seed,
            targets=pad(clean.targets[rows], together),
            lead=pad(lead[rows], together),
            scores=pad(at_image[rows], together).float(),
            every=pad(all_scores(output, clean.logits[rows]), together).float(),
            output=output,
        )
        with torch.no_grad():
            found, asked = converse(
                method,
                scene,
                real,
                hide=lambda name: fill(name, scene.images, scene.image_ids, self.seed, pool=self.pool),
                ask=self._ask,
                batch=self.plan.batch,
                output=output,
            )
        columns = scene.targets.shape[1]
        found.maps = found.maps[:real]
        found.diagnostics = {name: value[:real] for name, value in found.diagnostics.items()}
        found.diagnostics["forward_passes"] = scene.scores.new_full((real, columns), asked + 1)
        for queries, figure in found.curve:
            found.diagnostics[f"{found.curve_of}@{queries}"] = figure[:real]
        return found

    def _ask(self, inputs: Tensor, rows: int) -> Tensor:
        self.calls.count(forward=rows)
        return call_model(self.classifier, inputs.contiguous(memory_format=self.plan.torch_format), self.plan)


class _Scalars(nn.Module):
    """The classifier as other libraries want it: pixels in [0, 1] to the explained scalar of every class."""

    def __init__(self, classifier: Classifier, output: Output, calls: Calls, plan: Plan) -> None:
        super().__init__()
        self.inner = classifier.module
        self._classifier = classifier
        self._output = output
        self._calls = calls
        self._plan = plan

    def forward(self, images: Tensor) -> Tensor:
        self._calls.count(forward=len(images))
        with casting(self._classifier, self._plan.precision):
            logits = self._classifier.logits(images.contiguous(memory_format=self._plan.torch_format))
        return all_scores(self._output, single(logits))


def _point_method(method: Method) -> PointMethod:
    assert isinstance(method, PointMethod)
    return method


def packed(images: int, points: int, batch: int) -> list[int]:
    """Return how many images at a time are looked at, each at so many points: as few model calls as can be.

    Nine images with 32 points each fill 18 batches of 16 as eight and one, and half fill 32 of them together.
    """
    size = next(n for n in range(images, 0, -1) if batch % n == 0)
    if size == images:
        return [images]

    def calls(count: int) -> int:
        return -(-points // (batch // count))

    apart = [size, *packed(images - size, points, batch)]
    return apart if sum(map(calls, apart)) < calls(images) else [images]


def _joined(parts: Sequence[MapBatch]) -> MapBatch:
    return MapBatch(
        torch.cat([p.values for p in parts]),
        torch.cat([p.scores for p in parts]),
        {k: torch.cat([p.diagnostics[k] for p in parts]) for k in parts[0].diagnostics},
    )


def _join(pieces: Sequence[BatchResult]) -> BatchResult:
    return BatchResult(
        torch.cat([p.logits for p in pieces]),
        torch.cat([p.targets for p in pieces]),
        [_joined([p.maps[i] for p in pieces]) for i in range(len(pieces[0].maps))],
    )
