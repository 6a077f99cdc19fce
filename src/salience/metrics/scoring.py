"""Scores a few images at a time: all methods, metrics, backgrounds and smoothings of them through one packer."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from salience.data.decode import LoadedImage
from salience.data.geometry import box_to_input
from salience.engine.adversary import Adversary, Victims, search
from salience.engine.descent import ModelCalls
from salience.engine.fills import gaussian_blur
from salience.engine.masked import (
    Heard,
    Maps,
    Order,
    Output,
    Packer,
    Points,
    Record,
    Replacement,
    answers,
    blank,
    falling_ranks,
    sweep,
    tie_order,
)
from salience.engine.method import Method
from salience.engine.passes import Calls
from salience.engine.plan import Plan, Precision, by_precision
from salience.engine.pool import Pool
from salience.engine.runner import to_pixels
from salience.engine.scalars import Output as ScalarOutput
from salience.engine.sweep import Sweep
from salience.engine.targets import Target
from salience.metrics.backgrounds import Background, fixed_background
from salience.metrics.baselines import CLASS_AGNOSTIC, Baseline
from salience.metrics.metric import CurveMetric, Curves, Labelled, MapMetric, Need, ProbeMetric, RemakeMetric, Seen
from salience.metrics.remaking import Maker, remade
from salience.models.classifier import Classifier
from salience.store.reader import MapReader
from salience.store.schema import STAGES
from salience.store.unit import Content

_RANKED_BYTES = 128 * 2**20

Columns = dict[str, list[Any]]
StoredCurves = Mapping[tuple[str, str], Mapping[int, Sequence[float]]]
"""Values along curves that are stored already: by recipe and image, then by position of the label."""


# ---------------------------------------------------------------------- what is scored


@dataclass(frozen=True, eq=False)
class Picture:
    """An image ready to be scored.

    Attributes
    ----------
    pixels, logits
        (3, H, W) in [0, 1] and (C,), on the model's device.
    labels
        The label set (T,), by falling logits.
    boxes
        (B, 4) in pixels of the input; boxes without area in it are left out.
    """

    content: Content
    pixels: Tensor
    logits: Tensor
    labels: Tensor
    boxes: Tensor

    @property
    def image_id(self) -> str:
        """Name of the image."""
        return self.content.image_id


@dataclass(frozen=True)
class Candidate:
    """One line of the leaderboard.

    Attributes
    ----------
    identity
        Names all that decides the maps but for the image.
    shared
        One map stands for all labels.
    """

    name: str
    identity: str
    kind: str
    signed: bool
    shared: bool
    maps: Callable[[Picture], Tensor | None]
    """Raw maps (k, h, w) of the first k labels of a picture's set, k being all, or 1; None where there is none."""
    method: Method | None = None
    """What made the maps, where it can be asked again."""
    of: str | None = None
    """The method whose maps these are under another ``seed``."""
    seed: int | None = None


@dataclass(frozen=True, eq=False)
class _Read:
    """Stored maps: all labels of the set where there are such, else the predicted one's."""

    reader: MapReader
    predicted: bool = False
    """Only the predicted one's."""

    def __call__(self, picture: Picture) -> Tensor | None:
        labels = picture.labels.tolist()
        found = None if self.predicted else self.reader.read(picture.image_id, labels)
        if found is None:
            found = self.reader.read(picture.image_id, labels[:1])
        return None if found is None else torch.from_numpy(found).to(picture.pixels.device)


@dataclass(frozen=True)
class _Make:
    """Maps of a baseline."""

    baseline: Baseline
    seed: int

    def __call__(self, picture: Picture) -> Tensor:
        return self.baseline.make(picture.pixels, picture.image_id, picture.labels.tolist(), self.seed)


def method_candidate(reader: MapReader, name: str | None = None, method: Method | None = None) -> Candidate:
    """Return the candidate of stored maps: all labels of the set where it has them, else the predicted one's."""
    return Candidate(name or reader.method, reader.identity, "method", reader.signed, False, _Read(reader), method)


def seed_candidate(reader: MapReader, of: str, seed: int) -> Candidate:
    """Return the candidate of a method's maps under another seed: its scores go into those of the method."""
    return replace(method_candidate(reader, f"{of} (seed {seed})"), kind="seed", of=of, seed=seed)


