"""The concepts of a comparison: found among some segments, or named by the user's masks, and given to all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from salience.comparison.attributing import Attributions
from salience.comparison.clusters import Assigned, assign, discover, project
from salience.comparison.quality import discovery_rows, quality
from salience.comparison.ranking import quality_of
from salience.store.packed import Embeddings
from salience.store.schema import DERIVED


@dataclass(frozen=True, eq=False)
class Found:
    """Concepts of P segments.

    Attributes
    ----------
    concept
        Of each segment (P,).
    similarity
        Cosine of its embedding with its concept's centre (P,).
    discovered
        Whether it was among the segments that the concepts were found from (P,).
    table
        ``concepts`` of FORMAT.md: a row for each concept, in the order of their numbers.
    """

    concept: npt.NDArray[np.int32]
    similarity: npt.NDArray[np.float32]
    discovered: npt.NDArray[np.bool_]
    table: pa.Table

    @property
    def count(self) -> int:
        """Number of concepts."""
        return len(self.table)

    @cached_property
    def quality(self) -> dict[int, float]:
        """How well each concept holds together, 0 to 1."""
        rows = (self.table[name].to_pylist() for name in ("concept", "cohesion", "stability"))
        return {c: quality_of(cohesion, stability) for c, cohesion, stability in zip(*rows, strict=True)}

    def numbered(self, order: Sequence[int]) -> Found:
        """Return the same with concept ``order[i]`` as number ``i``."""
        number = np.empty(len(order), dtype=np.int32)
        number[list(order)] = np.arange(len(order), dtype=np.int32)
        rows = self.table.take(pa.array(list(order), pa.int64()))
        rows = rows.set_column(0, rows.schema.field(0), pa.array(np.arange(len(order), dtype=np.int32)))
        return Found(number[self.concept], self.similarity, self.discovered, rows)

    def segment_table(self, of: Attributions) -> dict[str, Any]:
        """Return the columns of the table ``segments``, image after image."""
        return {
            "image_id": pa.array(of.images, pa.string()).take(pa.array(of.image_of)),
            "segment": of.segment,
            "name": pa.nulls(len(of.area), pa.string()) if of.names is None else pa.array(of.names, pa.string()),
            "concept": self.concept,
            "similarity": self.similarity,
            "area": of.area,
            "row": of.row,
            "column": of.column,
            "discovered": self.discovered,
        }


def find_concepts(
    of: Attributions, embeddings: Embeddings, classes: npt.NDArray[np.int64], count: int | None, seed: int
) -> Found:
    """Find concepts among the segments that some model ranks high and a control of others; give one to every segment.

    Where the segments have names, which the user gave, these are the concepts.

    Parameters
    ----------
    of
        Segments of all images, and what each model attributes to them.
    embeddings
        Of the same segments; read image by image.
    classes
        Class of each image (I,): how varied a concept's images are is told by it.
    count
        Number of concepts to look for; the most reliable one where None.

    Raises
    ------
    SettingsError
        When more concepts are asked for than there are different segments.
    """
    projection = project(embeddings.blocks(of.images))
    points = np.concatenate([projection.transform(block) for block in embeddings.blocks(of.images)])
    if of.names is not None:
        names, concept = np.unique(np.array(of.names, dtype=str), return_inverse=True)
        assigned = _named(points, concept.astype(np.int32), len(names))
        known: list[str | None] = names.tolist()
        discovered, stability = np.zeros(len(points), dtype=np.bool_), np.full(len(names), np.nan)
    else:
        discovered = discovery_rows(of.totals, of.area, of.starts, of.images, seed=seed)
        found = discover(points[discovered], count=count, images=of.image_of[discovered], seed=seed)
        assigned, stability = assign(points, found.centres), found.stability
        known = [None] * len(stability)
    told = quality(assigned, stability, image=of.image_of, classes=classes, area=of.area, row=of.row, column=of.column)
    schema = DERIVED["concepts"]
    columns = {**told, "name": known}
    rows = pa.table([pa.array(columns[f.name], f.type, from_pandas=True) for f in schema], schema=schema)
    return Found(assigned.concept, assigned.similarity, discovered, rows)


def _named(points: npt.NDArray[np.float32], concept: npt.NDArray[np.int32], count: int) -> Assigned:
    """Return how near segments are to the mean direction of those that share their name, and to the next one."""
    sums = np.zeros((count, points.shape[1]))
    np.add.at(sums, concept, points)
    size = np.linalg.norm(sums, axis=1, keepdims=True)
    centres = np.divide(sums, size, out=np.zeros_like(sums), where=size > 0)
    rows = np.arange(len(points))
    near = points @ centres.T.astype(np.float32)
    own = near[rows, concept].copy()
    near[rows, concept] = -np.inf
    second = near.max(axis=1) if count > 1 else np.full(len(points), np.nan, dtype=np.float32)
    return Assigned(concept, own, second)
