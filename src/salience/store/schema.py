"""The tables of a run: every column, its type and its meaning, in one place."""

from __future__ import annotations

import pyarrow as pa

FORMAT = "salience-run"
VERSION = 1

_S, _I32, _I64, _F32, _F64, _B = pa.string(), pa.int32(), pa.int64(), pa.float32(), pa.float64(), pa.bool_()
_NAME = pa.dictionary(_I32, _S)
"""A name that many rows share: each is held once."""


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
        ("kind", _S, "unreadable, label, model, map, memory or crash"),
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
    "compare": {
        "partitions": _schema(
            ("recipe", _S, "how the image was partitioned: see 'stages' in run.json"),
            ("image_id", _S, "the image"),
            ("height", _I32, "rows of the label map"),
            ("width", _I32, "columns of the label map"),
            ("segments", _I32, "number of segments: labels are 0 to segments - 1"),
            ("names", pa.list_(_S), "of a user's masks, one for each segment; null otherwise"),
            ("labels", pa.binary(), "the label map, uint16 little-endian, row by row, as one Zstandard frame"),
        ),
        "embeddings": _schema(
            ("recipe", _S, "of which partition, by which encoder: see 'stages' in run.json"),
            ("image_id", _S, "the image"),
            ("segments", _I32, "rows of the array"),
            ("dimensions", _I32, "columns of the array"),
            (
                "values",
                pa.binary(),
                "the segments' embeddings, float16 little-endian, row by row, as one Zstandard frame",
            ),
        ),
        "drops": _schema(
            ("recipe", _S, "which model, scalar and segments: see 'stages' in run.json"),
            ("image_id", _S, "the image"),
            ("model", _S, "name of the model"),
            ("target", _I32, "class whose scalar is told"),
            ("concept", _I32, "the concept whose segments were changed"),
            ("fill", _S, "what took the place of pixels: blur or mean"),
            ("area", _F32, "share of the image that the concept's segments cover"),
            ("control_area", _F32, "share that the control's segments cover"),
            ("clean", _F64, "the scalar of the image as it is"),
            ("changed", _F64, "the scalar when the concept's segments are filled"),
            ("control", _F64, "the scalar when the control's segments are filled"),
        ),
    },
}
PARTS |= {name: schema for tables in STAGES.values() for name, schema in tables.items()}
STAGE_OF = {name: stage for stage, tables in STAGES.items() for name in tables}