def class_agnostic(reader: MapReader, name: str | None = None) -> Candidate:
    """Return the cheat that hands the predicted label's map to every label."""
    label = f"{CLASS_AGNOSTIC}:{name or reader.method}"
    identity = f"{CLASS_AGNOSTIC}:{reader.identity}"
    return Candidate(label, identity, "baseline", reader.signed, True, _Read(reader, predicted=True))


def baseline_candidate(baseline: Baseline, seed: int) -> Candidate:
    """Return the candidate of a baseline."""
    identity = f"baseline:{baseline.name}:{seed}"
    return Candidate(baseline.name, identity, "baseline", False, baseline.shared, _Make(baseline, seed))


@dataclass(frozen=True)
class Task:
    """One method's score under one metric, background and smoothing; or its curve, where ``metric`` is a need."""

    id: str
    candidate: int
    metric: int | Need
    background: int | None
    smooth: float
    description: dict[str, Any]


# ---------------------------------------------------------------------- the work


@dataclass
class Found:
    """Rows of the tables, and what failed: (image, candidate, task, kind, message)."""

    scores: Columns = field(default_factory=lambda: {c: [] for c in STAGES["evaluate"]["scores"].names})
    curves: Columns = field(default_factory=lambda: {c: [] for c in STAGES["evaluate"]["curves"].names})
    failures: list[tuple[str, str, str, str, str]] = field(default_factory=list)


