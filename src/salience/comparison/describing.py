"""Embedding the segments of images, unit by unit: in this process, or as work that workers can do."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from salience.comparison.descriptors import describe
from salience.comparison.embedding import embed
from salience.comparison.encoders import Encoder, ModelEncoder
from salience.comparison.result import STAGE
from salience.comparison.stage import SEGMENTS, Made, workers
from salience.data.base import ImageRef, ImageSource, RawImage
from salience.data.decode import decode
from salience.data.preprocessing import Preprocessing
from salience.engine.crew import Task
from salience.engine.passes import Calls
from salience.engine.plan import Plan
from salience.engine.work import Compute, Computed, OnRows, Part, Work, crash_unit, recorded_content, unheard
from salience.errors import SalienceError
from salience.models.classifier import Classifier
from salience.store.packed import LabelMaps, pack
from salience.store.run import Run
from salience.store.unit import Content, StageUnit

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Describer:
    """Embeds the segments of images; colour and texture describe them where there is no encoder.

    Parameters
    ----------
    frame
        How images come into the frame of the label maps.
    recipe
        Of the embedding.
    blame
        The model whose name failures bear.
    """

    encoder: Encoder | None
    source: ImageSource
    labels: LabelMaps
    frame: Preprocessing
    recipe: str
    blame: str

    def compute(self, refs: Sequence[ImageRef], threads: ThreadPoolExecutor) -> Made:
        """Embed the segments of some images."""
        made, pixels = Made(), []
        for ref, found in zip(refs, threads.map(self._look, refs), strict=True):
            if isinstance(found, Exception):
                made.fail(ref.image_id, self.blame, self.recipe, told(ref, found))
            else:
                made.images.append(found[0])
                pixels.append(found[1])
        ids = [content.image_id for content in made.images]
        values = self._embed(pixels, [self.labels.read(i) for i in ids], threads)
        for image_id, rows in zip(ids, values, strict=True):
            made.add("embeddings", self._row(image_id, rows))
        return made

    def _look(self, ref: ImageRef) -> tuple[Content, Pixels] | Exception:
        view = self.frame if self.encoder is None else replace(self.frame, size=self.encoder.size)
        try:
            return load_bytes(self.source, ref, view)
        except Exception as error:
            return error

    def _embed(
        self, pixels: Sequence[Pixels], labels: Sequence[npt.NDArray[np.int32]], threads: ThreadPoolExecutor
    ) -> list[npt.NDArray[np.float32]]:
        if self.encoder is None:
            return list(threads.map(describe, pixels, labels))
        if not pixels:
            return []
        return embed(self.encoder, np.stack(pixels), labels)

    def _row(self, image_id: str, values: npt.NDArray[np.float32]) -> dict[str, Any]:
        return {
            "recipe": self.recipe,
            "image_id": image_id,
            "segments": values.shape[0],
            "dimensions": values.shape[1],
            "values": pack(values.astype(np.float16)),
        }


# ---------------------------------------------------------------------- by workers


@dataclass(frozen=True)
class DescribeCraft:
    """Embeds the segments of units of images, which all lack the same.

    Parameters
    ----------
    encoder
        Makes the encoder of its model.
    describer
        Makes the describer of an encoder.
    """

    encoder: Callable[[Classifier], ModelEncoder]
    describer: Callable[[Encoder], Describer]

    @contextmanager
    def open(self, classifier: Classifier, plan: Plan, on_rows: OnRows = unheard) -> Iterator[Compute]:
        """Have the decoders ready."""
        encoder = self.encoder(classifier)
        encoder.plan = plan
        describer = self.describer(encoder)
        refs = {ref.index: ref for ref in describer.source.refs}
        with ThreadPoolExecutor(workers(), thread_name_prefix="segments") as threads:

            def compute(task: Task) -> Computed:
                begin = time.perf_counter()
                made = describer.compute([refs[place] for place in task.images], threads)
                unit = made.unit(SEGMENTS, describer.recipe, time.perf_counter() - begin)
                return Computed(unit, Calls(), encoder.plan)

            yield compute


def describe_work(
    encoder: ModelEncoder,
    describer_of: Callable[[Encoder], Describer],
    run: Run,
    refs: Sequence[ImageRef],
    unit_images: int,
) -> Work:
    """Return what there is to embed.

    Parameters
    ----------
    describer_of
        Makes the describer of an encoder, here and in a worker.
    run
        Tells what the images are.
    refs
        The images whose segments have no embedding.
    """
    describer = describer_of(encoder)
    places = [ref.index for ref in refs]
    wanted = {ref.image_id for ref in refs}
    contents = {r["image_id"]: r for r in run.parts("contents").to_pylist() if r["image_id"] in wanted}

    def lost(ref: ImageRef, members: tuple[int, ...], message: str) -> StageUnit:
        content = recorded_content(contents, describer.source, ref)
        return crash_unit(STAGE, SEGMENTS, [describer.recipe], ref, content, message, blame=describer.blame)

    return Work(
        classifier=encoder.classifier,
        source=describer.source,
        verb="describe",
        craft=DescribeCraft(partial(ModelEncoder, layer=encoder.layer.name, crops=encoder.crops), describer_of),
        plan=encoder.plan,
        parts=[Part(tuple(places[at : at + unit_images]), ()) for at in range(0, len(places), unit_images)],
        reused=len(describer.source) - len(refs),
        lost=lost,
        called=SEGMENTS,
    )


# ---------------------------------------------------------------------- images


def load_bytes(source: ImageSource, ref: ImageRef, view: Preprocessing) -> tuple[Content, Pixels]:
    """Return what an image is now, and its pixels as 8 bits in a view; floats, which no model resizes, too.

    Raises
    ------
    ImagesError
        When it cannot be read or decoded.
    """
    size, changed = source.stamp(ref)
    raw = source.read(ref)
    if isinstance(raw.data, np.ndarray) and raw.data.dtype == np.float32:
        raw = RawImage(np.round(raw.data * 255).astype(np.uint8), raw.content_hash, raw.where)
    image = decode(raw, view)
    pixels = np.ascontiguousarray(image.pixels, dtype=np.uint8)
    return Content(ref.image_id, image.content_hash, size, changed, image.width, image.height), pixels


def told(ref: ImageRef, error: Exception) -> str:
    """Say why an image has no segments."""
    if isinstance(error, SalienceError):
        return str(error)
    return f"{ref.image_id} cannot be partitioned: {type(error).__name__}: {error}"
