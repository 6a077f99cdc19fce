"""What concepts add to the difference of two models' predictions: rows that sum to it, and what the maps miss."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from salience.errors import SettingsError

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Step:
    """A step of a waterfall, from ``start`` to ``start + value``.

    ``concept`` is None for what is no single concept: the ``rest`` of the concepts, or what the maps ``missed``.
    """

    name: str
    concept: int | None
    start: float
    value: float


@dataclass(frozen=True, eq=False)
class Ledger:
    """Sums over a slice of images, in units of the explained scalar.

    Attributes
    ----------
    concepts
        Numbers of the concepts (k,).
    reference, model
        Sum of each model's maps over the segments of each concept (k,); the reference's are 0 for a model alone.
    reference_change, model_change
        Change of each model's scalar from its baseline to the images.
    images
        Images of the slice.
    """

    concepts: npt.NDArray[np.int64]
    reference: Floats
    model: Floats
    reference_change: float
    model_change: float
    images: int

    @property
    def difference(self) -> Floats:
        """What each concept adds to the model's scalar beyond the reference's (k,)."""
        return self.model - self.reference

    @property
    def change(self) -> float:
        """The total that the rows explain: the model's change less the reference's."""
        return self.model_change - self.reference_change

    @property
    def gap(self) -> float:
        """Sum of the rows less the total: the stored ``completeness_gap`` of the model less that of the reference."""
        return float(self.difference.sum()) - self.change

    def per_image(self) -> Ledger:
        """Return the same as means over the images of the slice."""
        n = max(self.images, 1)
        return Ledger(
            self.concepts,
            self.reference / n,
            self.model / n,
            self.reference_change / n,
            self.model_change / n,
            min(self.images, 1),
        )

    def waterfall(self, count: int = 8) -> list[Step]:
        """Return the steps from 0 to the total: the ``count`` largest rows, the ``rest`` of them, what is ``missed``.

        Rows of equal size stand in the order of the concepts; steps that are exactly 0 are left out.
        """
        order = np.argsort(-np.abs(self.difference), kind="stable")
        values = [(str(c), int(c), float(v)) for c, v in zip(self.concepts[order], self.difference[order], strict=True)]
        told = [
            *values[:count],
            ("rest", None, float(sum(v for _, _, v in values[count:]))),
            ("missed", None, -self.gap),
        ]
        steps: list[Step] = []
        at = 0.0
        for name, concept, value in told:
            if value:
                steps.append(Step(name, concept, at, value))
                at += value
        return steps


def ledger(
    reference: npt.ArrayLike | None,
    model: npt.ArrayLike,
    reference_change: npt.ArrayLike | None,
    model_change: npt.ArrayLike,
) -> Ledger:
    """Book the change of the difference of two models' scalars by concept, over the images given.

    Parameters
    ----------
    reference, model
        Sums of the maps over the segments of each concept (I, k), in units of the scalar, 0 where an image lacks the
        concept. None for the reference books one model alone.
    reference_change, model_change
        The scalar at each image less that at its baseline (I,): the stored ``output_change``.

    Raises
    ------
    SettingsError
        When shapes do not fit, only one side of the reference is given, or a value is not finite.
    """
    own, own_change = np.asarray(model, dtype=np.float64), np.asarray(model_change, dtype=np.float64)
    if (reference is None) != (reference_change is None):
        raise SettingsError("A ledger against a reference needs both its sums and its changes; one of them is missing.")
    other = np.zeros_like(own) if reference is None else np.asarray(reference, dtype=np.float64)
    other_change = np.zeros_like(own_change) if reference_change is None else np.asarray(reference_change, np.float64)
    if own.ndim != 2 or other.shape != own.shape or not own_change.shape == other_change.shape == own.shape[:1]:
        raise SettingsError(
            f"A ledger is of sums (images, concepts) and changes (images,), alike for both models; given are "
            f"{other.shape} and {own.shape}, {other_change.shape} and {own_change.shape}."
        )
    if not all(np.isfinite(x).all() for x in (own, other, own_change, other_change)):
        raise SettingsError("A ledger needs finite sums and changes: leave out images whose maps failed.")
    return Ledger(
        concepts=np.arange(own.shape[1], dtype=np.int64),
        reference=other.sum(axis=0),
        model=own.sum(axis=0),
        reference_change=float(other_change.sum()),
        model_change=float(own_change.sum()),
        images=len(own),
    )
