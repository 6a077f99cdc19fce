"""The tables of a run: every column, its type and its meaning, in one place."""

from __future__ import annotations

import pyarrow as pa

FORMAT = "salience-run"
VERSION = 1

_S, _I32, _I64, _F32, _B = pa.string(), pa.int32(), pa.int64(), pa.float32(), pa.bool_()


def _schema(*columns: tuple[str, pa.DataType, str]) -> pa.Schema:
    return pa.schema([pa.field(name, kind, metadata={"meaning": meaning}) for name, kind, meaning in columns])


IMAGES = _schema(
    ("image_id", _S, "stable name of the image: its relative path, or its number in an array"),
    ("index", _I64, "position in the source"),
    ("path", _S, "absolute path of the file, null for arrays"),
    ("label", _I32, "true class as an index into the model's classes, null where unknown"),
    ("label_text", _S, "the label as the source gives it"),
    ("group", _S, "the user's group of images (patient, scene), null where none"),
    ("boxes", pa.list_(pa.list_(_F32)), "boxes x0, y0, x1, y1 in pixels of the stored image"),
)

PARTS: dict[str, pa.Schema] = {
    "contents": _schema(
        ("image_id", _S, "the image"),
        ("content_hash", _S, "hash of the file's or array's bytes"),
        ("bytes", _I64, "size of the file when it was read"),
        ("mtime_ns", _I64, "time of last change of the file when it was read"),
        ("width", _I32, "pixels, after EXIF rotation"),
        ("height", _I32, "pixels, after EXIF rotation"),
    ),
    "predictions": _schema(
        ("image_id", _S, "the image"),
        ("model", _S, "name of the model"),
        ("predicted", _I32, "class with the largest logit"),
        ("probability", _F32, "softmax probability of the predicted class, 0 to 1"),
        ("logits", pa.list_(_F32), "all logits"),
        ("key", _S, "hashes of the weights and of the image's content"),
    ),
    "maps": _schema(
        ("recipe", _S, "which array: see 'recipes' in run.json"),
        ("image_id", _S, "the image"),
        ("target", _I32, "class that was explained"),
        ("row", _I64, "index into the first axis of the array"),
        ("scale", _F32, "the map is the stored array times this"),
        ("score", _F32, "value of the explained scalar at the clean image"),
        ("key", _S, "hash of the image's content, and the label where that is the target"),
    ),
    "diagnostics": _schema(
        ("recipe", _S, "which array: see 'recipes' in run.json"),
        ("image_id", _S, "the image"),
        ("target", _I32, "class that was explained"),
        ("name", _S, "what was measured, e.g. completeness_gap"),
        ("value", _F32, "its value"),
    ),
    "failures": _schema(
        ("image_id", _S, "the image"),
        ("model", _S, "name of the model"),
        ("method", _S, "name of the method, null where the image failed for all"),
        ("recipe", _S, "which array, null where the image failed for all"),
        ("kind", _S, "unreadable, label, model, map or memory"),
        ("message", _S, "what went wrong"),
        ("key", _S, "content hash or file stamp under which it failed"),
    ),
}

#: which columns name a result; of the rows of one name those of the last unit hold
NAMES: dict[str, tuple[str, ...]] = {
    "contents": ("image_id",),
    "predictions": ("image_id", "model"),
    "maps": ("recipe", "image_id"),
    "diagnostics": ("recipe", "image_id"),
    "failures": ("image_id", "model", "method", "recipe"),
}


def table(name: str, columns: dict[str, list[object]]) -> pa.Table:
    """Build a part of the table ``name`` from columns."""
    return pa.table(columns, schema=PARTS[name])
