"""What the page needs of a comparison, read once: arrays by image and concept, and means of slices with intervals."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from salience.comparison.result import Comparison
from salience.report.comparison.figures import Ends, Floats
from salience.report.comparison.wording import CLASS, ConceptName, Names, concept_name
from salience.report.gather import Picture
from salience.report.words import short_names
from salience.stats import bca_limits, sum_units, unit_numbers

DRAWS = 1000

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Segments:
    """The segments of all compared images, a row each: whose they are, where they lie, what each model gives them."""

    image: Rows
    segment: Rows
    concept: Rows
    similarity: Floats
    row: Floats
    column: Floats
    area: Floats
    share: Mapping[str, Floats]
    total: Mapping[str, Floats]


@dataclass
class Material:
    """A comparison, ready to be shown."""

    comparison: Comparison
    pictures: list[Picture]
    """The compared images, in their order."""
    _means: dict[tuple[str, str, str, bool], list[Ends]] = field(default_factory=dict)

    @cached_property
    def concepts(self) -> dict[int, dict[str, Any]]:
        """Rows of the table ``concepts`` by number."""
        return {r["concept"]: r for r in self.comparison.concepts.to_pylist()}

    @cached_property
    def names(self) -> dict[int, ConceptName]:
        """How each concept is called."""
        return {number: concept_name(row) for number, row in self.concepts.items()}

    @cached_property
    def class_names(self) -> dict[int, str]:
        """Class names without synonyms, by index."""
        short = short_names(self.comparison.classes)
        return {i: short[name] for i, name in enumerate(self.comparison.classes)}

    @cached_property
    def segments(self) -> Segments:
        """The segments as arrays."""
        c = self.comparison
        table, given = c.segments, c.attributions
        own = {m: given.filter(pc.equal(given["model"], m)) for m in c.models}
        return Segments(
            image=pc.index_in(table["image_id"], pa.array(c.images, pa.string())).to_numpy().astype(np.int64),
            segment=table["segment"].to_numpy().astype(np.int64),
            concept=table["concept"].to_numpy().astype(np.int64),
            similarity=table["similarity"].to_numpy().astype(np.float64),
            row=table["row"].to_numpy().astype(np.float64),
            column=table["column"].to_numpy().astype(np.float64),
            area=table["area"].to_numpy().astype(np.float64),
            share={m: rows["share"].to_numpy() for m, rows in own.items()},
            total={m: rows["total"].to_numpy() for m, rows in own.items()},
        )

    @cached_property
    def shares(self) -> dict[str, Floats]:
        """Share of the attribution by model, image and concept: (I, k) each."""
        return {m: self.comparison.shares(m) for m in self.comparison.models}

    @cached_property
    def totals(self) -> dict[str, Floats]:
        """Sum of the maps by model, image and concept, in units of the explained scalar: (I, k) each."""
        return {m: self.comparison.totals(m) for m in self.comparison.models}

    @cached_property
    def changes(self) -> dict[str, Floats]:
        """Change of the explained scalar from its baseline to each image, by model: (I,) each, NaN where not known."""
        return {m: self.comparison.diagnostic(m, "output_change") for m in self.comparison.models}

    @cached_property
    def has(self) -> npt.NDArray[np.int64]:
        """Segments of each concept in each image: (I, k)."""
        count, k = len(self.pictures), len(self.concepts)
        cells = self.segments.image * max(1, k) + self.segments.concept
        found: npt.NDArray[np.int64] = np.bincount(cells, minlength=count * max(1, k)).reshape(count, -1)[:, :k]
        return found

    def quadrants(self, model: str) -> list[str]:
        """Return the quadrant of each compared image; empty text where it has no label."""
        found = self._quadrants.get(model)
        if found is None:
            known = self.comparison.quadrants(model) if not self.comparison.alone else {}
            found = self._quadrants[model] = [known.get(i, "") for i in self.comparison.images]
        return found

    @cached_property
    def _quadrants(self) -> dict[str, list[str]]:
        return {}

    def rows(self, stratum: str, model: str) -> Rows:
        """Return the compared images of a stratum: all, those whose explained class it names, or a quadrant."""
        if stratum == "all":
            return np.arange(len(self.pictures))
        if stratum.startswith(CLASS):
            name = stratum.removeprefix(CLASS)
            index = self.comparison.classes.index(name) if name in self.comparison.classes else -1
            return np.flatnonzero(self.comparison.targets == index)
        return np.flatnonzero(np.array(self.quadrants(model)) == stratum)

    def values(self, family: str, model: str, rows: Rows, concept: int, *, against: bool = True) -> Floats:
        """Return what an effect of a family is the mean of: one number an image, (N,).

        It is the model's less the reference's, or where not ``against`` it, or there is one model only, the model's.
        """
        other = self.comparison.reference if against and not self.comparison.alone else None
        kind = self.totals if family == "ledger" else self.shares
        mine, base = (None if m is None else kind[m][rows, concept] for m in (model, other))
        assert mine is not None
        if family == "use":
            mine, base = np.abs(mine), None if base is None else np.abs(base)
        found: Floats = mine if base is None else mine - base
        return found

    def mean(self, model: str, stratum: str, concept: int, *, of: str, absolute: bool) -> Ends:
        """Return a model's mean share of a concept over a stratum of ``of`` (whose quadrants), with its interval."""
        key = (model, stratum, of, absolute)
        if key not in self._means:
            rows = self.rows(stratum, of)
            values = self.shares[model][rows]
            self._means[key] = self.ends(np.abs(values) if absolute else values, rows)
        return self._means[key][concept]

    def ends(self, values: Floats, rows: Rows) -> list[Ends]:
        """Return the means of columns of ``values`` (N, C), of the images ``rows``, with 95 % BCa intervals by unit."""
        if not len(values):
            return [(np.nan, np.nan, np.nan)] * values.shape[1]
        units = sum_units(np.ascontiguousarray(values.T), self._units[rows])
        low, high = bca_limits(units, draws=DRAWS, seed=int(self.comparison.settings["seed"]))
        return list(zip(units.mean.tolist(), low.tolist(), high.tolist(), strict=True))

    @cached_property
    def _units(self) -> Rows:
        return unit_numbers(self.comparison.groups, len(self.pictures))

    def naming(self, model: str) -> Names:
        """Return how the two models and the slices are called."""
        short = {whole: self.class_names[i] for i, whole in enumerate(self.comparison.classes)}
        return Names(self.comparison.reference, model, self.comparison.alone, short)


def gather(comparison: Comparison) -> Material:
    """Read what the page needs of a comparison."""
    columns = ["image_id", "path", "label", "label_text", "content_hash"]
    rows = {r["image_id"]: (n, r) for n, r in enumerate(comparison.run.table("images").select(columns).to_pylist())}
    pictures = []
    for image_id in comparison.images:
        index, row = rows[image_id]
        pictures.append(Picture(index, image_id, row["path"], row["label"], row["label_text"], row["content_hash"]))
    return Material(comparison, pictures)
