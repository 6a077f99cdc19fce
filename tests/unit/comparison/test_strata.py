"""Slices of images, and classes that go by other names."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from salience.comparison.strata import (
    QUADRANTS,
    align_classes,
    all_images,
    by_class,
    by_quadrant,
    class_stratum,
    mcnemar,
    quadrants,
    read_class_map,
)
from salience.errors import SettingsError


def test_quadrants_of_labelled_images() -> None:
    labels, reference, model = [0, 1, 2, 3, -1, 1], [0, 1, 0, 0, 0, -1], [0, 2, 2, 1, 0, -1]
    assert quadrants(labels, reference, model) == [*QUADRANTS, None, "both-wrong"]


def test_swapped_models_swap_quadrants() -> None:
    rng = np.random.default_rng(0)
    labels, a, b = rng.integers(0, 3, (3, 200))
    other = {"only-reference": "only-model", "only-model": "only-reference"}
    assert quadrants(labels, b, a) == [other.get(q, q) for q in quadrants(labels, a, b)]


def test_quadrants_of_unequal_lengths() -> None:
    with pytest.raises(SettingsError, match="equal length"):
        quadrants([0, 1], [0], [0, 1])


def test_mcnemar_is_of_the_images_that_one_gets_right() -> None:
    assert mcnemar(0, 5) == pytest.approx(2 / 32)


def test_strata_are_places_of_images() -> None:
    found = by_class(["dog", None, "cat", "dog", "cat"])
    assert [(s.name, s.images.tolist()) for s in found] == [("class:cat", [2, 4]), ("class:dog", [0, 3])]
    assert class_stratum("cat") == "class:cat"
    assert all_images(3).images.tolist() == [0, 1, 2]
    found = by_quadrant(["both-wrong", None, "both-right", "both-wrong"])
    assert [(s.name, s.images.tolist()) for s in found] == [("both-right", [2]), ("both-wrong", [0, 3])]
    assert by_class([None, None]) == []


# ------------------------------------------------------------------ class maps


def write(folder: Path, text: str) -> Path:
    path = folder / "classes.csv"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("gap", [",", ";", "\t"])
def test_class_map(tmp_path: Path, gap: str) -> None:
    rows = [
        ("model", "from", "to", "why"),
        ("new", "tabby cat", "cat", "x"),
        ("new", "3", "dog", ""),
        ("b", "a", "b", ""),
    ]
    text = "\ufeff" + "\n".join(gap.join(row) for row in rows) + "\n\n"
    assert read_class_map(write(tmp_path, text)) == {"new": {"tabby cat": "cat", "3": "dog"}, "b": {"a": "b"}}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty: a class map has the columns"),
        ("model,from,to\n", "maps nothing"),
        ("model,source,target\na,b,c\n", "no column 'from' and no column 'to'.*here are 'model', 'source', 'target'"),
        ("model,from,to\nnew,cat\n", "row 2: 2 cells where the header has 3"),
        ("model,from,to\nnew,cat,\n", "row 2: the column 'to' is empty"),
        ("model,from,to\n ,cat,dog\n", "row 2: the column 'model' is empty"),
        ("model,from,to\nnew,cat,dog\nnew,cat,cow\n", "row 3: class 'cat' of 'new' is to be 'cow'.*says 'dog'"),
        ('model,from,to\nnew,"cat"x,dog\n', "cannot be read"),
    ],
)
def test_class_maps_that_cannot_be_used(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        read_class_map(write(tmp_path, text))


def test_class_map_that_is_no_text(tmp_path: Path) -> None:
    path = tmp_path / "classes.csv"
    with pytest.raises(SettingsError, match="cannot be read"):
        read_class_map(path)
    path.write_bytes(b"model,from,to\n\xff\xfe\xff,b,c\n")
    with pytest.raises(SettingsError, match="not UTF-8"):
        read_class_map(path)


def test_the_same_row_twice_is_once(tmp_path: Path) -> None:
    assert read_class_map(write(tmp_path, "model,from,to\na,b,c\na,b,c\n")) == {"a": {"b": "c"}}


def test_classes_are_matched_by_name() -> None:
    found = align_classes(["Tabby-cat", "horse", "DOG "], ["dog", "tabby cat", "cow"])
    np.testing.assert_array_equal(found, [1, -1, 0])


def test_class_map_goes_before_names() -> None:
    pairs = {"tabby": "cat", "siamese": "cat", "dog": "cow", "3": "2"}
    found = align_classes(["tabby", "siamese", "dog", "ox"], ["cat", "dog", "cow"], pairs)
    np.testing.assert_array_equal(found, [0, 0, 2, 2])


def test_equal_lists_are_equal_although_names_repeat() -> None:
    names = ["crane", "tench", "crane"]
    np.testing.assert_array_equal(align_classes(names, names), [0, 1, 2])


@pytest.mark.parametrize(
    ("model", "pairs", "message"),
    [
        (["a", "crane"], None, r"'crane' of new may be any of the reference's classes \[0, 2\]"),
        (["tench"], {"tensh": "tench"}, "'tensh' of the class map is no class of new. Did you mean 'tench'"),
        (["tench"], {"tench": "7"}, "'7' of the class map is no class of the reference"),
        (["tench"], {"tench": "crane"}, r"'crane' is the name of the classes \[0, 2\] of the reference"),
    ],
)
def test_classes_that_cannot_be_found(model: list[str], pairs: dict[str, str] | None, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        align_classes(model, ["crane", "tench", "crane"], pairs, name="new")
