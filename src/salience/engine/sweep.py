"""All methods over a slice of images: points, batches, running means, and what to do when memory runs out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from salience.engine.fills import CONSTANTS, fill
from salience.engine.method import Activation, Evidence, Method, PointMethod, Subject, Want, WholeMethod
from salience.engine.passes import Calls, Look, Product, is_out_of_memory, look, pad, products
from salience.engine.plan import Plan
from salience.engine.points import Clean, Points
from salience.engine.scalars import Output, score
from salience.engine.targets import Target
from salience.errors import MethodError
from salience.models.classifier import GRADIENTS, LAYERS, Classifier
from salience.models.layers import Layer, find_layer

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
    """Raw maps (N, T, h, w) of one method for a batch, with their diagnostics, each (N, T)."""

    values: Tensor
    diagnostics: dict[str, Tensor] = field(default_factory=dict)


@dataclass
class BatchResult:
    """What a batch gave: logits (N, C), targets and clean scores (N, T), maps by the method's position."""

    logits: Tensor
    targets: Tensor
    scores: Tensor
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
    output: Output
    seed: int
    plan: Plan
    on_calls: Callable[[Calls], None] = lambda calls: None

    def __post_init__(self) -> None:
        self.calls = Calls(told=self.on_calls)
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
        if isinstance(method, PointMethod):
            layered = [w for w in method.wants if isinstance(w, Activation)]
            if method.wants and GRADIENTS not in self.classifier.capabilities:
                raise MethodError(
                    f"Method {name!r} needs gradients, which model {self.classifier.name!r} ({self.classifier.spec}) "
                    "does not give. Choose a method that needs outputs alone."
                )
            for want in layered:
                if want not in self.layers:
                    self.layers[want] = find_layer(self.classifier, want.layer)
        elif isinstance(method, WholeMethod) and LAYERS not in self.classifier.capabilities:
            raise MethodError(f"Method {name!r} runs a torch module itself; model {self.classifier.name!r} is none.")

    # ------------------------------------------------------------------ sizes

    def stages(self) -> list[Stage]:
        """Return what an image needs, group by group of points, whole methods left out."""
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
        scores = torch.stack([score(self.output, logits, targets[:, t]) for t in range(columns)], 1)
        for t in range(columns):
            found = state.collect(targets[:, t], wants, last=t == columns - 1)
            seen = Evidence(state.inputs, state.inputs, 0, targets[:, t], scores[:, t], found)
            for i in clean:
                method = _point_method(self.methods[i])
                value = method.finish(method.look(seen)[:n])
                if i not in maps:
                    maps[i] = MapBatch(value.new_empty(n, columns, *value.shape[1:]))
                maps[i].values[:, t] = value
        state.release()

        result = BatchResult(logits[:n], targets[:n], scores[:n], [])
        for points, members in self.groups.items():
            if members and not isinstance(points, Clean):
                maps.update(self._travel(points, members, batch, result))
        for i, whole in enumerate(self.methods):
            if isinstance(whole, WholeMethod):
                maps[i] = self._whole(whole, batch, result.targets)
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
            output=self.output,
            image_ids=ids,
            seed=self.seed,
            rows=rows,
            calls=self.calls,
        )

    # ------------------------------------------------------------------ many points

    def _travel(self, points: Points, members: Sequence[int], batch: Batch, clean: BatchResult) -> dict[int, MapBatch]:
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
                    scores = score(self.output, state.logits.detach(), target)
                    for j, k in enumerate(draws):
                        cut = slice(j * n, (j + 1) * n)
                        part = {w: tuple(x[cut] for x in v) for w, v in found.items()}
                        seen = Evidence(batch.pixels, state.inputs[cut], k, target[cut], scores[cut], part, prepared)
                        for i in members:
                            new = _point_method(self.methods[i]).look(seen)
                            old = sums.get((i, t))
                            sums[i, t] = new.clone() if old is None else old.add_(new)
                state.release()
        out: dict[int, MapBatch] = {}
        for i in members:
            method = _point_method(self.methods[i])
            values = torch.stack([method.finish(sums.pop((i, t)) / points.count) for t in range(columns)], 1)
            out[i] = MapBatch(values, self._diagnose(method, values, batch, clean))
        return out

    def _diagnose(self, method: PointMethod, values: Tensor, batch: Batch, clean: BatchResult) -> dict[str, Tensor]:
        if not method.anchors:
            return {}
        columns = clean.targets.shape[1]
        logits = torch.stack([self._anchor(name, batch) for name in method.anchors])
        found: dict[str, list[Tensor]] = {}
        for t in range(columns):
            at = torch.stack([score(self.output, z, clean.targets[:, t]) for z in logits])
            for name, value in method.diagnose(values[:, t], clean.scores[:, t], at).items():
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

    def _whole(self, method: WholeMethod, batch: Batch, targets: Tensor) -> MapBatch:
        layer = None if method.layer is False else find_layer(self.classifier, method.layer)
        layer_module = None if layer is None else self.classifier.module.get_submodule(layer.name)
        module = _Scalars(self.classifier, self.output, self.calls, self.plan)
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
                output=self.output,
                layer=layer,
                layer_module=layer_module,
            )
            maps = method.attribute(subject)
            if maps.ndim != 3 or len(maps) not in (n, len(pixels)):
                raise MethodError(
                    f"Method {method.traits.name!r} returned shape {tuple(maps.shape)} for {n} images; "
                    "(N, h, w) is needed."
                )
            values.append(maps[:n].detach())
        return MapBatch(torch.stack(values, 1))


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
        logits = self._classifier.logits(images.contiguous(memory_format=self._plan.torch_format))
        if self._output == "logit":
            return logits
        if self._output == "logprob":
            return logits.log_softmax(1)
        if self._output == "prob":
            return logits.softmax(1)
        every = torch.arange(logits.shape[1], device=logits.device)
        return torch.stack([score("margin", logits, every[c].expand(len(logits))) for c in every], 1)


def _point_method(method: Method) -> PointMethod:
    assert isinstance(method, PointMethod)
    return method


def _join(pieces: Sequence[BatchResult]) -> BatchResult:
    maps = [
        MapBatch(
            torch.cat([p.maps[i].values for p in pieces]),
            {k: torch.cat([p.maps[i].diagnostics[k] for p in pieces]) for k in pieces[0].maps[i].diagnostics},
        )
        for i in range(len(pieces[0].maps))
    ]
    return BatchResult(
        torch.cat([p.logits for p in pieces]),
        torch.cat([p.targets for p in pieces]),
        torch.cat([p.scores for p in pieces]),
        maps,
    )