@dataclass
class Scorer:
    """Scores images with one model under one packer. Must be used inside :func:`salience.engine.tune.running`."""

    classifier: Classifier
    candidates: Sequence[Candidate]
    metrics: Sequence[Labelled]
    backgrounds: Sequence[Background]
    smooths: Sequence[float]
    target: Target
    seed: int
    pool: Pool | None = None
    output: ScalarOutput | None = None
    precision: Precision = "float32"
    """Of the model's answers: that of the plan under which it is asked."""

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the input."""
        return self.classifier.preprocessing.size

    @cached_property
    def tasks(self) -> tuple[Task, ...]:
        """Every score and curve that is asked for, each with the key of all that decides it but for the image."""
        weights = self.classifier.fingerprint()
        backgrounds = range(len(self.backgrounds))
        asked: list[tuple[int | Need, int | None]] = [
            (m, b)
            for m, item in enumerate(self.metrics)
            for b in (backgrounds if isinstance(item.metric, CurveMetric) else (None,))
        ]
        asked += [(need, b) for need in self._curves for b in backgrounds]
        return tuple(
            self._task(weights, c, candidate, metric, b, smooth)
            for c, candidate in enumerate(self.candidates)
            for smooth in self.smooths
            for metric, b in asked
            if not self._remakes(metric) or (candidate.method is not None and not smooth)
        )

    def _remakes(self, metric: int | Need) -> bool:
        return isinstance(metric, int) and isinstance(self.metrics[metric].metric, RemakeMetric)

    @cached_property
    def _curves(self) -> tuple[Need, ...]:
        """The curves to store: those that metrics read, the longest of each order, output and step."""
        needs: dict[tuple[str, str, int], Need] = {}
        for item in self.metrics:
            if isinstance(item.metric, CurveMetric):
                for need in item.metric.needs(self.size):
                    key = (need.order, need.output, need.step)
                    if key not in needs or need.labels == "all":
                        needs[key] = need
        return tuple(needs.values())

    def _task(
        self, weights: str, c: int, candidate: Candidate, metric: int | Need, b: int | None, smooth: float
    ) -> Task:
        background = None if b is None else self.backgrounds[b]
        shown: dict[str, Any] = {
            "model": self.classifier.name,
            "method": candidate.name,
            "background": None if background is None else background.label,
            "smooth": smooth,
        }
        decides: dict[str, Any]
        if isinstance(metric, Need):
            shown["curve"], decides = metric.order, {"curve": vars(metric)}  # under a key of its own: it has labels too
            drawn = False
        else:
            item = self.metrics[metric]
            shown["metric"] = item.label
            traits = item.metric.traits
            drawn = item.metric.needs_pool
            decides = {"name": traits.name, "version": traits.version, "settings": item.metric.settings()}
        drawn = drawn or (background is not None and background.name == "dataset")
        decides = {
            **decides,
            "weights": weights,
            "maps": candidate.identity,
            "labels": str(self.target),
            "background": None if background is None else background.numbers,
            "output": self.output if self._remakes(metric) else None,
            "pool": self.pool.hash if drawn and self.pool is not None else None,
            "smooth": smooth,
            "seed": self.seed,
            **by_precision(self.precision),
        }
        identity = hashlib.sha256(json.dumps(decides, sort_keys=True, default=str).encode()).hexdigest()[:16]
        return Task(identity, c, metric, b, smooth, shown)

    def curves_of(self, task: Task) -> dict[Need, str]:
        """Return the curves that a score is made of, and the ids under which they are stored; none for other scores."""
        if not isinstance(task.metric, int) or task.background is None:
            return {}
        metric = self.metrics[task.metric].metric
        assert isinstance(metric, CurveMetric)  # only these have a background
        where = (task.candidate, task.background, task.smooth)
        return {n: self._curve_ids[(*where, n.order, n.output, n.step)] for n in metric.needs(self.size)}

    @cached_property
    def _curve_ids(self) -> dict[tuple[Any, ...], str]:
        return {
            (t.candidate, t.background, t.smooth, t.metric.order, t.metric.output, t.metric.step): t.id
            for t in self.tasks
            if isinstance(t.metric, Need)
        }

    # ------------------------------------------------------------------ sizes

    def rows(self, tasks: Sequence[Task]) -> int:
        """Return the model rows that one image needs for ``tasks``."""
        labels, total = self.target.count(self.classifier.num_classes), 1
        searches: set[Adversary] = set()
        for group in self._groups(tasks):
            shared = self.candidates[group.candidate].shared
            searches |= {a for m in group.probes for a in self.metrics[m].metric.searches()}  # type: ignore[attr-defined]
            total += sum(self.metrics[m].metric.rows(labels, self.size) for m in group.probes)  # type: ignore[attr-defined]
            if group.remakes:
                calls = self.remake(group.candidate, Plan(1)).calls_per_image()
                made = sum(self.metrics[m].metric.maps() for m in group.remakes)  # type: ignore[attr-defined]
                total += made * (calls.forward + calls.backward)
            for b, needs in group.needs.items():
                points = self._points(needs)
                total += self.backgrounds[b].draws * sum(p.rows(labels, shared=shared) for p in points.values())
        total += sum(sum(a.passes(labels, self.classifier.capabilities)) for a in searches)
        return total + sum(self.backgrounds[b].draws for b in {t.background for t in tasks} if b is not None)

    def remake(self, candidate: int, plan: Plan) -> Sweep:
        """Return what makes maps of a candidate's method again, for labels that are given."""
        method = self.candidates[candidate].method
        assert method is not None  # only methods have tasks that make maps again
        return Sweep(self.classifier, [method], Target("label"), self.output, self.seed, plan, pool=self.pool)

    # ------------------------------------------------------------------ pictures

    def pictures(self, packer: Packer, loaded: Sequence[tuple[Content, LoadedImage, Sequence[Any]]]) -> list[Picture]:
        """Run the model on whole images; ``loaded`` has each one's content, pixels and boxes of the stored image."""
        pixels = to_pixels([image.pixels for _, image, _ in loaded], self.classifier)
        parts: list[Tensor] = []

        def write(inputs: Tensor, rows: slice) -> None:
            inputs.copy_(pixels[rows])

        packer.add(len(pixels), write, lambda logits, _: parts.append(logits))
        packer.flush()
        logits = torch.cat(parts)
        labels = self.target.columns(logits, torch.full((len(logits),), -1, device=logits.device))
        labels = labels.gather(1, logits.gather(1, labels).argsort(dim=1, descending=True, stable=True))
        return [
            Picture(content, pixels[i], logits[i], labels[i], self._boxes(image, boxes).to(pixels.device))
            for i, (content, image, boxes) in enumerate(loaded)
        ]

    def _boxes(self, image: LoadedImage, boxes: Sequence[Any]) -> Tensor:
        placed = [box_to_input(tuple(b), image.width, image.height, self.classifier.preprocessing) for b in boxes]
        kept = [b for b in placed if b[2] > b[0] and b[3] > b[1]]
        return torch.tensor(kept, dtype=torch.float32).view(-1, 4)

    # ------------------------------------------------------------------ scoring

    def score(
        self,
        packer: Packer,
        pictures: Sequence[Picture],
        tasks: Sequence[Task],
        stored: StoredCurves | None = None,
        read: frozenset[str] = frozenset(),
    ) -> Found:
        """Score pictures for ``tasks``; those whose ids are in ``read`` are made of ``stored`` curves."""
        found = Found()
        if not pictures:
            return found
        desk = _Desk(self, packer, pictures, found, stored or {})
        finish = [desk.begin(group) for group in self._groups(tasks, read)]
        desk.packer.flush()
        for end in finish:
            end()
        return found

    def _groups(self, tasks: Sequence[Task], read: frozenset[str] = frozenset()) -> list[_Group]:
        groups: dict[tuple[int, float], _Group] = {}
        for task in tasks:
            group = groups.setdefault((task.candidate, task.smooth), _Group(task.candidate, task.smooth))
            if task.id in read:
                group.read.append(task)
                continue
            group.first = group.first or task.id
            if isinstance(task.metric, Need):
                group.stored.append(task)
                continue
            metric = self.metrics[task.metric].metric
            if isinstance(metric, CurveMetric):
                assert task.background is not None  # curve metrics are asked for each background
                group.curves.append(task)
                needs = group.needs.setdefault(task.background, [])
                needs += [n for n in metric.needs(self.size) if n not in needs]
            elif isinstance(metric, MapMetric):
                group.maps[task.metric] = task.id
            elif isinstance(metric, ProbeMetric):
                group.probes[task.metric] = task.id
            elif isinstance(metric, RemakeMetric):
                group.remakes[task.metric] = task.id
        for group in groups.values():  # a stored curve whose metrics are finished already is made again
            for task in group.stored:
                assert task.background is not None
                assert isinstance(task.metric, Need)
                needs = group.needs.setdefault(task.background, [])
                needs += [task.metric] if task.metric not in needs else []
        return list(groups.values())

    def _points(self, needs: Sequence[Need]) -> dict[Order, Points]:
        pixels = self.size[0] * self.size[1]
        out: dict[Order, Points] = {}
        for order in dict.fromkeys(n.order for n in needs):
            inner = {
                labels: {k for n in needs if n.order == order and n.labels == labels for k in n.counts(pixels)[1:-1]}
                for labels in ("predicted", "all")
            }
            others = tuple(sorted(inner["all"]))
            out[order] = Points(tuple(sorted(inner["all"] | inner["predicted"])), others)
        return out


