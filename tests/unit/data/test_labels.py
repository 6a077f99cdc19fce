from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from salience.data.base import ImageRef, Label
from salience.data.labels import Labels, parse_labels, resolve_labels
from salience.errors import ImagesError

ANIMALS = ("tench, Tinca tinca", "great white shark, white shark", "house_cat", "owl")


def resolve(
    labels: Sequence[Label | None],
    class_names: Sequence[str] | None,
    num_classes: int | None = None,
    *,
    label_names: Sequence[str] | None = None,
    titles: dict[Label, str] | None = None,
) -> Labels:
    refs = [ImageRef(i, f"{i:06d}", label, None) for i, label in enumerate(labels)]
    names = label_names or tuple(sorted({x for x in labels if isinstance(x, str)})) or None
    return resolve_labels(refs, names, class_names, num_classes or len(class_names or ()), titles=titles)


def test_indices_are_taken_as_they_are() -> None:
    assert resolve([3, 0, None], ANIMALS) == Labels([3, 0, None])


@pytest.mark.parametrize("label", [-1, 4])
def test_index_out_of_range_names_image_label_and_range(label: int) -> None:
    with pytest.raises(ImagesError, match=rf"image 000001 has label {label}, but the model has 4 classes: 0 to 3"):
        resolve([0, label], ANIMALS)


@pytest.mark.parametrize(
    ("name", "index"),
    [
        ("owl", 3),
        ("OWL", 3),
        ("house cat", 2),
        ("House-Cat", 2),
        ("tench", 0),
        ("Tinca_tinca", 0),
        ("tench, Tinca tinca", 0),
        ("white shark", 1),
        ("great_white_shark", 1),
        ("Tinca tinca, tench", 0),
    ],
)
def test_names_are_found(name: str, index: int) -> None:
    assert resolve([name, None], ANIMALS) == Labels([index, None])


def test_names_that_are_missing_have_no_label_and_are_noted() -> None:
    labels = resolve(["owl", "unicorn"], ANIMALS)
    assert labels.values == [3, None]
    assert "1 of 2 label names" in labels.note
    assert "'unicorn'" in labels.note


def test_ambiguous_names_have_no_label_and_are_noted() -> None:
    labels = resolve(["crane", "owl"], ("crane", "crane", "owl"))
    assert labels.values == [None, 2]
    assert "'crane'" in labels.note


def test_exact_names_win_over_lenient_ones() -> None:
    assert resolve(["a", "A"], ("A", "a")) == Labels([1, 0])


def test_sorted_order_where_there_are_as_many_names_as_classes() -> None:
    labels = resolve(["n2", "n1", "n3"], ("x", "y", "z"))
    assert labels.values == [1, 0, 2]
    assert "sorted order" in labels.note
    assert "n1 = 0, n2 = 1" in labels.note


def test_sorted_order_counts_names_that_a_limit_left_out() -> None:
    assert resolve(["n3"], None, 3, label_names=("n1", "n2", "n3")).values == [2]
    none = resolve(["n3"], None, 2, label_names=("n1", "n2", "n3"))
    assert none.values == [None]
    assert "cannot be the order" in none.note


def test_numbers_as_folder_names_are_indices() -> None:
    labels = resolve(["007", "1"], None, 10)
    assert labels.values == [7, 1]
    assert "taken for class indices" in labels.note
    assert resolve(["7", "10"], None, 10).values == [None, None]


def test_numbers_that_are_class_names_are_names() -> None:
    assert resolve(["10", "2"], ("0", "1", "10", "2")) == Labels([2, 3])


def test_unpadded_numbers_warn_of_the_order_of_image_folder() -> None:
    names = [str(i) for i in range(12)]
    labels = resolve(names, None, 12)
    assert labels.values == list(range(12))
    assert "ImageFolder" in labels.note


def test_numbers_that_name_one_index_twice_are_no_indices() -> None:
    labels = resolve(["1", "01"], None, 5)
    assert labels.values == [None, None]
    assert labels.note


def test_titles_help_to_find_names() -> None:
    labels = resolve(["n1", "n2"], ANIMALS, titles={"n1": "owl", "n2": "tench"})
    assert labels == Labels([3, 0])
    shortened = resolve(["n1", "n2"], ("maillot", "maillot, tank suit", "owl"), titles={"n1": "maillot", "n2": "owl"})
    assert shortened.values == [None, 2]


def test_titles_betray_indices_that_are_off_by_one() -> None:
    assert resolve([0, 3], ANIMALS, titles={0: "tench", 3: "owl"}).note == ""
    labels = resolve([1, 2], ANIMALS, titles={1: "tench", 2: "great white shark"})
    assert labels.values == [1, 2]
    assert "2 of 2 labels" in labels.note
    assert "1 is named 'tench', which is its class 0" in labels.note


def test_no_labels_at_all() -> None:
    assert resolve([None, None], ANIMALS) == Labels([None, None])


@given(st.lists(st.text(max_size=6), min_size=1, max_size=8), st.lists(st.text(max_size=6), max_size=8))
def test_a_label_is_right_or_missing_and_never_without_a_note(classes: list[str], names: list[str]) -> None:
    labels = resolve(names, classes)
    assert len(labels.values) == len(names)
    for name, value in zip(names, labels.values, strict=True):
        assert value is None or 0 <= value < len(classes)
        if value is None:
            assert labels.note
        elif name in classes and not labels.note:
            assert classes[value] == name


@pytest.mark.parametrize(
    ("given", "parsed"),
    [
        ([1, None, 2], [1, None, 2]),
        ([1.0, float("nan")], [1, None]),
        (["1", "02", "3.0", " "], [1, 2, 3, None]),
        (["a", "", " b "], ["a", None, "b"]),
        (np.array([1, 2], dtype=np.uint8), [1, 2]),
        (np.array(["a", "b"]), ["a", "b"]),
        ([np.int64(4), np.float32(5)], [4, 5]),
        ((), []),
    ],
)
def test_labels_are_read(given: object, parsed: list[Label | None]) -> None:
    assert parse_labels(given, lambda i: f"label {i}") == parsed


@pytest.mark.parametrize(
    "bad", [[1, 2.5], [True], [1, "owl"], ["owl", 1], ["owl", "1"], [[1]], ["1", "1.5"], [object()]]
)
def test_labels_that_are_neither_are_refused(bad: list[object]) -> None:
    with pytest.raises(ImagesError, match=r"label \d is"):
        parse_labels(bad, lambda i: f"label {i}")
