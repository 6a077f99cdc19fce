from __future__ import annotations

import pytest

from salience.report import words


@pytest.mark.parametrize(
    ("share", "digits", "text"),
    [(0.8125, 0, "81"), (1.0, 0, "100"), (0.0, 0, "0"), (0.9996, 0, ">99"), (0.0004, 0, "<1"), (0.99999, 1, ">99.9")],
)
def test_percent_never_rounds_to_all_or_nothing(share: float, digits: int, text: str) -> None:
    assert words.percent(share, digits) == f"{text}\N{NO-BREAK SPACE}%"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.42, "0.4 s"),
        (31.2, "31 s"),
        (59.6, "1 min 0 s"),
        (253.0, "4 min 13 s"),
        (3599.7, "1 h 0 min"),
        (7500, "2 h 5 min"),
    ],
)
def test_duration(seconds: float, text: str) -> None:
    assert words.duration(seconds).replace(words.NBSP, " ") == text


@pytest.mark.parametrize(
    ("per_second", "text"), [(1.5, "1.5 images/s"), (120, "120 images/s"), (0.22, "13 images/min")]
)
def test_rate(per_second: float, text: str) -> None:
    assert words.rate(per_second).replace(words.NBSP, " ") == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (9.9277, "9.93"),
        (-0.2497, "-0.250"),
        (1234.5, "1,234"),
        (1.2e-7, "1.20e-07"),
        (float("nan"), "not a number"),
    ],
)
def test_number(value: float, text: str) -> None:
    assert words.number(value) == text.replace("-", words.MINUS)


def test_short_names_drop_synonyms_but_never_merge_classes() -> None:
    names = ["tench, Tinca tinca", "crane, bird", "crane, machine", "owl", ", odd"]
    short = words.short_names(names)
    assert short == {names[0]: "tench", names[1]: names[1], names[2]: names[2], "owl": "owl", ", odd": ", odd"}
    assert len(set(short.values())) == len(names)


def test_places_do_not_show_the_machine() -> None:
    assert words.place("/media/someone/data/photos/labels.csv") == "photos/labels.csv"
    assert words.place("photos") == "photos"
    assert words.place("/photos") == "photos"


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        ("predicted", "the predicted class"),
        ("label", "the true class"),
        ("all", "every class"),
        ("class:1", "the class owl"),
        ("class:9", "the class 9"),
    ],
)
def test_targets(rule: str, text: str) -> None:
    assert words.target(rule, ("tench", "owl")) == text


def test_lead_says_what_how_well_and_how_long() -> None:
    lead = words.lead(7, ["the predicted class"], ["logit"], [("net", 0.8125)], ["31 s", "1.5 images/s"])
    assert lead.replace(words.NBSP, " ") == (
        "7 methods, explained for the predicted class (logit). 81 % right. 31 s, 1.5 images/s."
    )


def test_lead_names_models_where_there_are_several() -> None:
    lead = words.lead(1, ["the true class"], ["margin"], [("old", 0.5), ("new", 1.0)], [])
    assert (
        lead.replace(words.NBSP, " ") == "1 method, explained for the true class (margin). old 50 %, new 100 % right."
    )


def test_listed() -> None:
    assert words.listed(["a", "b", "c", "d"]) == "a, b and 2 others"
    assert words.listed(["a", "b"]) == "a and b"
