"""The numbers of images, class by class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from salience.behaviour.view import Numbers
from salience.stats import bootstrap_mean
from salience.store.run import Run


def class_rows(rows: pa.Table, run: Run, names: Sequence[str]) -> list[dict[str, Any]]:
    """Return a row for each class, in the order of classes: the mean over its images, with its interval over images.

    Parameters
    ----------
    rows
        Of the table ``measures``: of one statistic, each of an image.
    run
        Tells labels, predictions and the user's groups of images.
    names
        Of the classes.

    Returns
    -------
    list of dict
        See :meth:`salience.behaviour.audit.Audit.by_class`.
    """
    classes = _classes_of(rows, run)
    image, ids = _coded(rows, "image_id")
    units = dict(zip(*(run.images[c].to_pylist() for c in ("image_id", "group")), strict=True))
    values = rows["value"].to_numpy()
    out = []
    for number in np.unique(classes[classes >= 0]).tolist():
        own = classes == number
        seen, place = np.unique(image[own], return_inverse=True)
        means = np.bincount(place, values[own]) / np.bincount(place)
        found = bootstrap_mean(means, groups=[units.get(ids[i]) or f"image {ids[i]}" for i in seen.tolist()])
        out.append(
            {
                "class": names[number] if number < len(names) else str(number),
                "index": number,
                "images": len(seen),
                "value": found.value,
                "low": found.low if found.n > 1 else None,
                "high": found.high if found.n > 1 else None,
            }
        )
    return out


def _classes_of(rows: pa.Table, run: Run) -> Numbers:
    """Return the class of each row's image, -1 where it has none: its label, else what the row's model predicts."""
    images, ids = _coded(rows, "image_id")
    labels = run.images["label"]
    if labels.null_count < len(labels):
        known = dict(zip(run.images["image_id"].to_pylist(), labels.to_pylist(), strict=True))
        of_image = np.array([-1 if known.get(i) is None else known[i] for i in ids], dtype=np.int64)
        return of_image[images]
    models, names = _coded(rows, "model")
    answers = run.table("predictions").select(["model", "image_id", "predicted"]).to_pylist()
    told = {(r["model"], r["image_id"]): r["predicted"] for r in answers}
    by_model = np.array([[told.get((m, i), -1) for i in ids] for m in names], dtype=np.int64)
    return np.where(models < 0, -1, by_model[models, images])


def _coded(rows: pa.Table, column: str) -> tuple[Numbers, list[str]]:
    """Return the number of each row's name, -1 where it has none, and the names."""
    names = rows[column].combine_chunks()
    return names.indices.fill_null(-1).to_numpy().astype(np.int64), names.dictionary.to_pylist()