#: tables of a run as a whole, written anew when a verb ends: one file each, ``derived/<name>.parquet``
DERIVED: dict[str, pa.Schema] = {
    "measures": _schema(
        ("measure", _NAME, "what is asked of the model: entropy, out-of-set, geometry, stability or degradation"),
        ("form", _NAME, "published, or corrected"),
        ("statistic", _NAME, "which number of that measure and form, e.g. ssim, pearson, gini"),
        ("condition", _NAME, "how the image was changed before it was explained; clean where it was not"),
        ("method", _NAME, "the saliency method"),
        ("group", _NAME, "training recipe that the model is a run of"),
        ("model", _NAME, "name of the model: one training run; null where the number is of the group's runs together"),
        ("image_id", _NAME, "the image, of the second dataset where condition is out-of-set; null: of all its images"),
        ("value", _F64, "the number; its direction and range are in run.json"),
    ),
    "run_pairs": _schema(
        ("measure", _S, "stability"),
        ("form", _S, "published, or corrected"),
        ("statistic", _S, "as in measures"),
        ("method", _S, "the saliency method"),
        ("group", _S, "training recipe that both models are runs of"),
        ("first", _S, "name of a model"),
        ("second", _S, "name of a later model of the group"),
        ("images", _I64, "images that have a value"),
        ("value", _F64, "mean over them of the number of the two runs"),
    ),
    "group_effects": _schema(
        ("measure", _S, "as in measures"),
        ("form", _S, "published, or corrected"),
        ("statistic", _S, "as in measures"),
        ("condition", _S, "as in measures; 'all' where conditions are averaged"),
        ("method", _S, "the saliency method"),
        ("group", _S, "a training recipe"),
        ("reference", _S, "the recipe that it is compared with; null where the row is of the group alone"),
        ("runs", _I32, "training runs of the group"),
        ("reference_runs", _I32, "training runs of the reference, null where there is none"),
        ("images", _I64, "images behind the numbers"),
        ("value", _F64, "mean of the group, or its difference from the reference"),
        ("low", _F64, "lower end of the 95 % interval, null where none can be given"),
        ("high", _F64, "upper end of the 95 % interval, null where none can be given"),
        (
            "effect_size",
            _F64,
            "difference over the pooled standard deviation of the runs (Hedges' g), null without one",
        ),
        ("p", _F64, "p-value of the difference; of a group alone, of the second dataset against the first; else null"),
        ("q", _F64, "p adjusted for the number of comparisons, null where there is no p"),
    ),
    "segments": _schema(
        ("image_id", _S, "the image"),
        ("segment", _I32, "number of the segment within the image: its value in the image's label map"),
        ("name", _S, "of a user's mask; null otherwise"),
        ("concept", _I32, "the concept that it is assigned to"),
        ("similarity", _F32, "cosine of its embedding with the concept's centre"),
        ("area", _F32, "share of the image that it covers, 0 to 1"),
        ("row", _F32, "vertical place of its centre, 0 top to 1 bottom"),
        ("column", _F32, "horizontal place of its centre, 0 left to 1 right"),
        ("discovered", _B, "whether it was among the segments that the concepts were found from"),
    ),
    "attributions": _schema(
        ("image_id", _S, "the image"),
        ("segment", _I32, "as in segments"),
        ("model", _S, "name of the model"),
        ("target", _I32, "class that was explained"),
        ("total", _F64, "sum of the raw map over the segment, in units of the explained scalar"),
        ("share", _F64, "total over the sum of absolute values of the whole map: -1 to 1"),
    ),
    "concepts": _schema(
        ("concept", _I32, "number of the concept, by falling size of what differs"),
        ("name", _S, "of a user's mask; null for a concept that was found"),
        ("segments", _I64, "segments assigned to it"),
        ("images", _I64, "images that have one of them"),
        ("cohesion", _F64, "mean cosine of its segments with its centre"),
        ("separation", _F64, "cohesion less the mean cosine with the nearest other centre"),
        ("stability", _F64, "mean largest Jaccard index over bootstrap clusterings, 0 to 1"),
        ("class_entropy", _F64, "entropy of its images' classes over its maximum, 0: one class"),
        ("position_entropy", _F64, "entropy of its segments' places over its maximum, 0: always one place"),
        ("median_area", _F64, "median share of the image that one of its segments covers"),
        ("row", _F64, "mean vertical place of its segments, 0 top to 1 bottom"),
        ("column", _F64, "mean horizontal place, 0 left to 1 right"),
    ),
    "effects": _schema(
        ("concept", _I32, "the concept"),
        ("model", _S, "the model that is compared with the reference"),
        ("family", _S, "direction, use or ledger"),
        ("stratum", _S, "class, quadrant or all"),
        ("n", _I64, "independent units (images, or groups) behind the effect"),
        ("effect", _F64, "mean difference, model less reference; of one model alone its mean"),
        ("low", _F64, "lower end of the 95 % BCa interval, null where none can be given"),
        ("high", _F64, "upper end"),
        ("d_z", _F64, "effect over the standard deviation of the differences"),
        ("p", _F64, "p-value, null where fewer units than needed"),
        ("q", _F64, "p adjusted over the family, and for there being several families: Benjamini-Bogomolov"),
        ("p_max", _F64, "p adjusted by the largest statistic of the family (max-T)"),
        ("detectable", _F64, "smallest effect found with power 0.8 at this n"),
        ("confirmed", _B, "attribution and intervention agree in sign, both beyond chance; null where not tested"),
    ),
    "interventions": _schema(
        ("concept", _I32, "the concept whose pixels were changed"),
        ("model", _S, "the model that is compared with the reference"),
        ("fill", _S, "what took the place of its pixels: blur or mean"),
        ("stratum", _S, "class, quadrant or all"),
        ("n", _I64, "independent units behind the effect"),
        ("reference_drop", _F64, "fall of the reference's scalar beyond that under an equal area of other segments"),
        ("model_drop", _F64, "the same of the model"),
        ("effect", _F64, "their mean paired difference, model less reference"),
        ("low", _F64, "lower end of its 95 % interval"),
        ("high", _F64, "upper end"),
        ("p", _F64, "p-value of the difference"),
        ("q", _F64, "Benjamini-Hochberg over all interventions on the model"),
    ),
}

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
