"""Whether changing a concept's pixels does what the attributions say: effects of interventions, and the verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from salience.comparison.cells import Cells, Procedure, cells, summarise
from salience.comparison.effects import Slices, compared
from salience.comparison.strata import ALL
from salience.errors import SettingsError
from salience.stats import benjamini_hochberg
from salience.store.schema import DERIVED

Floats = npt.NDArray[np.float64]

BEYOND_CHANCE = 0.05
"""Below this q an effect is told as one."""

_Evidence = dict[tuple[str, int, str], list[tuple[float, float]]]


@dataclass(frozen=True, eq=False)
class Drops:
    """How far a model's scalar falls when pixels are filled, (I, k), in its units; NaN where that was not tried.

    Attributes
    ----------
    real
        When the segments of each concept are filled.
    control
        When an equal area of other segments of the same image is.
    """

    real: npt.ArrayLike
    control: npt.ArrayLike

    @property
    def net(self) -> Floats:
        """The fall beyond that of the control."""
        return np.asarray(self.real, dtype=np.float64) - np.asarray(self.control, dtype=np.float64)


@dataclass(frozen=True, eq=False)
class Interventions:
    """Effects of interventions.

    Attributes
    ----------
    table
        ``interventions`` of FORMAT.md: differences of net drops with their sign.
    magnitudes
        The same of the sizes of net drops, which the family ``use`` is compared with; empty for one model alone.
    """

    table: pa.Table
    magnitudes: pa.Table


def intervention_effects(
    drops: Mapping[str, Mapping[str, Drops]],
    slices: Slices,
    *,
    reference: str | None = None,
    procedure: Procedure | None = None,
) -> Interventions:
    """Return how much more a model than the reference depends on the pixels of each concept.

    Parameters
    ----------
    drops
        By fill and model, all of the same images and concepts.
    slices, reference, procedure
        As for :func:`~salience.comparison.effects.effects`.

    Returns
    -------
    Interventions
        A row for each model, stratum, fill and concept that was tried there: the mean over images that have it of
        ``(drop - control) of the model - (drop - control) of the reference``, with BCa interval and p by unit, and
        Benjamini-Hochberg q over all rows of the model. Positive: the pixels speak more for the explained class in
        the model. Of one model alone it is the mean net drop against 0, and ``reference_drop`` is null.

    Raises
    ------
    SettingsError
        When shapes do not fit, fills have different models, or there is no such model.
    """
    procedure = procedure or Procedure()
    nets = {fill: {m: d.net for m, d in of.items()} for fill, of in drops.items()}
    _check(nets, len(slices.classes))
    models, other = compared(list(next(iter(nets.values()))), reference)
    signed, sized = [], []
    for model in models:
        own = np.hstack([of[model] for of in nets.values()])
        base = None if other is None else np.hstack([of[other] for of in nets.values()])
        signed.append(_of_model(own, base, model, list(nets), slices, procedure))
        if base is not None:
            sized.append(_of_model(np.abs(own), np.abs(base), model, list(nets), slices, procedure))
    empty = DERIVED["interventions"].empty_table()
    return Interventions(pa.concat_tables([empty, *signed]), pa.concat_tables([empty, *sized]))


def _of_model(
    own: Floats, base: Floats | None, model: str, fills: Sequence[str], slices: Slices, procedure: Procedure
) -> pa.Table:
    """Return the rows of one model; columns of ``own`` and ``base`` (I, F k) are the concepts of fill after fill."""
    numbers, concepts = slices.numbers, own.shape[1] // len(fills)
    found = [c for s in slices.every(model) for c in cells(own if base is None else own - base, s, numbers)]
    rows = summarise(found, procedure)
    column = rows["column"].astype(np.int64)
    columns = {
        **rows,
        "q": benjamini_hochberg(rows["p"]),
        "concept": column % concepts,
        "model": [model] * len(column),
        "fill": [fills[c // concepts] for c in column.tolist()],
        "reference_drop": [None] * len(column) if base is None else _means(base, found),
        "model_drop": _means(own, found),
    }
    schema = DERIVED["interventions"]
    return pa.table([pa.array(columns[f.name], f.type, from_pandas=True) for f in schema], schema=schema)


def _means(values: Floats, found: Sequence[Cells]) -> Floats:
    return np.concatenate([np.zeros(0), *(values[np.ix_(c.images, c.columns)].mean(axis=0) for c in found)])


def _check(nets: Mapping[str, Mapping[str, Floats]], images: int) -> None:
    if not nets:
        raise SettingsError("No fill was tried: there are no interventions to tell of.")
    first = next(iter(nets.values()))
    if any(set(of) != set(first) for of in nets.values()):
        raise SettingsError("Every fill must have been tried on the same models.")
    shapes = {x.shape for of in nets.values() for x in of.values()}
    if len(shapes) != 1 or any(len(s) != 2 or s[0] != images for s in shapes):
        raise SettingsError(
            f"Drops must be (images, concepts) of the same {images} images for all fills and models; they are "
            f"{', '.join(map(str, sorted(shapes)))}."
        )


# ------------------------------------------------------------------ the verdict


def confirm(effects: pa.Table, interventions: Interventions, *, level: float = BEYOND_CHANCE) -> pa.Table:
    """Return the effects with ``confirmed`` filled in.

    An effect is confirmed when its q is below ``level``, under at least one fill an intervention on the same concept,
    model and stratum has the same sign and a q below ``level``, and under no fill one has the other sign and such a
    q. Where the stratum's own interventions have no q (too few images), those on all images may confirm it, see
    :func:`decided_on`, but not speak against it: a concept may pull one way on one class and the other way on the rest.
    Null where that is so, and where the effect or every such intervention is untested. The family ``use`` is compared
    with sizes of net drops, the others with net drops themselves.
    """
    evidence = {False: _evidence(interventions.table), True: _evidence(interventions.magnitudes)}
    columns = (effects[name].to_pylist() for name in ("model", "concept", "stratum", "family", "effect", "q"))
    verdicts = []
    for model, concept, stratum, family, effect, q in zip(*columns, strict=True):
        decided, found = _deciding(evidence[family == "use"], model, concept, stratum)
        agrees = q is not None and q < level and _agree(effect, found, level)
        known = q is not None and bool(found) and (agrees or decided == stratum or q >= level)
        verdicts.append(agrees if known else None)
    place = effects.schema.get_field_index("confirmed")
    return effects.set_column(place, effects.schema.field(place), pa.array(verdicts, pa.bool_()))


def decided_on(effects: pa.Table, interventions: pa.Table) -> list[str | None]:
    """Return the stratum whose interventions each effect is compared with, None where none was tested.

    It is the effect's own, or ``all`` where its own has too few images.
    """
    evidence = _evidence(interventions)
    columns = (effects[name].to_pylist() for name in ("model", "concept", "stratum"))
    return [_deciding(evidence, *row)[0] for row in zip(*columns, strict=True)]


def _evidence(table: pa.Table) -> _Evidence:
    """Return effect and q under every fill that was tested, by model, concept and stratum."""
    found: _Evidence = {}
    columns = (table[name].to_pylist() for name in ("model", "concept", "stratum", "effect", "q"))
    for model, concept, stratum, effect, q in zip(*columns, strict=True):
        if q is not None:
            found.setdefault((model, concept, stratum), []).append((effect, q))
    return found


def _deciding(
    evidence: _Evidence, model: str, concept: int, stratum: str
) -> tuple[str | None, list[tuple[float, float]]]:
    for name in (stratum, ALL):
        found = evidence.get((model, concept, name))
        if found:
            return name, found
    return None, []


def _agree(effect: float, found: Sequence[tuple[float, float]], level: float) -> bool:
    signs = {float(np.sign(e)) for e, q in found if q < level}
    return signs == {float(np.sign(effect))}
