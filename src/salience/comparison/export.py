"""A comparison for other tools: pandas data frames, FiftyOne datasets."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from salience.errors import RunError

if TYPE_CHECKING:
    from salience.comparison.result import Comparison


def to_pandas(comparison: Comparison) -> Any:
    """Return a data frame of the effects, each with its concept's quality beside it.

    Raises
    ------
    RunError
        When pandas is not installed.
    """
    _needed("pandas", "A data frame", "pip install pandas; the tables themselves are Parquet files in the run")
    effects = comparison.effects.to_pandas()
    concepts = comparison.concepts.to_pandas()
    return effects.merge(concepts, on="concept", how="left", validate="many_to_one")


def to_fiftyone(comparison: Comparison, name: str | None = None) -> Any:
    """Return a FiftyOne dataset of the compared images.

    A sample has ``ground_truth`` where its label is known; for each model ``MODEL`` (its prediction) and
    ``MODEL_heatmap`` (its map over the image, scaled by its largest absolute value to [-1, 1]); ``quadrant`` (by model
    where there are several); and ``concepts``: a detection for each segment, labelled with its concept, with the
    segment's mask and each model's share of attribution.

    Parameters
    ----------
    name
        Of the dataset; one of FiftyOne's own where None.

    Raises
    ------
    RunError
        When fiftyone is not installed, or the images are no files.
    """
    fiftyone = _needed("fiftyone", "A FiftyOne dataset", "pip install 'salience[fiftyone]'")
    rows = comparison.run.images.to_pylist()
    paths = {r["image_id"]: r["path"] for r in rows}
    if any(paths[i] is None for i in comparison.images):
        raise RunError("FiftyOne shows image files, and these images were given as arrays: compare files instead.")
    dataset = fiftyone.Dataset(name)
    dataset.add_samples(_sample(fiftyone, comparison, place, paths[i]) for place, i in enumerate(comparison.images))
    return dataset


def _sample(fiftyone: Any, comparison: Comparison, place: int, path: str) -> Any:
    image_id = comparison.images[place]
    classes = comparison.classes
    sample = fiftyone.Sample(filepath=path)
    sample["image_id"] = image_id
    label = int(comparison.labels[place])
    if label >= 0:
        sample["ground_truth"] = fiftyone.Classification(label=classes[label])
    for model in comparison.models:
        predicted = int(comparison.predicted(model)[place])
        named = classes[predicted] if predicted < len(classes) else "another class"
        field = _field(model)
        sample[field] = fiftyone.Classification(label=named)
        heat = comparison.heatmap(model, image_id)
        top = float(np.abs(heat).max())
        sample[f"{field}_heatmap"] = fiftyone.Heatmap(map=heat / top if top else heat, range=[-1.0, 1.0])
    for model in () if comparison.alone else comparison.others:
        found = comparison.quadrants(model).get(image_id)
        if found is not None:
            sample["quadrant" if len(comparison.others) == 1 else f"quadrant_{_field(model)}"] = found
    sample["concepts"] = fiftyone.Detections(detections=_detections(fiftyone, comparison, image_id))
    return sample


def _detections(fiftyone: Any, comparison: Comparison, image_id: str) -> list[Any]:
    labels = comparison.label_map(image_id)
    rows = comparison.segments_of(image_id)
    found = []
    for row in rows:
        box, mask = _cut(labels == row["segment"])
        seen = {
            "label": comparison.concept_name(row["concept"]),
            "bounding_box": box,
            "mask": mask,
            "confidence": row["similarity"],
            "segment": row["segment"],
            **{f"share_{_field(m)}": row["shares"][m] for m in comparison.models},
        }
        found.append(fiftyone.Detection(**seen))
    return found


def _cut(inside: npt.NDArray[np.bool_]) -> tuple[list[float], npt.NDArray[np.bool_]]:
    """Return a mask's box (x, y, width, height) as shares of the image, and the mask within it."""
    height, width = inside.shape
    down, across = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
    top, bottom, left, right = down[0], down[-1] + 1, across[0], across[-1] + 1
    box = [left / width, top / height, (right - left) / width, (bottom - top) / height]
    return [float(v) for v in box], inside[top:bottom, left:right]


def _field(model: str) -> str:
    """Return a model's name as a field of a sample may be called."""
    return "".join(c if c.isalnum() else "_" for c in model)


def _needed(module: str, what: str, cure: str) -> Any:
    try:
        return import_module(module)
    except ImportError as error:
        raise RunError(f"{what} needs {module}, which is not installed: {cure}.") from error
