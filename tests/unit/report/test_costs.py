"""What the page says of black-box maps: their cost, and how they settled."""

from __future__ import annotations

from pathlib import Path

from test_write_report import write

from salience.report.figures import chart, curve_of
from synthetic_runs import FakeMethod, FakeModel, FakeRun

METHODS = (FakeMethod("gradcam"), FakeMethod("rise", queries=257), FakeMethod("<i>", queries=201))
BLACK_BOXES = (FakeModel(methods=METHODS),)


def test_a_curve_is_read_from_what_stands_beside_a_map() -> None:
    beside = {"forward_passes": 200.0, "agreement@128": 0.7, "agreement@64": 0.5, "output_change": 1.0}
    assert curve_of(beside) == ("agreement", [(64, 0.5), (128, 0.7)])
    assert curve_of({"fitness@10": 0.2, "fitness@20": float("nan")}) == ("fitness", [(10, 0.2)])
    assert curve_of({"unknown@10": 0.2, "agreement@x": 1.0}) is None


def test_a_chart_is_logarithmic_in_queries_and_begins_at_zero() -> None:
    found = chart("agreement", {"a": [(64, 0.5), (256, 1.0)], "b": [(128, 0.25), (256, 1.0)]}, width=200, height=100)
    assert found.ticks == [(0.0, "64"), (100.0, "128"), (200.0, "256")]
    assert [text for _, text in found.levels] == ["0.00", "0.50", "1.00"]
    assert [line.points for line in found.lines] == ["0.0,50.0 200.0,0.0", "100.0,75.0 200.0,0.0"]
    assert [line.last for line in found.lines] == [1.0, 1.0]


def test_negative_values_are_on_the_chart() -> None:
    found = chart("fitness", {"a": [(8, -0.5), (16, 0.5)]}, height=100)
    assert found.lines[0].points.split()[0].endswith(",100.0")


def test_the_page_says_what_black_boxes_cost(tmp_path: Path) -> None:
    page = write(FakeRun(tmp_path, models=BLACK_BOXES))
    assert "What the black-box maps cost" in page.text
    assert "Agreement half-way" in page.text
    assert "<i>" in page.text  # as text: the name was escaped
    maps = page.data["models"][0]["entries"][0]["maps"]
    assert ["forward passes", "257", "what this map cost, the image itself among them"] in maps["1"][0]["notes"]
    assert maps["1"][0]["curve"] == {
        "of": "correlation with the final map",
        "points": [[64, 0.25], [128, 0.75], [256, 1.0]],
    }
    assert "curve" not in maps["0"][0]
    assert not [n for n in maps["1"][0]["notes"] if "@" in n[0]]
    lines = [a for tag, a in page.elements if tag == "polyline"]
    assert len(lines) == 2


def test_a_run_without_black_boxes_says_nothing_of_cost(tmp_path: Path) -> None:
    page = write(FakeRun(tmp_path))
    assert "black-box" not in page.text
