"""Whether changing a concept's pixels changes the predictions: fills of its segments against area-matched others."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from salience.comparison.attributing import Attributions
from salience.comparison.confirmation import Drops
from salience.comparison.frame import to_input
from salience.comparison.segments import area_matched
from salience.comparison.stage import Made, identify, workers
from salience.data.base import ImageRef, ImageSource
from salience.data.decode import LoadedImage
from salience.data.preprocessing import Preprocessing
from salience.engine.fills import fill
from salience.engine.halving import run_halving
from salience.engine.loader import load_now
from salience.engine.masked import Packer
from salience.engine.plan import Plan, by_precision
from salience.engine.random import row_key
from salience.engine.runner import UNIT_CALLS, to_pixels
from salience.engine.scalars import Output, score
from salience.engine.work import OnRows, unheard
from salience.errors import ImagesError
from salience.models.classifier import Classifier
from salience.store.packed import LabelMaps, StageRows
from salience.store.run import Run
from salience.store.unit import Content

FILLS = ("blur", "mean")
"""What takes the place of pixels: the image under a wide Gaussian, and its mean colour."""
_VERSION = 1
_IMAGES = 32


@dataclass(frozen=True)
class Trial:
    """One concept in one image: the segments that are filled, and those of other concepts that are filled instead."""

    image_id: str
    concept: int
    segments: tuple[int, ...]
    control: tuple[int, ...]


@dataclass
class Intervener:
    """Asks one model about filled images, unit by unit.

    Parameters
    ----------
    plan
        How the model is run; halved where memory runs out.
    trials
        By image id.
    scores
        The scalar of each image as it is, by image id.
    targets
        The class whose scalar is asked for, by image id.
    partition
        The recipe of the label maps.
    view
        How the model's input lies in an image.
    """

    classifier: Classifier
    plan: Plan
    source: ImageSource
    labels: LabelMaps
    trials: Mapping[str, Sequence[Trial]]
    scores: Mapping[str, float]
    targets: Mapping[str, int]
    output: Output
    partition: str
    view: Preprocessing
    fills: tuple[str, ...] = FILLS
    on_rows: OnRows = unheard
    description: dict[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        trials = [[t.image_id, t.concept, t.segments, t.control] for some in self.trials.values() for t in some]
        asked = [trials, {i: self.targets[i] for i in self.trials}]
        self.description = {
            "model": self.classifier.name,
            "what": "drops",
            "version": _VERSION,
            "weights": self.classifier.fingerprint(),
            "output": self.output,
            "partition": self.partition,
            "fills": list(self.fills),
            **by_precision(self.plan.precision),
            "trials": hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest(),
        }
        self.recipe = identify(self.description)

    def unit_images(self) -> int:
        """Return how many images keep a unit near 4096 model calls."""
        return max(1, min(UNIT_CALLS // max(1, self.calls_per_image()), _IMAGES))

    def calls_per_image(self) -> int:
        """Return the largest number of rows that an image needs."""
        return max((2 * len(self.fills) * len(t) for t in self.trials.values()), default=0)

    def compute(self, refs: Sequence[ImageRef]) -> Made:
        """Ask for all trials of some images; with smaller batches where memory runs out."""
        with ThreadPoolExecutor(workers(), thread_name_prefix="decode") as threads:
            read = partial(load_now, self.source, preprocessing=self.classifier.preprocessing)
            loaded = list(threads.map(read, refs))
        made, self.plan = run_halving(self.classifier, self.plan, partial(self._ask, refs, loaded))
        return made

    def _ask(
        self, refs: Sequence[ImageRef], loaded: Sequence[tuple[Content, LoadedImage] | Exception], plan: Plan
    ) -> Made:
        packer = Packer(self.classifier, plan, self.on_rows)
        made = Made()
        asked: list[tuple[Content, Tensor]] = []
        for ref, found in zip(refs, loaded, strict=True):
            if isinstance(found, Exception):
                told = str(found) if isinstance(found, ImagesError) else f"{ref.image_id} cannot be read: {found}"
                made.fail(ref.image_id, self.classifier.name, self.recipe, told)
            else:
                asked.append((found[0], self._add(packer, *found)))
        packer.flush()
        for content, answers in asked:
            made.images.append(content)
            if not bool(answers.isfinite().all()):
                message = "The model's output for this image with filled segments is not finite (NaN or infinite)."
                made.fail(content.image_id, self.classifier.name, self.recipe, message, content.content_hash)
                continue
            self._rows(made, content, answers.numpy())
        made.forward = packer.calls.forward
        return made

    def _add(self, packer: Packer, content: Content, image: LoadedImage) -> Tensor:
        """Ask for an image's rows: (trials, fills, 2), the concept's and the control's; return where answers come."""
        trials = self.trials[content.image_id]
        pixels = to_pixels([image.pixels], self.classifier)
        fills = torch.cat([fill(name, pixels).expand_as(pixels) for name in self.fills])
        masks = torch.from_numpy(self._masks(content)).to(pixels.device)
        shape = (len(trials), len(self.fills), 2)
        index = torch.arange(int(np.prod(shape)), device=pixels.device)
        which_mask = index // (2 * len(self.fills)) * 2 + index % 2
        which_fill = index // 2 % len(self.fills)
        answers = torch.full((len(index),), float("nan"), dtype=torch.float64)
        target = self.targets[content.image_id]

        def write(inputs: Tensor, rows: slice) -> None:
            torch.where(masks[which_mask[rows]].unsqueeze(1), fills[which_fill[rows]], pixels, out=inputs)

        def take(logits: Tensor, rows: slice) -> None:
            wanted = torch.full((len(logits),), target, dtype=torch.int64, device=logits.device)
            answers[rows] = score(self.output, logits.double(), wanted).cpu()

        packer.add(len(index), write, take)
        return answers

    def _masks(self, content: Content) -> npt.NDArray[np.bool_]:
        """Return the concept's and the control's pixels of each trial over the model's input, (2 * trials, H, W)."""
        labels = to_input(self.labels.read(content.image_id), self.view, (content.height, content.width))
        sides = [side for t in self.trials[content.image_id] for side in (t.segments, t.control)]
        return np.stack([np.isin(labels, side) for side in sides])

    def _rows(self, made: Made, content: Content, answers: npt.NDArray[np.float64]) -> None:
        labels = self.labels.read(content.image_id)
        area = np.bincount(labels.ravel()) / labels.size
        trials = self.trials[content.image_id]
        for trial, by_fill in zip(trials, answers.reshape(len(trials), len(self.fills), 2), strict=True):
            for name, (changed, control) in zip(self.fills, by_fill.tolist(), strict=True):
                made.add(
                    "drops",
                    {
                        "recipe": self.recipe,
                        "image_id": content.image_id,
                        "model": self.classifier.name,
                        "target": self.targets[content.image_id],
                        "concept": trial.concept,
                        "fill": name,
                        "area": float(area[list(trial.segments)].sum()),
                        "control_area": float(area[list(trial.control)].sum()),
                        "clean": self.scores[content.image_id],
                        "changed": changed,
                        "control": control,
                    },
                )


