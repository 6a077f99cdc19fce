"""Rankings, comparisons and warnings from a table of made-up scores."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from salience.errors import RunError
from salience.scores import HEADLINE, Scores

RNG = np.random.default_rng(0)


def made(values: dict[tuple[str, str, str, float], np.ndarray], *, groups: dict[str, str] | None = None) -> Scores:
    """Scores of (method, metric, background, smooth) -> one value an image; ``srg`` is over the predicted label."""
    rows = []
    for (method, metric, background, smooth), column in values.items():
        for i, value in enumerate(column):
            if np.isnan(value):
                continue
            per_label = metric in ("srg", "soundness")
            positions = (1, 2) if metric == "soundness" else (0,) if per_label else (None,)
            for position in positions:
                shift = {1: 0.25, 2: -0.25}.get(position, 0.0)
                rows.append((f"{i}", "net", method, position, metric, background, smooth, float(value) + shift))
            if metric == "srg":  # a wrong label's value, which does not count
                rows.append((f"{i}", "net", method, 1, metric, background, smooth, 99.0))
    names = ("image_id", "model", "method", "position", "metric", "background", "smooth", "value")
    types = (pa.string(), pa.string(), pa.string(), pa.int32(), pa.string(), pa.string(), pa.float32(), pa.float64())
    columns = list(zip(*rows, strict=True))
    table = pa.table({n: pa.array(c, t) for n, c, t in zip(names, columns, types, strict=True)})
    over = {"srg": "predicted", "soundness": "wrong"}
    direction = {"deletion": "lower", "gini": "neither"}
    metrics = {
        m: {"name": m, "over": over.get(m, "image"), "direction": direction.get(m, "higher"), "settings": {}}
        for m in dict.fromkeys(k[1] for k in values)
    }
    methods = {
        m: {"kind": "baseline" if m in ("random", "centre") else "method"} for m in dict.fromkeys(k[0] for k in values)
    }
    return Scores(table, pa.table({}), metrics, methods, groups or {}, draws=500)


def around(level: float, n: int = 40, spread: float = 0.05) -> np.ndarray:
    return level + spread * RNG.normal(size=n)


def test_ranks_by_direction() -> None:
    higher = made({("a", "srg", "blur", 0.0): around(0.2), ("b", "srg", "blur", 0.0): around(0.6)})
    assert [(r["method"], r["rank"]) for r in higher.ranking()] == [("b", 1), ("a", 2)]
    lower = made({("a", "deletion", "blur", 0.0): around(0.2), ("b", "deletion", "blur", 0.0): around(0.6)})
    assert [(r["method"], r["rank"]) for r in lower.ranking()] == [("a", 1), ("b", 2)]
    neither = made({("a", "gini", "blur", 0.0): around(0.2), ("b", "gini", "blur", 0.0): around(0.6)})
    assert [r["rank"] for r in neither.ranking()] == [None, None]
    assert neither.warnings() == []


def test_an_images_number_is_what_the_metric_says() -> None:
    x, y = around(0.5), around(0.4)
    scores = made({("a", "srg", "blur", 0.0): x, ("a", "soundness", "blur", 0.0): y})
    by_metric = {r["metric"]: r["mean"] for r in scores.ranking()}
    assert by_metric["srg"] == pytest.approx(x.mean())  # the wrong label's 99 does not count
    assert by_metric["soundness"] == pytest.approx(y.mean())  # the mean over two wrong labels


def test_only_images_that_all_methods_have() -> None:
    x, y = around(0.5), around(0.6)
    y[:10] = np.nan
    scores = made({("a", "srg", "blur", 0.0): x, ("b", "srg", "blur", 0.0): y})
    b, a = scores.ranking()
    assert (a["n"], b["n"]) == (30, 30)
    assert a["mean"] == pytest.approx(x[10:].mean())
    assert "10" in a["notes"][0]


def test_headline_is_the_smaller_mean() -> None:
    complete, sound = around(0.9), around(0.3)
    scores = made({("a", "worst-completeness", "blur", 0.0): complete, ("a", "worst-soundness", "blur", 0.0): sound})
    (row,) = scores.ranking(HEADLINE)
    assert row["mean"] == pytest.approx(sound.mean())
    assert row["low"] < sound.mean() < row["high"]
    assert scores.settings[0].metric == HEADLINE


def test_groups_are_independent_units() -> None:
    x = np.repeat(around(0.5, 8), 5)
    grouped = made({("a", "srg", "blur", 0.0): x}, groups={f"{i}": f"patient {i // 5}" for i in range(40)})
    plain = made({("a", "srg", "blur", 0.0): x})
    (few,), (many,) = grouped.ranking(), plain.ranking()
    assert (few["n"], many["n"]) == (8, 40)
    assert few["high"] - few["low"] > 1.5 * (many["high"] - many["low"])


def test_comparisons_are_paired_and_adjusted() -> None:
    image = RNG.normal(size=60)
    values = {(m, "srg", "blur", 0.0): image + d for m, d in (("a", 0.0), ("b", 0.01), ("c", 0.02))}
    rows = made(values).compare("srg")
    assert [(r["first"], r["second"]) for r in rows] == [("a", "b"), ("a", "c"), ("b", "c")]
    for row, difference in zip(rows, (-0.01, -0.02, -0.01), strict=True):
        assert row["difference"] == pytest.approx(difference)
        assert row["low"] == pytest.approx(difference)  # the images' own spread cancels
        assert row["p"] == pytest.approx(2 / 501)
        assert row["p_holm"] == pytest.approx(3 * 2 / 501)


def test_agreement_of_backgrounds() -> None:
    levels = {"blur": (0.1, 0.2, 0.3), "mean": (0.1, 0.2, 0.3), "road": (0.3, 0.2, 0.1)}
    values = {(m, "srg", b, 0.0): np.full(5, v) for b, row in levels.items() for m, v in zip("abc", row, strict=True)}
    taus = {(r["first"], r["second"]): r["tau"] for r in made(values).agreement()}
    assert taus == {("blur", "mean"): 1.0, ("blur", "road"): -1.0, ("mean", "road"): -1.0}


def test_warning_of_unsound_methods() -> None:
    values = {
        (m, metric, background, 0.0): around(level)
        for background in ("blur", "mean")
        for m, levels in (("liar", (0.9, 0.2)), ("good", (0.9, 0.8)), ("random", (0.3, 0.9)))
        for metric, level in zip(("worst-completeness", "worst-soundness"), levels, strict=True)
    }
    unsound, worse = made(values).warnings()  # one sentence for all backgrounds
    assert unsound.startswith("liar fails soundness on net: its mean worst soundness is 0.")
    assert worse.startswith("liar is worse than the baseline random")
    for warning in (unsound, worse):
        assert warning.count("] (background blur), ") == warning.count("] (background mean).") == 1, warning


def test_nothing_is_claimed_of_few_images() -> None:
    def of(n: int) -> list[str]:
        levels = {("liar", "worst-soundness"): 0.2, ("random", "worst-soundness"): 0.9}
        levels |= {("liar", "srg"): 0.1, ("random", "srg"): 0.9}
        return made({(*key, "blur", 0.0): np.full(n, level) for key, level in levels.items()}).warnings()

    assert of(1)[0].startswith("On net, only 1 independent image has a score by ")
    (told,) = of(5)
    assert told.startswith("On net, only 5 independent images have a score by ")
    assert "worst-soundness" in told
    assert "srg" in told
    assert any("fails soundness" in w for w in of(6))
    assert not any("only" in w for w in of(6))


def test_warning_of_a_flip() -> None:
    levels = {("a", "blur"): 0.2, ("b", "blur"): 0.6, ("a", "road"): 0.6, ("b", "road"): 0.2}
    values = {(m, "srg", b, 0.0): around(v) for (m, b), v in levels.items()}
    assert made(values).warnings() == [
        "The ranking by srg flips with the background on net: b is better than a under blur, and worse under road."
    ]


def test_warning_of_smoothness() -> None:
    levels = {("a", 0.0): 0.2, ("b", 0.0): 0.6, ("a", 4.0): 0.6, ("b", 4.0): 0.6}
    values = {(m, "srg", "blur", s): around(v) for (m, s), v in levels.items()}
    (warning,) = made(values).warnings()
    assert warning.startswith(
        "The lead of b over a in srg on net (background blur) is gone when both maps are blurred by"
    )
    lasting = {**values, ("b", "srg", "blur", 4.0): around(0.9)}
    assert made(lasting).warnings() == []


def test_what_is_not_there() -> None:
    scores = made({("a", "srg", "blur", 0.0): around(0.2)})
    assert scores.ranking("srg", "road") == []
    from salience.scores import Setting

    with pytest.raises(RunError, match=r"no scores of 'srgg'.*Did you mean 'srg'"):
        scores.board(Setting("net", "srgg", "blur", 0.0))


def test_warning_of_a_metric_without_scores() -> None:
    scores = made({("a", "srg", "blur", 0.0): around(0.2)})
    without = Scores(scores.table, scores.curves, {**scores.metrics, "iou": scores.metrics["srg"]}, scores.methods)
    (warning,) = without.warnings()
    assert warning.startswith("No image has a score by iou")
