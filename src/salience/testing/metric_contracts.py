"""The contracts that every metric must keep, as functions to call from a test.

    from salience.testing.metric_contracts import METRIC_CONTRACTS
    for check in METRIC_CONTRACTS:
        check("my-metric")

Each raises ``AssertionError`` with what was broken. They run on a classifier whose truth is known: four classes, each
as likely as its corner of the image is bright.
"""

from __future__ import annotations

import csv
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor, nn

from salience.evaluating import evaluate
from salience.explaining import RunSettings
from salience.metrics.metric import CurveMetric
from salience.metrics.registry import parse_metric
from salience.models.classifier import Classifier
from salience.scores import Scores
from salience.store.maps import Maps

SIDE, PATCH, CLASSES = 16, 4, 4
CORNERS = ((0, 0), (0, SIDE - PATCH), (SIDE - PATCH, 0), (SIDE - PATCH, SIDE - PATCH))
Floats = npt.NDArray[np.float32]


class Corners(nn.Module):
    """Logit c is eight times the mean brightness of corner c; a convolution and a head, so weights can be shuffled."""

    def __init__(self) -> None:
        super().__init__()
        self.look = nn.Conv2d(3, 1, PATCH, PATCH, bias=False)
        self.head = nn.Linear((SIDE // PATCH) ** 2, CLASSES, bias=False)
        grid = SIDE // PATCH
        with torch.no_grad():
            self.look.weight.fill_(1 / (3 * PATCH**2))
            self.head.weight.zero_()
            for c, (row, column) in enumerate(CORNERS):
                self.head.weight[c, row // PATCH * grid + column // PATCH] = 8

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (N, 4)."""
        logits: Tensor = self.head(torch.relu(self.look(x)).flatten(1))
        return logits


class Speechless(Corners):
    """Answers the images of :func:`corner_images` as they are, and anything else with NaN."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("known", torch.from_numpy(corner_images()).permute(0, 3, 1, 2).float() / 255)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (N, 4)."""
        known: Tensor = self.get_buffer("known")
        off = torch.stack([(x - image).abs().flatten(1).amax(1) for image in known]).amin(0)
        return torch.where(off.unsqueeze(1) < 1e-6, super().forward(x), float("nan"))


def corner_classifier() -> Classifier:
    """Return a classifier of which every pixel's part is known."""
    return Classifier(Corners(), size=SIDE, name="corners")


def corner_images(count: int = 6) -> npt.NDArray[np.uint8]:
    """Return images (count, 16, 16, 3): corner ``i % 4`` is bright, the next one less, over faint noise."""
    images = np.random.Generator(np.random.Philox(0)).integers(0, 20, (count, SIDE, SIDE, 3)).astype(np.uint8)
    for i in range(count):
        for step, level in ((0, 255), (1, 140)):
            r, c = CORNERS[(i + step) % CLASSES]
            images[i, r : r + PATCH, c : c + PATCH] = level
    return images


def corner_maps(kind: str, names: Sequence[str]) -> Maps:
    """Return maps of all labels of the images ``names``.

    ``good``: the predicted label's map shows its corner, and so do those of wrong labels (which do not produce them).
    ``bad``: the predicted label's map shows all but its corner, those of wrong labels show their own. ``own``: every
    label's map shows its own corner. ``noise``: signed noise.
    """
    values = np.zeros((len(names), CLASSES, SIDE, SIDE), dtype=np.float32)
    for i in range(len(names)):
        for label in range(CLASSES):
            if kind == "noise":
                draw = np.random.Generator(np.random.Philox(100 * i + label))
                values[i, label] = draw.normal(size=(SIDE, SIDE))
                continue
            shown = i % CLASSES if kind in ("good", "bad") and (kind == "good" or label == i % CLASSES) else label
            r, c = CORNERS[shown]
            values[i, label, r : r + PATCH, c : c + PATCH] = 1
            if kind == "bad" and label == i % CLASSES:
                values[i, label] = 1 - values[i, label]
    ids = tuple(name for name in names for _ in range(CLASSES))
    return Maps(
        values=values.reshape(-1, SIDE, SIDE),
        image_ids=ids,
        targets=np.tile(np.arange(CLASSES), len(names)),
        probabilities=np.zeros((len(ids), CLASSES), dtype=np.float32),
        scores=np.zeros(len(ids), dtype=np.float32),
        labels=np.full(len(ids), -1),
        model="corners",
        method=kind,
        signed=bool((values < 0).any()),
        input_size=(SIDE, SIDE),
    )


@contextmanager
def _written(count: int = 6) -> Iterator[tuple[Path, list[str]]]:
    """Write the images with the boxes of their bright corners; yield the folder and the names."""
    with tempfile.TemporaryDirectory() as folder:
        names = [f"{i}.png" for i in range(count)]
        for name, image in zip(names, corner_images(count), strict=True):
            Image.fromarray(image).save(Path(folder) / name)
        yield Path(folder), names


def _manifest(folder: Path, names: Sequence[str]) -> Path:
    path = folder / f"{'-'.join(n.removesuffix('.png') for n in names)}.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["file_name", "boxes"])
        for name in names:
            r, c = CORNERS[int(name.removesuffix(".png")) % CLASSES]
            writer.writerow([name, f"[[{c}, {r}, {c + PATCH}, {r + PATCH}]]"])
    return path


def _score(metric: str, folder: Path, names: Sequence[str], maps: Sequence[Maps], **how: Any) -> Scores:
    given = {
        "metrics": [metric],
        "background": "black",
        "labels": "all",
        "pool": folder,
        "settings": RunSettings(batch=8, memory_format="contiguous", threads=1),
        **how,
    }
    model = how.pop("model", None) or corner_classifier()
    given.pop("model", None)
    methods = ["gradient"] if _needs_methods(metric) else []
    return evaluate(model, _manifest(folder, names), methods, maps=list(maps), **given)


def _needs_methods(metric: str) -> bool:
    """Tell whether a metric makes maps of its own: it then scores methods, not stored maps."""
    return bool(getattr(parse_metric(metric)[0].metric, "remakes", False))


def _values(scores: Scores, method: str | None = None) -> dict[tuple[Any, ...], float]:
    return {
        (r["image_id"], r["method"], r["metric"], r["label"]): r["value"]
        for r in scores.table.to_pylist()
        if method in (None, r["method"])
    }


# ---------------------------------------------------------------------- the contracts


def check_batch_invariance(metric: str) -> None:
    """The score of an image is the same, byte for byte, alone, in any company and in any order."""
    with _written() as (folder, names):
        maps = [corner_maps(kind, names) for kind in ("own", "noise")]
        together = _values(_score(metric, folder, names, maps))
        assert together, f"{metric}: no image has a score"
        for some in (names[::-1], names[2:3], names[3:5]):
            for key, value in _values(_score(metric, folder, some, maps)).items():
                assert value == together[key], f"{metric}: {key} is {value} beside others and {together[key]} alone"


def check_range(metric: str) -> None:
    """Values stay in the declared range, for sensible maps and for noise."""
    traits = parse_metric(metric)[0].metric.traits
    with _written() as (folder, names):
        maps = [corner_maps(kind, names) for kind in ("good", "bad", "own", "noise")]
        for key, value in _values(_score(metric, folder, names, maps)).items():
            within = traits.low <= value <= traits.high
            assert within, f"{metric}: {key} is {value}, not in {traits.low} to {traits.high}"


def check_direction(metric: str) -> None:
    """A map that tells the truth scores better than one that does not (a control finds fault with neither)."""
    item = parse_metric(metric)[0]
    traits = item.metric.traits
    if traits.direction == "neither" or traits.family == "control" or _needs_methods(metric):
        return
    better, worse = ("own", "good") if traits.family == "label sensitivity" else ("good", "bad")
    with _written() as (folder, names):
        scores = _score(metric, folder, names, [corner_maps(kind, names) for kind in (better, worse)])
        means = {r["method"]: r["mean"] for r in scores.ranking(item.label)}
    if means[better] == means[worse]:
        raise AssertionError(f"{metric}: the truth and its opposite score the same, {means[better]}")
    found = "higher" if means[better] > means[worse] else "lower"
    assert found == traits.direction, f"{metric}: it says that {traits.direction} is better, and {means} says otherwise"


def check_sign(metric: str) -> None:
    """A signed map is treated as declared: raw, by absolute value, or by its positive part."""
    item = parse_metric(metric)[0]
    sign = item.metric.traits.sign
    if _needs_methods(metric):
        return
    with _written() as (folder, names):
        raw = replace(corner_maps("noise", names), method="raw")
        absolute = replace(raw, values=np.abs(raw.values), method="absolute")
        positive = replace(raw, values=raw.values.clip(min=0), method="positive")
        scores = _score(metric, folder, names, [raw, absolute, positive])
        found = {m: {(k[0], k[3]): v for k, v in _values(scores, m).items()} for m in ("raw", "absolute", "positive")}
    if sign == "raw" and set(found["raw"].values()) <= {0.0, 1.0}:
        return  # a yes or no may well be the same
    if sign == "raw":
        assert found["raw"] != found["absolute"], f"{metric}: negative values do not count, though it says raw"
    elif sign == "none":
        assert found["raw"] == found["absolute"] == found["positive"], f"{metric}: the map counts, though it says none"
    else:
        assert found["raw"] == found[sign], f"{metric}: signed maps are not scored by their {sign} values"


def check_nan_is_a_failure(metric: str) -> None:
    """A map that is not finite becomes a row of the failures; all other scores are what they would be."""
    if _needs_methods(metric):
        return
    with _written() as (folder, names):
        whole = corner_maps("own", names)
        broken = replace(whole, values=whole.values.copy())
        broken.values[4 * 2 : 4 * 3, 0, 0] = np.nan
        scores = _score(metric, folder, names, [broken])
        failed = [(f["image_id"], f["kind"]) for f in scores.failures if f["method"] == "own"]
        assert failed == [(names[2], "map")], f"{metric}: failures are {scores.failures}"
        good = _values(_score(metric, folder, names, [whole]), "own")
        for key, value in _values(scores, "own").items():
            assert key[0] != names[2], f"{metric}: a map of NaN has a score"
            assert value == good[key], f"{metric}: a neighbour's NaN shows"


def check_nan_answers_are_failures(metric: str) -> None:
    """Where the model answers the metric's questions with no number, there is a failure or a score, never nothing."""
    with _written() as (folder, names):
        maps = [corner_maps("own", names)]
        healthy = _score(metric, folder, names, maps)
        speechless = Classifier(Speechless(), size=SIDE, name="corners")
        broken = _score(metric, folder, names, maps, model=speechless)
        told = {(r["image_id"], r["method"]) for r in broken.table.to_pylist()}
        told |= {(f["image_id"], f["method"]) for f in broken.failures}
        for row in healthy.table.to_pylist():
            key = (row["image_id"], row["method"])
            assert key in told, f"{metric}: {key} has neither a score nor a failure"


def check_model_and_generators_left_as_found(metric: str) -> None:
    """Weights, flags, hooks and the global generators are as before."""
    model = corner_classifier()
    before = {k: v.clone() for k, v in model.module.state_dict().items()}
    flags = [p.requires_grad for p in model.module.parameters()]
    state = torch.random.get_rng_state()
    with _written(3) as (folder, names):
        _score(metric, folder, names, [corner_maps("own", names)], model=model)
    assert all(torch.equal(v, before[k]) for k, v in model.module.state_dict().items()), f"{metric}: weights changed"
    assert [p.requires_grad for p in model.module.parameters()] == flags, f"{metric}: flags changed"
    assert not any(m._forward_hooks or m._backward_hooks for m in model.module.modules()), f"{metric}: a hook stayed"
    assert torch.equal(torch.random.get_rng_state(), state), f"{metric}: a global random generator was used"


def check_describes_itself(metric: str) -> None:
    """Direction, range, sign, cost and source are told."""
    item = parse_metric(metric)[0]
    traits = item.metric.traits
    assert traits.summary, f"{metric}: it has no summary"
    assert not traits.summary.endswith("."), f"{metric}: its summary ends with a full stop"
    assert traits.reference, f"{metric}: it has no reference"
    assert traits.details, f"{metric}: it does not say what is published and what is not"
    assert traits.low < traits.high, f"{metric}: its range is empty"
    assert item.metric.cost(10, (224, 224)), f"{metric}: it does not say what it costs"
    for name in item.metric.settings():
        told = f"{type(item.metric).__doc__}"
        assert name in told, f"{metric}: its setting {name!r} is not documented"
    if isinstance(item.metric, CurveMetric):
        assert item.metric.needs((SIDE, SIDE)), f"{metric}: it reads no curve"


METRIC_CONTRACTS: tuple[Callable[[str], None], ...] = (
    check_batch_invariance,
    check_range,
    check_direction,
    check_sign,
    check_nan_is_a_failure,
    check_nan_answers_are_failures,
    check_model_and_generators_left_as_found,
    check_describes_itself,
)