def choose_trials(
    attributions: Attributions,
    concept: npt.NDArray[np.integer],
    worth: Sequence[int],
    labels: LabelMaps,
    most: int,
    seed: int,
) -> dict[str, list[Trial]]:
    """Choose in which images each concept's pixels are changed, and the control segments of each.

    Parameters
    ----------
    concept
        Of each segment (P,).
    worth
        The concepts to test.
    most
        Images of a concept; of more, as many are drawn.

    Returns
    -------
    dict
        By image id, in the order of the images. Where a concept leaves no other segments, there is no trial of it.
    """
    image_of = attributions.image_of
    chosen: dict[int, list[int]] = {}
    for c in worth:
        places = np.unique(image_of[concept == c])
        keys = [row_key(seed, f"intervention {c}", attributions.images[i]) for i in places.tolist()]
        for i in places[np.argsort(np.array(keys, dtype=np.uint64), kind="stable")[:most]].tolist():
            chosen.setdefault(i, []).append(c)
    trials: dict[str, list[Trial]] = {}
    for i in sorted(chosen):
        start, end = attributions.starts[i : i + 2].tolist()
        image_id, own, area = attributions.images[i], concept[start:end], attributions.area[start:end]
        for c in sorted(chosen[i]):
            segments = np.flatnonzero(own == c)
            key = row_key(seed, f"control {c}", image_id)
            control = area_matched(labels.read(image_id), area, segments, segments, key)
            if len(control):
                made = Trial(image_id, c, tuple(segments.tolist()), tuple(int(s) for s in control))
                trials.setdefault(image_id, []).append(made)
    return trials


def read_drops(
    run: Run, recipes: Mapping[str, str], images: Sequence[str], count: int, tried: Iterable[str]
) -> dict[str, dict[str, Drops]]:
    """Return how far scalars fell, by fill and model, (I, count) each; NaN where a concept was not changed in an image.

    Parameters
    ----------
    recipes
        Of the table ``drops``, by model.
    images
        Ids of the I images.
    count
        Number of concepts.
    tried
        The images in which some concept was changed.
    """
    place = {i: n for n, i in enumerate(images)}
    out: dict[str, dict[str, Drops]] = {name: {} for name in FILLS}
    for model, recipe in recipes.items():
        stored = StageRows(run, "drops", recipe)
        real = {name: np.full((len(images), count), np.nan) for name in FILLS}
        control = {name: np.full((len(images), count), np.nan) for name in FILLS}
        for image_id in tried:
            for row in stored.rows(image_id) if image_id in stored else ():
                cell = place[image_id], row["concept"]
                real[row["fill"]][cell] = row["clean"] - row["changed"]
                control[row["fill"]][cell] = row["clean"] - row["control"]
        for name in FILLS:
            out[name][model] = Drops(real[name], control[name])
    return _everywhere(out)


def _everywhere(drops: dict[str, dict[str, Drops]]) -> dict[str, dict[str, Drops]]:
    """Leave out what some model could not answer: all are compared on the same images."""
    for of in drops.values():
        missing = np.any([np.isnan(d.net) for d in of.values()], axis=0)
        for model, d in of.items():
            of[model] = Drops(np.where(missing, np.nan, d.real), np.where(missing, np.nan, d.control))
    return drops
