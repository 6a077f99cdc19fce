"""The figures of scores, the masks made again from stored maps, and the verdict in words."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch.nn import functional as F

from evaluated_runs import HOSTILE, evaluated
from salience.engine.fills import fill, gaussian_blur
from salience.engine.masked import falling_ranks, tie_order
from salience.errors import RunError
from salience.report import write_report
from salience.report.trust import masks
from salience.report.trust.boards import boards, draw, value_text
from salience.report.trust.curves import means, sweeps
from salience.report.trust.drill import worst_label
from salience.report.trust.figures import Band, Box, Point, area, axis, plane, slopes, trace
from salience.report.trust.verdict import alarms, verdict
from salience.scores import Scores, read_scores

# ---------------------------------------------------------------------- axes


def test_axes_have_round_ends_around_their_values() -> None:
    line = axis([0.26, 0.83])
    assert (line.low, line.high) == (0.2, pytest.approx(1.0))
    assert [text for _, text in line.ticks] == ["0.2", "0.4", "0.6", "0.8", "1.0"]
    assert line.share(0.6) == pytest.approx(0.5)
    assert (line.share(-9), line.share(9)) == (0.0, 1.0)


def test_axes_stay_within_the_bounds_of_the_metric() -> None:
    line = axis([0.01, 0.98], 0.0, 1.0)
    assert (line.low, line.high) == (0.0, 1.0)
    below = axis([-0.31, 0.12])
    assert below.low <= -0.31
    assert below.ticks[0][1].startswith("\N{MINUS SIGN}")


def test_an_axis_of_one_value_has_an_extent() -> None:
    line = axis([0.5, 0.5])
    assert line.low < 0.5 < line.high
    assert axis([float("nan")]).high > axis([]).low


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.5, "0.500"),
        (-0.25, "\N{MINUS SIGN}0.250"),
        (12345.6, "12,346"),
        (2e-5, "2.00e\N{MINUS SIGN}05"),
        (0.0, "0.000"),
    ],
)
def test_scores_as_text(value: float, text: str) -> None:
    assert value_text(value) == text


# ---------------------------------------------------------------------- the plane


def cloud(count: int, spread: float, seed: int = 0) -> list[Point]:
    rng = np.random.default_rng(seed)
    found = []
    for i in range(count):
        x, y = np.clip(0.4 + spread * rng.normal(size=2), 0.02, 0.98).tolist()
        name = ("class-agnostic:", "method ")[i % 2] + "x" * int(rng.integers(1, 14))
        found.append(
            Point(name, i % 2 == 0, (x, max(0, x - 0.05), min(1, x + 0.05)), (y, max(0, y - 0.05), min(1, y + 0.05)))
        )
    return found


@pytest.mark.parametrize("count", [1, 5, 12])
@pytest.mark.parametrize("spread", [0.0, 0.02, 0.3])
@pytest.mark.parametrize(("side", "numbered"), [(600.0, False), (300.0, True)])
def test_labels_meet_neither_each_other_nor_a_dot(count: int, spread: float, side: float, numbered: bool) -> None:
    drawn = plane(cloud(count, spread), side, numbered=numbered)
    paper = Box(0, 0, side, side)
    boxes = [s.label.box for s in drawn.spots]
    assert all(b.within(paper) for b in boxes)
    assert not any(a.meets(b) for a, b in combinations(boxes, 2))
    dots = [Box(s.x - 4, s.y - 4, s.x + 4, s.y + 4) for s in drawn.spots]
    assert not any(b.meets(d) for b in boxes for d in dots)


def test_the_plane_has_its_best_corner_at_the_upper_right() -> None:
    one = Point("a", False, (0.75, 0.7, 0.8), (0.25, 0.2, 0.4))
    (spot,) = plane([one], 400).spots
    assert (spot.x, spot.y) == (300, 300)
    assert (spot.left, spot.right) == pytest.approx((280, 320))
    assert (spot.top, spot.bottom) == pytest.approx((240, 320))  # the higher end of soundness is above
    assert spot.label.text == "a"
    assert spot.label.leader is None


def test_labels_leave_the_words_of_the_regions_alone_where_they_can() -> None:
    corner = Point("a name", False, (0.93, 0.92, 0.94), (0.12, 0.11, 0.13))
    drawn = draw([corner], 600)
    words = drawn.words[2]
    assert words.lines[1] == "could justify any label"
    (spot,) = drawn.plane.spots
    assert not spot.label.box.meets(Box(words.x - 180, words.y - 13, words.x, words.y + 20))


# ---------------------------------------------------------------------- ranks and curves


def test_slopes_lead_from_rank_to_rank() -> None:
    found = slopes(["mean", "blur"], {"a": [1, 3], "b": [2, 1], "z": [3, 2]}, ["z"], ["τ -0.33"], 600, 100, 20)
    assert [x for x, _ in found.columns] == [100, 500]
    assert found.between == ((300, "τ -0.33"),)
    tracks = {t.name: t for t in found.tracks}
    assert [t.name for t in found.tracks] == ["z", "a", "b"]  # baselines are drawn below
    assert [(x, rank) for x, _, rank in tracks["a"].dots] == [(100, 1), (500, 3)]
    assert tracks["a"].dots[0][1] < tracks["a"].dots[1][1]  # a worse rank is further down
    assert (tracks["a"].moves, tracks["b"].moves) == (2, 1)
    assert tracks["b"].path.startswith("M100.0 40.5C")


def test_a_trace_is_the_mean_within_its_band() -> None:
    band = Band((0.0, 0.5, 1.0), (0.0, 0.5, 1.0), (0.0, 0.4, 1.0), (0.0, 0.7, 1.0))
    found = trace("predicted", band, 200, 100)
    assert found.line == "0.0,100.0 100.0,50.0 200.0,0.0"
    assert found.band == "0.0,100.0 100.0,30.0 200.0,0.0 200.0,0.0 100.0,60.0 0.0,100.0"
    assert found.area == area(band) == pytest.approx(0.5)


# ---------------------------------------------------------------------- masks


@pytest.mark.parametrize("smooth", [0.0, 2.0])
@pytest.mark.parametrize("grid", [(24, 24), (6, 4)])
def test_pixels_leave_in_the_order_of_the_sweep(grid: tuple[int, int], smooth: float) -> None:
    rng = np.random.default_rng(3)
    raw = np.maximum(rng.normal(size=grid), 0).astype(np.float32)  # half of it ties at zero
    size = (24, 24)
    values = torch.from_numpy(raw)[None, None]
    if grid != size:
        values = F.interpolate(values, size, mode="bilinear", align_corners=False)
    if smooth:
        values = gaussian_blur(values, smooth)
    expected = falling_ranks(values[0], tie_order(["bee/000.png"], 24 * 24, 7))[0].numpy()
    found = masks.ranks(raw, size, "bee/000.png", 7, smooth)
    if smooth or grid != size:  # sums in another order: pixels whose values differ by a rounding may change places
        falling = values.flatten().numpy()[np.argsort(found.ravel())]
        assert (np.diff(falling) <= 2e-6).all()
        assert sorted(found.ravel().tolist()) == list(range(24 * 24))
    else:
        assert (found == expected).all()


def test_levels_hold_the_masks_of_all_points() -> None:
    rank = np.random.default_rng(0).permutation(100).reshape(10, 10)
    counts = masks.all_counts([[0.0, 0.25, 0.5, 1.0], [0.0, 0.1, 1.0]], 100)
    assert counts == [0, 10, 25, 50, 100]
    found = masks.levels(rank, counts)
    for j, count in enumerate(counts):
        assert ((found <= j) == (rank < count)).all()
    assert len(masks.all_counts([np.linspace(0, 1, 5000).tolist()], 50176)) == masks.MOST_LEVELS


@pytest.mark.parametrize("name", ["black", "grey", "white", "mean", "blur"])
def test_backgrounds_are_those_of_the_metric(name: str) -> None:
    image = np.random.default_rng(1).random((16, 24, 3), dtype=np.float32)
    expected = fill(name, torch.from_numpy(image).permute(2, 0, 1)[None])[0].expand(3, -1, -1).permute(1, 2, 0).numpy()
    found = masks.background(name, image, (0, 0, 0))
    assert found is not None
    np.testing.assert_allclose(
        np.broadcast_to(found, expected.shape if expected.shape[0] > 1 else (1, 1, 3)), expected, atol=1e-5
    )


def test_drawn_backgrounds_are_not_invented() -> None:
    image = np.zeros((4, 4, 3), dtype=np.float32)
    assert masks.background("road", image, (0, 0, 0)) is None
    assert masks.background("dataset:draws=5", image, (0, 0, 0)) is None
    np.testing.assert_allclose(masks.background("dataset-mean", image, (0.5, 0.4, 0.3)), (0.5, 0.4, 0.3))


def test_the_worst_label_is_the_one_that_its_map_raises_most() -> None:
    def row(position: int, *values: float) -> dict[str, object]:
        return {"background": "blur", "curve": "keep", "position": position, "values": list(values)}

    rows = [row(0, 0.1, 0.9, 0.9), row(1, 0.1, 0.3, 0.1), row(2, 0.1, 0.8, 0.0), row(3, 0.1, 0.9, 0.8)]
    assert worst_label(rows, "blur") == 2  # 0.1 / 0.4; label 3 is probable at the whole image, too
    assert worst_label(rows, "mean") is None


# ---------------------------------------------------------------------- a whole run


@pytest.fixture(scope="module")
def scores(tmp_path_factory: pytest.TempPathFactory) -> Scores:
    folder = tmp_path_factory.mktemp("evaluated")
    evaluated(folder, images=5, background=("dataset-mean", "blur"))
    return read_scores(str(folder / "run"))


def test_mean_curves_are_means_over_images(scores: Scores) -> None:
    found = sweeps(scores.curves)
    assert [(s.curve, s.output) for s in found] == [("keep", "restricted"), ("keep", "full"), ("delete", "full")]
    rows = next(iter(found.values()))
    curves = means(rows, "blur", 0.0, list(scores.methods))
    assert curves is not None
    assert curves.n == 5
    wanted = [
        r["values"]
        for r in rows.to_pylist()
        if (r["background"], r["smooth"], r["method"], r["position"]) == ("blur", 0.0, "gradient", 0)
    ]
    band = curves.predicted["gradient"]
    np.testing.assert_allclose(band.mean, np.mean(wanted, axis=0), atol=1e-6)
    assert all(a <= m <= b for a, m, b in zip(band.low, band.mean, band.high, strict=True))
    wrong = [
        r["values"]
        for r in rows.to_pylist()
        if (r["background"], r["smooth"], r["method"]) == ("blur", 0.0, "gradient") and r["position"] > 0
    ]
    np.testing.assert_allclose(curves.wrong["gradient"].mean, np.mean(wrong, axis=0), atol=1e-6)
    assert means(rows, "road", 0.0, list(scores.methods)) is None


def payload(page: Path) -> dict[str, object]:
    text = re.search(r'<script type="application/json" id="payload">(.*?)</script>', page.read_text(), re.S)
    assert text
    found: dict[str, object] = json.loads(text[1])
    return found


def test_the_page_of_an_evaluated_run(scores: Scores) -> None:
    assert scores.run is not None
    page = write_report(scores.run.folder)
    text = page.read_text()
    assert page == scores.run.folder / "report" / "index.html"
    for words in ("Leaderboard", "could justify any label", "class-agnostic:gradient", "How this was made", "τ "):
        assert words in text
    assert HOSTILE not in text
    assert str(scores.run.folder) not in text
    (model,) = payload(page)["models"]  # type: ignore[misc]
    assert [lane["name"] for lane in model["lanes"]] == list(scores.methods)
    assert len(model["entries"]) == 5
    for row in scores.ranking("complete-and-sound:points=6", "blur", 0.0):
        assert f"{row['mean']:.3f}" in text


def test_the_page_of_scores_in_memory_goes_into_one_file(scores: Scores, tmp_path: Path) -> None:
    alone = replace(scores, run=None)
    with pytest.raises(RunError, match="in memory only"):
        alone.report()
    page = alone.report(tmp_path / "trust.html")
    assert [p.name for p in tmp_path.iterdir()] == ["trust.html"]
    assert "evaluate with <code>--out</code>" in page.read_text()
    whole = scores.report(tmp_path / "whole.html")
    assert "evaluate with <code>--out</code>" not in whole.read_text()
    assert {p.name for p in tmp_path.iterdir()} == {"trust.html", "whole.html"}


def test_the_page_needs_no_torch(scores: Scores) -> None:
    assert scores.run is not None
    code = "import sys, salience.report as r; r.write_report(sys.argv[1]); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code, str(scores.run.folder)], check=True)


# ---------------------------------------------------------------------- the verdict


def of(values: dict[str, tuple[float, float]], kind: dict[str, str], n: int = 60, noise: float = 0.02) -> Scores:
    """Scores of method -> (worst completeness, worst soundness)."""
    rng = np.random.default_rng(0)
    rows = [
        {"image_id": str(i), "model": "net", "method": m, "label": None, "position": None, "metric": metric,
         "background": "blur", "smooth": 0.0, "value": level + noise * rng.normal()}
        for m, levels in values.items()
        for metric, level in zip(("worst-completeness", "worst-soundness"), levels, strict=True)
        for i in range(n)
    ]  # fmt: skip
    words = ("image_id", "model", "method", "metric", "background")
    others = {"label": pa.int32(), "position": pa.int32(), "smooth": pa.float32(), "value": pa.float64()}
    schema = pa.schema([*((w, pa.string()) for w in words), *others.items()])
    metrics = {
        m: {"name": m, "over": "image", "direction": "higher", "settings": {}}
        for m in ("worst-completeness", "worst-soundness")
    }
    methods = {m: {"kind": kind.get(m, "method")} for m in values}
    return Scores(pa.Table.from_pylist(rows, schema), pa.table({}), metrics, methods, draws=400)


BLIND = {"random": "baseline"}


def test_a_clear_winner_is_named() -> None:
    found = verdict(of({"good": (0.9, 0.8), "weak": (0.9, 0.4), "random": (0.3, 0.9)}, BLIND), "net", ["blur"])
    assert found.title == "Trust good most on net"
    assert found.tone == "right"
    assert "clearly better than the best baseline, random" in " ".join(found.lead)
    assert "clearly ahead of the other method" in " ".join(found.lead)
    assert found.number is not None
    assert found.number.low < 0.8 < found.number.high
    assert [name for name, _ in found.parts] == ["worst completeness", "worst soundness"]


def test_a_tie_is_no_win() -> None:
    found = verdict(of({"a": (0.9, 0.8), "b": (0.9, 0.8), "random": (0.3, 0.9)}, BLIND, noise=0.2), "net", ["blur"])
    assert re.fullmatch(r"(a|b) leads on net, not clearly ahead of (a|b)", found.title)


def test_a_method_below_a_baseline_has_no_trust() -> None:
    scores = of({"a": (0.9, 0.3), "random": (0.6, 0.9)}, BLIND)
    found = verdict(scores, "net", ["blur"])
    assert found.title == "No method has earned trust on net"
    assert found.tone == "wrong"
    assert "the baseline random (0.5" in " ".join(found.lead)
    titles = [a.title for a in alarms(scores)]
    assert titles == ["Fails soundness", "No better than a baseline"]


def test_nothing_scored() -> None:
    assert verdict(of({"random": (0.6, 0.9)}, BLIND), "net", ["blur"]).title == "Only baselines were scored on net"
    assert verdict(of({"random": (0.6, 0.9)}, BLIND), "other", []).setting is None


def test_several_seeds_are_told() -> None:
    scores = of({"rise": (0.9, 0.8), "rise, seed 1": (0.9, 0.6), "random": (0.3, 0.9)}, BLIND)
    seeded = replace(scores, repeats={"rise": ("rise, seed 1",)})
    (board, *_) = boards(seeded, "net", [s.metric for s in seeded.settings], ["blur"], [0.0])
    rows = {r.name: r for r in board.rows}
    assert set(rows) == {"rise", "random"}
    assert rows["rise"].seeds.startswith("2 seeds, standard deviation between them 0.1")
    assert rows["random"].seeds == ""
