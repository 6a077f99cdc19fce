"""The tables of a run: every column, its type and its meaning, in one place."""

from __future__ import annotations

import pyarrow as pa

FORMAT = "salience-run"
VERSION = 1

_S, _I32, _I64, _F32, _F64, _B = pa.string(), pa.int32(), pa.int64(), pa.float32(), pa.float64(), pa.bool_()


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

#: tables of the stages that follow ``explain``: they have a column ``recipe``, of their stage's entry in run.json
STAGES: dict[str, dict[str, pa.Schema]] = {
    "evaluate": {
        "scores": _schema(
            ("recipe", _S, "what decides the value but for the image: see 'stages' in run.json"),
            ("image_id", _S, "the image"),
            ("model", _S, "name of the model"),
            ("method", _S, "name of the method, or of the baseline, whose map is scored"),
            ("label", _I32, "class that the map explains, null where the value is of all labels together"),
            ("position", _I32, "of the label in the image's set by falling probability: 0 is the predicted one"),
            ("metric", _S, "name of the metric"),
            ("background", _S, "what took the place of pixels, null where none were taken"),
            ("smooth", _F32, "standard deviation of the blur of the map before it was scored, in pixels of the input"),
            ("value", _F64, "the score; direction and range of the metric are in run.json"),
        ),
        "curves": _schema(
            ("recipe", _S, "what decides the values but for the image: see 'stages' in run.json"),
            ("image_id", _S, "the image"),
            ("model", _S, "name of the model"),
            ("method", _S, "name of the method or baseline"),
            ("label", _I32, "class that the map explains, and whose value is told"),
            ("position", _I32, "of the label in the image's set by falling probability: 0 is the predicted one"),
            ("background", _S, "what took the place of pixels"),
            ("smooth", _F32, "standard deviation of the blur of the map, in pixels of the input"),
            ("curve", _S, "keep: the most salient pixels stay, the others go; delete: the most salient go"),
            ("output", _S, "restricted (softmax over the label set), full (over all classes) or top (1 if it leads)"),
            ("fractions", pa.list_(_F32), "shares of pixels that stay (keep) or go (delete)"),
            ("values", pa.list_(_F64), "the output there: exact, so that other metrics can be read off it later"),
        ),
    },
}
PARTS |= {name: schema for tables in STAGES.values() for name, schema in tables.items()}
STAGE_OF = {name: stage for stage, tables in STAGES.items() for name in tables}

#: which columns name a result; of the rows of one name those of the last unit hold
NAMES: dict[str, tuple[str, ...]] = {
    "contents": ("image_id",),
    "predictions": ("image_id", "model"),
    "maps": ("recipe", "image_id"),
    "diagnostics": ("recipe", "image_id"),
    "failures": ("image_id", "model", "method", "recipe"),
    **dict.fromkeys(STAGE_OF, ("recipe", "image_id")),
}


def table(name: str, columns: dict[str, list[object]]) -> pa.Table:
    """Build a part of the table ``name`` from columns."""
    return pa.table(columns, schema=PARTS[name])
