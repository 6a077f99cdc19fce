"""The table ``measures``: a row for each image that has a number, names held once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import combinations

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from salience.behaviour.traits import Column, Statistic
from salience.behaviour.view import OUT_OF_SET, Floats, Numbers
from salience.store.schema import DERIVED

_SCHEMA = DERIVED["measures"]


@dataclass
class _Names:
    """Names in the order in which they came, each with its number."""

    number: dict[str, int] = field(default_factory=dict)

    def of(self, name: str) -> int:
        return self.number.setdefault(name, len(self.number))

    def array(self) -> pa.Array:
        return pa.array(list(self.number), pa.string())


class Rows:
    """Collects columns of numbers; a table of millions of rows takes 12 bytes a row, and little more.

    Parameters
    ----------
    method
        The saliency method.
    image_ids, other_ids
        Images of the first dataset, and of the second.
    """

    def __init__(self, method: str, image_ids: Sequence[str], other_ids: Sequence[str] = ()) -> None:
        self._names = {name: _Names() for name in _SCHEMA.names if name != "value"}
        self._method = method
        self._places = {
            other: np.array([self._names["image_id"].of(i) for i in ids], dtype=np.int32)
            for other, ids in ((False, image_ids), (True, other_ids))
        }
        self._parts: list[tuple[dict[str, str | None], pa.Array | None, pa.Array]] = []

    def add(self, group: str, column: Column) -> None:
        """Add the images of a column that have a number."""
        there = np.flatnonzero(np.isfinite(column.values))
        if len(there):
            places = self._places[column.condition == OUT_OF_SET][there]
            self._add(group, column.statistic, column.model, column.condition, places, column.values[there])

    def add_run(self, group: str, statistic: Statistic, model: str, condition: str, value: float) -> None:
        """Add one number of a run over all images."""
        self._add(group, statistic, model, condition, None, np.array([value]))

    def _add(
        self,
        group: str,
        statistic: Statistic,
        model: str | None,
        condition: str,
        places: npt.NDArray[np.int32] | None,
        values: Floats,
    ) -> None:
        names = {
            "measure": statistic.measure,
            "form": statistic.form,
            "statistic": statistic.name,
            "condition": condition,
            "method": self._method,
            "group": group,
            "model": model,
        }
        for column, name in names.items():
            if name is not None:
                self._names[column].of(name)
        self._parts.append((names, None if places is None else pa.array(places), pa.array(values)))

    def table(self) -> pa.Table:
        """Return the rows; see ``measures`` in FORMAT.md."""
        dictionaries = {column: names.array() for column, names in self._names.items()}
        constant: dict[tuple[int, int | None], pa.Array] = {}

        def same(count: int, number: int | None) -> pa.Array:
            if (count, number) not in constant:  # most columns are of the same images: their indices are shared
                constant[count, number] = (
                    pa.nulls(count, pa.int32()) if number is None else pa.array(np.full(count, number, dtype=np.int32))
                )
            return constant[count, number]

        chunks: dict[str, list[pa.Array]] = {name: [] for name in _SCHEMA.names}
        for names, places, values in self._parts:
            for column, name in names.items():
                number = None if name is None else self._names[column].number[name]
                chunks[column].append(_coded(same(len(values), number), dictionaries[column]))
            chunks["image_id"].append(
                _coded(same(len(values), None) if places is None else places, dictionaries["image_id"])
            )
            chunks["value"].append(values)
        return pa.table([pa.chunked_array(chunks[f.name], type=f.type) for f in _SCHEMA], schema=_SCHEMA)


def _coded(indices: pa.Array, dictionary: pa.Array) -> pa.Array:
    return pa.DictionaryArray.from_arrays(indices, dictionary)


def pair_rows(
    statistic: Statistic,
    method: str,
    group: str,
    models: Sequence[str],
    values: Floats,
    counts: Numbers,
) -> list[dict[str, object]]:
    """Return rows of ``run_pairs`` of a matrix of runs (R, R): pairs that no image has a number of are left out."""
    return [
        {
            "measure": statistic.measure,
            "form": statistic.form,
            "statistic": statistic.name,
            "method": method,
            "group": group,
            "first": models[a],
            "second": models[b],
            "images": int(counts[a, b]),
            "value": float(values[a, b]),
        }
        for a, b in combinations(range(len(models)), 2)
        if counts[a, b]
    ]
