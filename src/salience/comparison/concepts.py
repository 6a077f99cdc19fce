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
from salience.comparison.ranking import quality_of


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