@dataclass
class _Group:
    """The tasks of one candidate under one smoothing: map and probe metrics by position, curves by background.

    Those in ``read`` are made of curves that are stored already.
    """

    candidate: int
    smooth: float
    first: str = ""
    maps: dict[int, str] = field(default_factory=dict)
    probes: dict[int, str] = field(default_factory=dict)
    remakes: dict[int, str] = field(default_factory=dict)
    curves: list[Task] = field(default_factory=list)
    stored: list[Task] = field(default_factory=list)
    read: list[Task] = field(default_factory=list)
    needs: dict[int, list[Need]] = field(default_factory=dict)


class _Desk:
    """The pictures of one unit, with what all methods share: label sets, orders of ties, backgrounds, blank answers."""

    def __init__(
        self, scorer: Scorer, packer: Packer, pictures: Sequence[Picture], found: Found, stored: StoredCurves
    ) -> None:
        self.scorer, self.packer, self.pictures, self.found = scorer, packer, pictures, found
        self.stored = stored
        self.ids = [p.image_id for p in pictures]
        self.images = torch.stack([p.pixels for p in pictures])
        self.labels = torch.stack([p.labels for p in pictures])
        self.logits = torch.stack([p.logits for p in pictures])
        h, w = scorer.size
        self.ties = tie_order(self.ids, h * w, scorer.seed, self.images.device)
        self._replacements: dict[tuple[int, int], Replacement] = {}
        self._blank: dict[tuple[int, Output], Tensor] = {}
        self._reached: dict[Adversary, Tensor] = {}

    def replacement(self, b: int, draw: int) -> Replacement:
        """Return what replaces pixels, made once for all methods."""
        if (b, draw) not in self._replacements:
            s = self.scorer
            self._replacements[b, draw] = s.backgrounds[b].replacement(
                s.classifier, self.images, self.ids, s.seed, draw, s.pool
            )
        return self._replacements[b, draw]

    def blank(self, b: int, output: Output) -> Tensor:
        """Return the outputs (N, T) of images without any of their pixels, complete after a flush."""
        if (b, output) not in self._blank:
            into = torch.zeros(self.labels.shape, dtype=torch.float64, device=self.labels.device)
            self._blank[b, output] = into
            draws = self.scorer.backgrounds[b].draws
            for draw in range(draws):
                replacement = self.replacement(b, draw)
                blank(self.packer, self.images, self.labels, replacement, {output: into}, 1 / draws)
        return self._blank[b, output]

    def reach(self, i: int, heard: Heard, adversary: Adversary) -> Tensor:
        """Return what an adversary finds in picture ``i``, (T - 1,); searched once, in all pictures."""
        if adversary not in self._reached:
            s, images = self.scorer, self.images
            behind = fixed_background(adversary.background, s.classifier, images, self.ids, s.seed)
            model = ModelCalls(s.classifier, self.packer.plan, Calls())
            victims = Victims(images, behind, tuple(self.ids), self.labels, s.seed)
            self._reached[adversary] = search(adversary, victims, model)
            self.packer.count(model.calls)
        found = self._reached[adversary][i]
        heard.finite &= bool(found.isfinite().all())
        return found

    # ------------------------------------------------------------------ one method under one smoothing

    def begin(self, group: _Group) -> Callable[[], None]:
        """Ask for all that a group needs; what is returned makes its rows once the answers are there."""
        candidate = self.scorer.candidates[group.candidate]
        count, labels = self.labels.shape
        device = self.images.device
        mapped = torch.zeros(count, labels, dtype=torch.bool, device=device)
        records = {
            b: Record(self.scorer._points(needs), tuple({n.output for n in needs}), count, labels, device)
            for b, needs in group.needs.items()
        }
        for b, needs in group.needs.items():
            for output in {n.output for n in needs}:
                self.blank(b, output)
        pending: list[Callable[[], None]] = [partial(self._reread, group, task) for task in group.read]
        seen: dict[int, Seen] = {}
        for i, picture in enumerate(self.pictures if group.first else ()):
            values = self._maps(candidate, picture, group)
            if values is None:
                continue
            mapped[i, : labels if candidate.shared else len(values)] = True
            one = self._seen(candidate, picture, values)
            pending += self._look(group, i, one)
            if group.remakes:
                seen[i] = replace(one, maps=one.maps[:1].clone())  # those of all labels would be held for all pictures
            self._sweep(candidate.shared, i, values, records)
        self._remake(group, seen)

        def end() -> None:
            for finish in pending:
                finish()
            for b, record in records.items():
                self._read(group, b, record, mapped)

        return end

    def _maps(self, candidate: Candidate, picture: Picture, group: _Group) -> Tensor | None:
        """Return a picture's maps (k, H, W) at the size of the input, smoothed; None where there are none to score."""
        raw = candidate.maps(picture)
        if raw is None:
            return None
        if not bool(raw.isfinite().all()):
            message = "The map is not finite (NaN or infinite), so it has no score."
            self.found.failures.append((picture.image_id, candidate.name, group.first, "map", message))
            return None
        values = raw.float()
        if tuple(values.shape[1:]) != self.scorer.size:
            values = F.interpolate(values.unsqueeze(1), self.scorer.size, mode="bilinear", align_corners=False).squeeze(
                1
            )
        if group.smooth:
            values = gaussian_blur(values.unsqueeze(1), group.smooth).squeeze(1)
        return values

    def _seen(self, candidate: Candidate, picture: Picture, values: Tensor) -> Seen:
        if candidate.shared:
            values = values.expand(len(picture.labels), -1, -1)
        return Seen(
            picture.image_id,
            self.scorer.seed,
            picture.pixels,
            picture.logits,
            picture.labels,
            values,
            picture.boxes,
            self.scorer.pool,
        )

    def _look(self, group: _Group, i: int, seen: Seen) -> list[Callable[[], None]]:
        """Score the metrics that look at the maps, ask for those that ask; return what finishes the latter."""
        picture = self.pictures[i]
        for m, task in group.maps.items():
            metric = self.scorer.metrics[m].metric
            assert isinstance(metric, MapMetric)
            self._put(task, group, m, None, picture, metric.score(seen))
        finish: list[Callable[[], None]] = []
        for m, task in group.probes.items():
            metric = self.scorer.metrics[m].metric
            assert isinstance(metric, ProbeMetric)
            with self.packer.listening() as heard:
                value_of = metric.ask(replace(seen, reach=partial(self.reach, i, heard)), self.packer)
            finish.append(partial(self._later, task, group, m, picture, value_of, heard))
        return finish

    def _remake(self, group: _Group, seen: dict[int, Seen]) -> None:
        """Score the metrics that have maps made again, of all pictures that have a map."""
        pictures, plan = [self.pictures[i] for i in seen], self.packer.plan
        maker = Maker(partial(self.scorer.remake, group.candidate, plan), self.packer.count, plan.batch)
        for m, task in group.remakes.items():
            metric = self.scorer.metrics[m].metric
            assert isinstance(metric, RemakeMetric)
            for number, value in remade(metric, seen.values(), maker):
                if value is not None:
                    self._put(task, group, m, None, pictures[number], value)
                else:
                    self._fail(task, group, m, pictures[number], "a map that it makes again")

    def _later(
        self, task: str, group: _Group, m: int, picture: Picture, value_of: Callable[[], Tensor], heard: Heard
    ) -> None:
        value = value_of() if heard.finite else None
        if value is not None and heard.finite:  # the value may have heard of more answers
            self._put(task, group, m, None, picture, value)
        else:
            self._fail(task, group, m, picture, "an answer of the model to its questions")

    def _fail(self, task: str, group: _Group, m: int, picture: Picture, what: str) -> None:
        name = self.scorer.candidates[group.candidate].name
        message = f"{self.scorer.metrics[m].label}: {what} is not finite (NaN or infinite)."
        self.found.failures.append((picture.image_id, name, task, "model", message))

    def _sweep(self, shared: bool, i: int, values: Tensor, records: dict[int, Record]) -> None:
        many = max(1, _RANKED_BYTES // (4 * values[0].numel()))
        if not any(p.first for record in records.values() for p in record.points.values()):
            return
        only = not any(p.others for record in records.values() for p in record.points.values())
        wanted = values[:1] if only else values
        for at in range(0, len(wanted), many):
            some = wanted[at : at + many]
            columns = torch.arange(at, at + len(some), device=values.device)
            maps = Maps(
                falling_ranks(some, self.ties[i].expand(len(some), -1)), torch.full_like(columns, i), columns, shared
            )
            for b, record in records.items():
                draws = self.scorer.backgrounds[b].draws
                for draw in range(draws):
                    sweep(self.packer, self.images, self.labels, maps, self.replacement(b, draw), record, 1 / draws)

    # ------------------------------------------------------------------ rows

    def _read(self, group: _Group, b: int, record: Record, mapped: Tensor) -> None:
        """Turn the answers under one background into scores and curves."""
        curves = self._assemble(b, record, mapped)
        broken = record.broken()
        for output in record.wanted:
            broken |= ~self.blank(b, output).isfinite().all(1)
        broken &= mapped.any(1)
        message = "The model's answer to a masked image is not finite (NaN or infinite)."
        name = self.scorer.candidates[group.candidate].name
        for i in broken.nonzero().flatten().tolist():
            self.found.failures.append((self.ids[i], name, group.first, "model", message))
        whole = [i for i, bad in enumerate(broken.tolist()) if not bad]
        for task in group.curves:
            if task.background == b:
                assert isinstance(task.metric, int)
                metric = self.scorer.metrics[task.metric].metric
                assert isinstance(metric, CurveMetric)
                values = metric.score(curves, self.scorer.size).cpu()
                for i in whole:
                    self._put(task.id, group, task.metric, b, self.pictures[i], values[i])
        for task in group.stored:
            if task.background == b:
                assert isinstance(task.metric, Need)
                self._put_curve(task.id, group, task.metric, b, curves, whole)

    def _reread(self, group: _Group, task: Task) -> None:
        """Score a metric off stored curves."""
        assert isinstance(task.metric, int)
        metric, size = self.scorer.metrics[task.metric].metric, self.scorer.size
        assert isinstance(metric, CurveMetric)
        pixels = size[0] * size[1]
        recipes = self.scorer.curves_of(task)
        clean = answers(self.logits, self.labels, tuple({n.output for n in recipes}))
        values: dict[tuple[Order, Output], Tensor] = {}
        for need, recipe in recipes.items():
            shape = (*self.labels.shape, len(need.counts(pixels)))
            found = torch.full(shape, float("nan"), dtype=torch.float64)
            for i, image_id in enumerate(self.ids):
                for position, curve in self.stored[recipe, image_id].items():
                    found[i, position] = torch.tensor(curve, dtype=torch.float64)
            values[need.order, need.output] = found.to(self.labels.device)
        counts = {need.order: need.counts(pixels) for need in recipes}
        scores = metric.score(Curves(clean, values, counts, pixels), size).cpu()
        for i, picture in enumerate(self.pictures):
            self._put(task.id, group, task.metric, task.background, picture, scores[i])

    def _assemble(self, b: int, record: Record, mapped: Tensor) -> Curves:
        """Put the ends, which all maps of an image share, to the points between."""
        pixels = self.images.shape[2] * self.images.shape[3]
        whole = answers(self.logits, self.labels, record.wanted)
        values = {}
        for order in record.points:
            for output in record.wanted:
                ends = [self.blank(b, output), whole[output]]
                if order == "delete":
                    ends.reverse()
                first, last = (e.masked_fill(~mapped, float("nan")).unsqueeze(2) for e in ends)
                values[order, output] = torch.cat([first, record.read(order, output), last], 2)
        counts = {order: (0, *points.every, pixels) for order, points in record.points.items()}
        return Curves(whole, values, counts, pixels)

    def _put(self, task: str, group: _Group, m: int, b: int | None, picture: Picture, values: Tensor) -> None:
        rows = self.found.scores
        whole_image = values.ndim == 0
        labels = [None] if whole_image else picture.labels[: len(values)].tolist()
        for position, (label, value) in enumerate(zip(labels, values.double().view(-1).tolist(), strict=True)):
            if value == value:  # NaN: there is none by definition
                rows["label"].append(label)
                rows["position"].append(None if whole_image else position)
                rows["value"].append(value)
                rows["recipe"].append(task)
                rows["metric"].append(self.scorer.metrics[m].label)
                self._common(rows, group, b, picture)

    def _put_curve(self, task: str, group: _Group, need: Need, b: int, curves: Curves, whole: Sequence[int]) -> None:
        rows, counts = self.found.curves, need.counts(curves.pixels)
        found = curves.read(need).cpu()
        fractions = [k / curves.pixels for k in counts]
        for i in whole:
            for position, (label, values) in enumerate(zip(self.pictures[i].labels.tolist(), found[i], strict=True)):
                if not bool(values.isfinite().all()):
                    continue
                rows["label"].append(label)
                rows["position"].append(position)
                rows["recipe"].append(task)
                rows["curve"].append(need.order)
                rows["output"].append(need.output)
                rows["fractions"].append(fractions)
                rows["values"].append(values.tolist())
                self._common(rows, group, b, self.pictures[i])

    def _common(self, rows: Columns, group: _Group, b: int | None, picture: Picture) -> None:
        rows["image_id"].append(picture.image_id)
        rows["model"].append(self.scorer.classifier.name)
        rows["method"].append(self.scorer.candidates[group.candidate].name)
        rows["background"].append(None if b is None else self.scorer.backgrounds[b].label)
        rows["smooth"].append(group.smooth)
