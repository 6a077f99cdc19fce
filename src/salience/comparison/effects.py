"""How differently models use concepts: effects in three families, with intervals and tests by image or group."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from salience.comparison.cells import Cells, Procedure, cells, summarise
from salience.comparison.strata import ALL, Stratum, all_images, by_class, by_quadrant
from salience.errors import SettingsError, nearest
from salience.stats import benjamini_bogomolov, unit_numbers
from salience.store.schema import DERIVED

Floats = npt.NDArray[np.float64]

FAMILIES = ("direction", "use", "ledger")
"""Direction: shares of maps toward the explained class, by class. Use: the size of these shares, over all images.
Ledger: sums of maps in units of the scalar, over all images, classes and quadrants."""


@dataclass(frozen=True, eq=False)
class Slices:
    """The strata that models are compared on, and the independent unit of each image.

    Parameters
    ----------
    classes
        Name of the class that was explained of each image (I,); None for an image of no class.
    quadrants
        By model: the quadrant of each image against the reference (I,), None for one without a label; models may
        lack an entry.
    groups
        The independent unit of each image (I,); every image is its own where none are given.
    """

    classes: Sequence[str | None]
    quadrants: Mapping[str, Sequence[str | None]] | None = None
    groups: Sequence[object] | None = None

    def __post_init__(self) -> None:
        given = {"groups": self.groups} if self.groups is not None else {}
        for name, values in {**given, **(self.quadrants or {})}.items():
            if len(values) != len(self.classes):
                raise SettingsError(f"{len(self.classes)} images have {len(values)} entries of {name!r}: one each.")

    @cached_property
    def numbers(self) -> npt.NDArray[np.int64]:
        """Number of each image's unit (I,)."""
        return unit_numbers(self.groups, len(self.classes))

    def every(self, model: str) -> list[Stratum]:
        """Return all images, each class and each quadrant of a model."""
        own = (self.quadrants or {}).get(model)
        found = [all_images(len(self.classes)), *by_class(self.classes)]
        return found if own is None else [*found, *by_quadrant(own)]


def effects(
    shares: Mapping[str, npt.ArrayLike],
    totals: Mapping[str, npt.ArrayLike] | None,
    slices: Slices,
    *,
    reference: str | None = None,
    procedure: Procedure | None = None,
) -> pa.Table:
    """Return how each model's use of each concept differs from the reference's.

    Parameters
    ----------
    shares
        By model: sum of the map over each concept's segments over the sum of absolute values of the whole map, (I, k)
        in [-1, 1]; 0 where an image lacks the concept, NaN in rows of images that failed.
    totals
        By model: the sums themselves, (I, k), in units of the explained scalar; None for maps that do not add up to
        its change, which have no ledger.
    slices
        Classes, quadrants and units of the images.
    reference
        The model that the others are compared with; the first by default. One model alone is compared with 0.
    procedure
        Intervals and tests; see :class:`~salience.comparison.cells.Procedure`.

    Returns
    -------
    pyarrow.Table
        ``effects`` of FORMAT.md, null where a number does not exist; ``confirmed`` is null throughout (see
        :func:`~salience.comparison.confirmation.confirm`). A row for each model, family, stratum and concept that
        some image of the stratum has. Signs: positive is more toward the explained class (direction, ledger), or more
        use of either sign, than by the reference. Each mean is over all images of the stratum, those without the
        concept count as 0. ``p_max`` is adjusted over the family, ``q`` over the family and for there being several
        (:func:`~salience.stats.benjamini_bogomolov`), each model by itself.

    Raises
    ------
    SettingsError
        When shapes do not fit, or there is no such model.

    Notes
    -----
    Published: the idea of summing attributions by concept and comparing models (Schoop et al. 2022). Ours: families,
    units and tests. Directions are never averaged over classes: a shortcut for one class counts against the others,
    and cancels. The unit is the image or its group, never the segment; and every segment counts, not those that one
    model ranks high. Shares are of a whole: a model that goes more by one concept has less left for the others in
    ``direction`` and ``use``; the ledger tells whether they lost anything. The size of a share is never below 0, so
    of one model alone the family ``use`` has no p.
    """
    procedure = procedure or Procedure()
    if totals is not None and set(totals) != set(shares):
        raise SettingsError(
            f"Shares are of {', '.join(shares)}, totals of {', '.join(totals)}: give both of all models."
        )
    v = _checked("shares", shares, len(slices.classes))
    booked = None if totals is None else _checked("totals", totals, len(slices.classes))
    models, other = compared(list(shares), reference)
    present = np.any([np.nan_to_num(x) != 0 for x in v.values()], axis=0)
    parts = []
    for model in models:
        values = {"direction": _less(v, model, other), "use": _less({m: np.abs(x) for m, x in v.items()}, model, other)}
        if booked is not None:
            values["ledger"] = _less(booked, model, other)
        every = slices.every(model)
        strata = {"direction": by_class(slices.classes), "use": [s for s in every if s.name == ALL], "ledger": every}
        rows = {
            family: summarise(
                _present_cells(x, strata[family], slices.numbers, present),
                procedure,
                tested=family != "use" or other is not None,
            )
            for family, x in values.items()
        }
        adjusted = benjamini_bogomolov([of["p"] for of in rows.values()])
        parts += [_table({**rows[f], "q": q}, model, f) for f, q in zip(rows, adjusted, strict=True)]
    return pa.concat_tables(parts)


def _present_cells(
    values: Floats, strata: Sequence[Stratum], numbers: npt.NDArray[np.int64], present: npt.NDArray[np.bool_]
) -> list[Cells]:
    """Return the cells of concepts that some image of the stratum has."""
    return [c for s in strata for c in cells(values, s, numbers, np.logical_or.reduce(present[s.images]))]


def _less(of: Mapping[str, Floats], model: str, other: str | None) -> Floats:
    return of[model] if other is None else of[model] - of[other]


def compared(models: Sequence[str], reference: str | None) -> tuple[list[str], str | None]:
    """Return the models to tell of, and what they are compared with: None for one model alone."""
    if not models:
        raise SettingsError("There is no model to tell of.")
    first = models[0] if reference is None else reference
    if first not in models:
        raise SettingsError(
            f"The reference {first!r} is none of the models {', '.join(models)}.{nearest(first, models)}"
        )
    others = [m for m in models if m != first]
    return (others, first) if others else ([first], None)


def _checked(name: str, of: Mapping[str, npt.ArrayLike], images: int) -> dict[str, Floats]:
    arrays = {model: np.asarray(x, dtype=np.float64) for model, x in of.items()}
    shapes = {x.shape for x in arrays.values()}
    if len(shapes) != 1 or any(len(s) != 2 or s[0] != images for s in shapes):
        raise SettingsError(
            f"The {name} of all models must be (images, concepts) of the same {images} images; they are "
            f"{', '.join(f'{m}: {x.shape}' for m, x in arrays.items())}."
        )
    return arrays


def _table(rows: Mapping[str, npt.NDArray[np.generic]], model: str, family: str) -> pa.Table:
    count = len(rows["column"])
    columns = {
        **rows,
        "concept": rows["column"],
        "model": [model] * count,
        "family": [family] * count,
        "confirmed": [None] * count,
    }
    schema = DERIVED["effects"]
    return pa.table([pa.array(columns[f.name], f.type, from_pandas=True) for f in schema], schema=schema)
