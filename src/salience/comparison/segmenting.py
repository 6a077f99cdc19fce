"""Segments of every image and their embeddings: computed once, whatever models are compared."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np

from salience.comparison.describing import Describer, describe_work, load_bytes, told
from salience.comparison.encoders import COLOR, Encoder, ModelEncoder
from salience.comparison.segments import Partition
from salience.comparison.stage import SEGMENTS, Made, Units, identify, lacking, opened, workers
from salience.data.arrays import ArraySource
from salience.data.base import ImageRef, ImageSource
from salience.data.preprocessing import Preprocessing
from salience.engine.crew import Crew
from salience.engine.events import Listener
from salience.engine.hiring import Staff, carry_out, workers_can_load
from salience.errors import ImagesError
from salience.models.classifier import Classifier
from salience.store.packed import LabelMaps, pack
from salience.store.unit import Content
from salience.store.writer import RunWriter

FRAME = (224, 224)
"""Rows and columns of the label maps: the whole image, squashed to the size at which XRAI segments."""
VIEW = Preprocessing(size=FRAME, fit="squash", interpolation="box")
"""How images come into the frame: areas are averaged, and small images enlarged pixel by pixel. Softer filters would
put colours between those of small images, and so a ring of segments around every object."""
_UNIT = 64
_VERSION = 1


@dataclass
class Segmenter:
    """Partitions images and embeds their segments, into the run that is being written.

    Parameters
    ----------
    blame
        The model whose name failures bear: tables of failures are by model.
    crew
        Who embeds, where that is not this process and the encoder is a model that others can load.
    """

    source: ImageSource
    partition: Partition
    encoder: Encoder | None
    blame: str
    listen: Listener
    unit_images: int | None = None
    crew: Crew | Staff | None = None
    frame: Preprocessing = field(default_factory=lambda: VIEW)

    def __post_init__(self) -> None:
        self.whole_inputs = taken_whole(self.source)
        self.recipes = self._recipes()
        self.partition_recipe, self.embedding_recipe = self.recipes

    def _recipes(self) -> dict[str, dict[str, Any]]:
        """Return the descriptions of the partition and of the embedding, by id: all that decides but for the image."""
        partition = {
            "model": SEGMENTS,
            "what": "partition",
            "version": _VERSION,
            "partition": self.partition.identity,
            "frame": self.frame.to_dict(),
        }
        first = identify(partition)
        embedding = {
            "model": SEGMENTS,
            "what": "embedding",
            "version": _VERSION,
            "partition": first,
            "encoder": {"name": COLOR} if self.encoder is None else self.encoder.identity,
        }
        return {first: partition, identify(embedding): embedding}

    def input_of(self, model: Classifier) -> Preprocessing:
        """Return how a model's input lies in these images: floats are taken as they are, whatever it crops."""
        view = model.preprocessing
        return replace(view, fit="squash") if self.whole_inputs else view

    # ------------------------------------------------------------------ the two kinds of work

    def beside(self, writer: RunWriter, stopped: Callable[[], bool]) -> None:
        """Do what needs no model: partitions, and descriptors where there is no encoder.

        Images that cannot be read are passed over: whoever explains them tells of it.
        """
        self.partitions(writer, strict=False, stopped=stopped)
        if self.encoder is None:
            self.embeddings(writer, stopped=stopped)

    def after(self, writer: RunWriter, unreadable: set[str]) -> None:
        """Do what is left once all images were explained."""
        self.partitions(writer, strict=True, skipped=unreadable)
        self.embeddings(writer)

    def partitions(
        self,
        writer: RunWriter,
        *,
        strict: bool,
        skipped: Set[str] = frozenset(),
        stopped: Callable[[], bool] = lambda: False,
    ) -> None:
        """Partition the images that lack it; where ``strict``, one that cannot be is a failure."""
        left = lacking(opened(writer), self.source, self.partition_recipe, skipped)
        if strict and not left:
            return
        with _threads() as threads:

            def compute(refs: Sequence[ImageRef]) -> Made:
                made = Made()
                for ref, found in zip(refs, threads.map(self._partition, refs), strict=True):
                    if not isinstance(found, Exception):
                        made.images.append(found[0])
                        made.add("partitions", found[1])
                    elif strict:
                        made.fail(ref.image_id, self.blame, self.partition_recipe, told(ref, found))
                return made

            self._units(writer, self.partition_recipe, "partition").run(
                left, len(self.source) - len(left), compute, stopped
            )

    def embeddings(self, writer: RunWriter, stopped: Callable[[], bool] = lambda: False) -> None:
        """Embed the segments of the images that lack it and have a partition."""
        run = opened(writer)
        labels = LabelMaps(run, self.partition_recipe)
        left = [r for r in lacking(run, self.source, self.embedding_recipe) if r.image_id in labels]
        if not left:
            return
        describer_of = partial(
            Describer,
            source=self.source,
            labels=labels,
            frame=self.frame,
            recipe=self.embedding_recipe,
            blame=self.blame,
        )
        encoder = self.encoder
        if self.crew is not None and isinstance(encoder, ModelEncoder) and workers_can_load(encoder.classifier):
            work = describe_work(encoder, describer_of, run, left, self.unit_images or _UNIT)
            carry_out(work, writer, self.crew, self.listen)
            return
        with _threads() as threads:
            compute = partial(describer_of(encoder).compute, threads=threads)
            units = self._units(writer, self.embedding_recipe, "describe")
            units.run(left, len(self.source) - len(left), compute, stopped)

    def _units(self, writer: RunWriter, recipe: str, verb: str) -> Units:
        return Units(writer, self.listen, SEGMENTS, verb, recipe, self.unit_images or _UNIT)

    # ------------------------------------------------------------------ one image

    def _partition(self, ref: ImageRef) -> tuple[Content, dict[str, Any]] | Exception:
        try:
            content, pixels = load_bytes(self.source, ref, self.frame)
            labels = self.partition.label_map(pixels, ref.image_id)
            names = self.partition.names(ref.image_id)
        except Exception as error:  # belongs to its image, not to the run
            return error
        height, width = labels.shape
        row = {
            "recipe": self.partition_recipe,
            "image_id": ref.image_id,
            "height": height,
            "width": width,
            "segments": int(labels.max()) + 1,
            "names": None if names is None else list(names),
            "labels": pack(labels.astype(np.uint16)),
        }
        return content, row


@contextmanager
def _threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(workers(), thread_name_prefix="segments") as threads:
        yield threads


def taken_whole(source: ImageSource) -> bool:
    """Tell whether models are given these images as they are: floats, which nothing resizes or crops.

    Raises
    ------
    ImagesError
        When some images are floats and others are not.
    """
    if not isinstance(source, ArraySource):
        return False
    kinds = {getattr(source.items[ref.index], "dtype", None) == np.float32 for ref in source.refs}
    if len(kinds) > 1:
        raise ImagesError("Some images are floats, others are not: give all as floats, or all as 8 bits.")
    return kinds == {True}
