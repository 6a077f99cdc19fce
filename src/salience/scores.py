"""What scores of maps come to: rankings with intervals, comparisons of methods, warnings in words.

Every number is a mean over images. What an image's number is, a metric declares: its predicted label's value, the mean
over its wrong labels, or one value of the image. Methods are compared over the same images, with the same bootstrap
draws, so differences are paired.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib import import_module
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from salience.errors import RunError, nearest
from salience.stats import Interval, bootstrap_means, bootstrap_p, holm, interval, kendall_tau
from salience.store.place import Place
from salience.store.run import Run, open_run

HEADLINE = "complete-and-sound"
"""``min(mean worst completeness, mean worst soundness)``: the one number that neither silence nor noise can win."""
SEED = "seed"
"""Kind of the entries that are maps of a method under another seed."""
SEEDS = "seeds"
"""Folder of the runs that hold these maps, one for each seed."""
UNSOUND = 0.5
"""Below this mean worst soundness, the map of a wrong label makes that label more than twice as probable as it is."""
_WORST = ("worst-completeness", "worst-soundness")
FEWEST = 6
"""Fewer independent images support no claim: a difference that all of five share has p = 2 / 2^5 = 0.06 by its signs,
and bootstrap intervals of so few are too narrow."""

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Setting:
    """Where scores stand beside each other: one model, metric, background and smoothing."""

    model: str
    metric: str
    background: str | None
    smooth: float


@dataclass(frozen=True, eq=False)
class Board:
    """Numbers of M methods on the same N images, with their bootstrap means (M, draws).

    ``seeds`` (M,) tells how many seeds a method's numbers are the means of, ``between`` (M,) the standard deviation of
    their means, NaN where there is one.
    """

    methods: tuple[str, ...]
    means: Floats
    drawn: Floats
    n: int
    units: int
    left_out: int
    seeds: tuple[int, ...] = ()
    between: Floats = field(default_factory=lambda: np.zeros(0))


@dataclass(frozen=True, eq=False)
class Scores:
    """Scores of maps, as ``salience.evaluate`` returns them and a run holds them.

    Attributes
    ----------
    table
        A row for each image, method, label, metric, background and smoothing; see ``scores`` in FORMAT.md.
    curves
        The curves behind them; see ``curves`` in FORMAT.md.
    metrics
        By label: ``name``, ``settings``, ``direction``, ``low``, ``high``, ``over``, ``sign``, ``reference`` ...
    methods
        By name: ``kind`` (``method`` or ``baseline``) and ``signed``.
    groups
        The group of each image that has one: images of a group are drawn together.
    repeats
        By method: the names under which the table holds its maps of other seeds. An image's number is the mean over
        the seeds, and only images that all seeds have a score for count.
    run
        The run directory, None for scores in memory.
    """

    table: pa.Table
    curves: pa.Table
    metrics: Mapping[str, Mapping[str, Any]]
    methods: Mapping[str, Mapping[str, Any]]
    groups: Mapping[str, str] = field(default_factory=dict)
    repeats: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    failures: tuple[Mapping[str, Any], ...] = ()
    notes: tuple[str, ...] = ()
    run: Run | None = None
    draws: int = 2000

    def __repr__(self) -> str:
        images = len(self.table["image_id"].unique())
        return f"Scores({len(self.methods)} methods, {len(self.metrics)} metrics, {images} images)"

    # ------------------------------------------------------------------ numbers of images

    @cached_property
    def _values(self) -> dict[Setting, dict[str, dict[str, float]]]:
        """An image's number by setting, method and image id; the mean over seeds where there are several."""
        out: dict[Setting, dict[str, dict[str, float]]] = {}
        for setting, by_method in self._single.items():
            again = {name for names in self.repeats.values() for name in names}
            out[setting] = {m: _mean_by_image(self._seeds(setting, m)) for m in by_method if m not in again}
        return out

    def _seeds(self, setting: Setting, method: str) -> list[dict[str, float]]:
        """Return the images' numbers of a method under each seed."""
        found = self._single[setting]
        return [found[name] for name in (method, *self.repeats.get(method, ())) if name in found]

    @cached_property
    def _single(self) -> dict[Setting, dict[str, dict[str, float]]]:
        """An image's number by setting, name in the table and image id."""
        over = {label: m["over"] for label, m in self.metrics.items()}
        position = pc.fill_null(self.table["position"], -1).to_numpy()
        kinds = np.array([over.get(m, "") for m in self.table["metric"].to_pylist()])
        kept = (
            ((kinds == "predicted") & (position == 0))
            | ((kinds == "wrong") & (position > 0))
            | ((kinds == "image") & (position == -1))
        )
        keys = ["model", "metric", "background", "smooth", "method", "image_id"]
        found = self.table.filter(pa.array(kept)).group_by(keys, use_threads=False).aggregate([("value", "mean")])
        out: dict[Setting, dict[str, dict[str, float]]] = {}
        columns = [found[c].to_pylist() for c in (*keys, "value_mean")]
        for model, metric, background, smooth, method, image_id, value in zip(*columns, strict=True):
            by_method = out.setdefault(Setting(model, metric, background, smooth), {})
            by_method.setdefault(method, {})[image_id] = value
        return out

    @cached_property
    def settings(self) -> tuple[Setting, ...]:
        """Every setting that has scores, the headline's first."""
        found = sorted(
            self._values,
            key=lambda s: (s.model, list(self.metrics).index(s.metric), s.background or "", s.smooth),
        )
        return (*self._headlines, *found)

    @cached_property
    def _headlines(self) -> dict[Setting, tuple[Setting, Setting]]:
        """The settings of the headline, with the two that it is made of: they read the same curves."""
        complete, sound = ([m for m, entry in self.metrics.items() if entry["name"] == name] for name in _WORST)
        out: dict[Setting, tuple[Setting, Setting]] = {}
        for s in sorted(self._values, key=lambda s: (s.model, s.background or "", s.smooth)):
            for other in sound if s.metric in complete else ():
                pair = Setting(s.model, other, s.background, s.smooth)
                if pair in self._values and self._curve_of(s.metric) == self._curve_of(other):
                    name = HEADLINE + s.metric.removeprefix(_WORST[0])
                    out.setdefault(Setting(s.model, name, s.background, s.smooth), (s, pair))
        return out

    def _curve_of(self, metric: str) -> dict[str, Any]:
        settings = self.metrics[metric]["settings"]
        return {k: v for k, v in settings.items() if k not in ("eps", "beta")}

    def board(self, setting: Setting) -> Board:
        """Return all methods' numbers in a setting, over the images that every one of them has a number for.

        Raises
        ------
        RunError
            When there are no such scores.
        """
        if setting not in self._boards:
            self._boards[setting] = self._make_board(setting)
        return self._boards[setting]

    @cached_property
    def _boards(self) -> dict[Setting, Board]:
        return {}

    def _make_board(self, setting: Setting) -> Board:
        parts = self._headlines.get(setting, (setting,))
        if any(p not in self._values for p in parts):
            known = sorted({s.metric for s in self.settings})
            raise RunError(
                f"There are no scores of {setting.metric!r} under {setting.background!r} with a blur of "
                f"{setting.smooth:g} px.{nearest(setting.metric, known)} There are: {', '.join(known)}."
            )
        by_method = [self._values[p] for p in parts]
        methods = tuple(m for m in self.methods if all(m in values for values in by_method))
        covered = [set.intersection(*(set(values[m]) for values in by_method)) for m in methods]
        images = sorted(set.intersection(*covered)) if covered else []
        left_out = len(set.union(*covered)) - len(images) if covered else 0
        if not images:
            return Board((), np.zeros(0), np.zeros((0, 0)), 0, 0, left_out)
        groups = [self.groups.get(i) or f"image {i}" for i in images] if self.groups else None
        means, drawn, units = [], [], 0
        for values in by_method:
            x = np.array([[values[m][i] for i in images] for m in methods])
            d, units = bootstrap_means(x, groups=groups, draws=self.draws)
            means.append(x.mean(1))
            drawn.append(d)
        by_seed = [
            np.array([[np.mean([one[i] for i in images]) for one in self._seeds(p, m)] for p in parts]).min(0)
            for m in methods
        ]
        return Board(
            methods,
            np.minimum.reduce(means),
            np.minimum.reduce(drawn),
            len(images),
            units,
            left_out,
            tuple(len(v) for v in by_seed),
            np.array([v.std(ddof=1) if len(v) > 1 else np.nan for v in by_seed]),
        )

    def _chosen(
        self, model: str | None, metric: str | None, background: str | None, smooth: float | None
    ) -> list[Setting]:
        return [
            s
            for s in self.settings
            if model in (None, s.model)
            and metric in (None, s.metric)
            and background in (None, s.background)
            and smooth in (None, s.smooth)
        ]

    # ------------------------------------------------------------------ what they come to

    def direction(self, metric: str) -> str:
        """Return ``higher``, ``lower`` or ``neither``: which values of a metric are better."""
        return "higher" if metric.startswith(HEADLINE) else str(self.metrics[metric]["direction"])

    def ranking(
        self,
        metric: str | None = None,
        background: str | None = None,
        smooth: float | None = None,
        model: str | None = None,
    ) -> list[dict[str, Any]]:
        """Return a row for each setting and method, the best first.

        Columns: ``model``, ``metric``, ``background``, ``smooth``, ``method``, ``kind``, ``direction``, ``mean``,
        ``low``, ``high`` (95 % bootstrap interval over images), ``n`` (independent units), ``seeds`` (whose mean each
        image's number is), ``between_seeds`` (standard deviation of the means of the seeds, None where there is one),
        ``rank`` (1 is the best, None where the metric has no better direction) and ``notes``.
        """
        rows = []
        for setting in self._chosen(model, metric, background, smooth):
            board = self.board(setting)
            direction = self.direction(setting.metric)
            sign = -1 if direction == "lower" else 1
            better = np.argsort(-sign * board.means, kind="stable")
            for rank, i in enumerate(better, start=1):
                found = interval(float(board.means[i]), board.drawn[i], board.units)
                left = f"images left out because not every method has a score for them: {board.left_out}"
                rows.append(
                    {
                        **vars(setting),
                        "method": board.methods[i],
                        "kind": self.methods[board.methods[i]]["kind"],
                        "direction": direction,
                        "mean": found.value,
                        "low": found.low,
                        "high": found.high,
                        "n": found.n,
                        "seeds": board.seeds[i],
                        "between_seeds": None if board.seeds[i] < 2 else float(board.between[i]),
                        "rank": None if direction == "neither" else rank,
                        "notes": [left] if board.left_out else [],
                    }
                )
        return rows

    def compare(
        self,
        metric: str | None = None,
        background: str | None = None,
        smooth: float | None = None,
        model: str | None = None,
    ) -> list[dict[str, Any]]:
        """Return a row for each setting and pair of methods: their paired difference.

        Columns: the setting, ``first``, ``second``, ``difference`` (first less second), ``low``, ``high`` (95 %),
        ``p`` (bootstrap, two-sided), ``p_holm`` (adjusted for the pairs of the setting) and ``n``.
        """
        rows = []
        for setting in self._chosen(model, metric, background, smooth):
            board = self.board(setting)
            pairs = list(combinations(range(len(board.methods)), 2))
            p = [bootstrap_p(board.drawn[a] - board.drawn[b]) for a, b in pairs]
            for (a, b), raw, adjusted in zip(pairs, p, holm(p), strict=True):
                found = self._difference(board, a, b)
                rows.append(
                    {
                        **vars(setting),
                        "first": board.methods[a],
                        "second": board.methods[b],
                        "difference": found.value,
                        "low": found.low,
                        "high": found.high,
                        "p": raw,
                        "p_holm": adjusted,
                        "n": board.units,
                    }
                )
        return rows

    @staticmethod
    def _difference(board: Board, a: int, b: int) -> Interval:
        return interval(float(board.means[a] - board.means[b]), board.drawn[a] - board.drawn[b], board.units)

    def agreement(self) -> list[dict[str, Any]]:
        """Return Kendall's tau of the rankings of methods under each pair of backgrounds.

        Columns: ``model``, ``metric``, ``smooth``, ``first``, ``second`` (backgrounds), ``tau`` (in [-1, 1]; None where
        all methods are tied) and ``methods`` (their number, baselines included).
        """
        rows = []
        for (model, metric, smooth), found in self._by_background().items():
            for (name_a, a), (name_b, b) in combinations(found.items(), 2):
                common = [m for m in a.methods if m in b.methods]
                if len(common) < 2:
                    continue
                x, y = (board.means[[board.methods.index(m) for m in common]] for board in (a, b))
                tau = kendall_tau(x.tolist(), y.tolist())
                rows.append(
                    {
                        "model": model,
                        "metric": metric,
                        "smooth": smooth,
                        "first": name_a,
                        "second": name_b,
                        "tau": None if np.isnan(tau) else tau,
                        "methods": len(common),
                    }
                )
        return rows

    def _by_background(self) -> dict[tuple[str, str, float], dict[str, Board]]:
        out: dict[tuple[str, str, float], dict[str, Board]] = {}
        for s in self.settings:
            if s.background is not None:
                out.setdefault((s.model, s.metric, s.smooth), {})[s.background] = self.board(s)
        return out

    # ------------------------------------------------------------------ in words

    def warnings(self) -> list[str]:
        """Return what should be known before a method is trusted, one sentence each."""
        return [*self._unscored(), *self._too_few(), *(text for texts in self.findings().values() for text in texts)]

    def findings(self) -> dict[str, list[str]]:
        """Return the warnings by what they are about: ``soundness``, ``baselines``, ``backgrounds``, ``smoothness``."""
        return {
            "soundness": self._unsound(),
            "baselines": self._no_better(),
            "backgrounds": self._flips(),
            "smoothness": self._smoothness(),
        }

    def report(self, path: str | Path | None = None) -> Place:
        """Write the page of these scores, and return where it is.

        Parameters
        ----------
        path
            The file to write, with everything in it; the run's own page, ``report/index.html``, by default. Scores
            that are only in memory have no images to show, and need a path.

        Raises
        ------
        RunError
            When there is neither a run nor a path, or the page cannot be written.
        """
        # The page is built on the scores: this method is for people, and the rooms keep their order.
        written: Place = import_module("salience.report").write_scores(self, path)
        return written

    def _unscored(self) -> list[str]:
        scored = {s.metric for s in self._values}
        return [
            f"No image has a score by {metric}: what it needs (boxes, maps of other labels, a method that can be asked "
            "again) is not there."
            for metric in self.metrics
            if metric not in scored
        ]

    def _too_few(self) -> list[str]:
        few: dict[tuple[str, int], dict[str, None]] = {}
        for s in self.settings:
            units = self.board(s).units
            if 0 < units < FEWEST:
                few.setdefault((s.model, units), {})[s.metric] = None
        return [
            f"On {model}, only {units} independent image{'s have' if units > 1 else ' has'} a score by "
            f"{', '.join(metrics)}: on fewer than {FEWEST}, nothing is called better, worse or unsound."
            for (model, units), metrics in few.items()
        ]

    def _own(self, board: Board) -> list[int]:
        """Return the places of methods that something may be claimed of: none where there are too few images."""
        if board.units < FEWEST:
            return []
        return [i for i, m in enumerate(board.methods) if self.methods[m]["kind"] == "method"]

    def _unsound(self) -> list[str]:
        under: dict[tuple[str, str], dict[str, Interval]] = {}
        for s in self._values:
            if self.metrics[s.metric]["name"] != _WORST[1] or s.smooth:
                continue
            board = self.board(s)
            for i in self._own(board):
                found = interval(float(board.means[i]), board.drawn[i], board.units)
                if found.high < UNSOUND:
                    under.setdefault((board.methods[i], s.model), {})[str(s.background)] = found
        return [
            f"{method} fails soundness on {model}: its mean worst soundness is {_under(found)}. On average, what the "
            "map of the worst wrong label shows more than doubles that label's probability (one below 0.1 counts as "
            "0.1)."
            for (method, model), found in under.items()
        ]

    def _no_better(self) -> list[str]:
        under: dict[tuple[str, ...], dict[str, Interval]] = {}
        for s in self._headlines:
            board = self.board(s)
            own = self._own(board)
            blind = [i for i in range(len(board.methods)) if i not in own]
            if s.smooth or not blind or not own:
                continue
            best = max(blind, key=lambda i: board.means[i])
            for i in own:
                found = self._difference(board, i, best)
                if found.low <= 0:
                    word = "is worse than" if found.high < 0 else "is not clearly better than"
                    key = (board.methods[i], word, board.methods[best], s.metric, s.model)
                    under.setdefault(key, {})[str(s.background)] = found
        return [
            f"{method} {word} the baseline {baseline} in {metric} on {model}: the difference is {_under(differences)}."
            for (method, word, baseline, metric, model), differences in under.items()
        ]

    def _flips(self) -> list[str]:
        told = []
        for (model, metric, smooth), found in self._by_background().items():
            if smooth or self.direction(metric) == "neither":
                continue
            sign = -1 if self.direction(metric) == "lower" else 1
            for (name_a, a), (name_b, b) in combinations(found.items(), 2):
                for first, second in combinations(
                    [m for m in (a.methods[i] for i in self._own(a)) if m in b.methods], 2
                ):
                    x, y = (self._difference(t, t.methods.index(first), t.methods.index(second)) for t in (a, b))
                    if (x.low > 0 and y.high < 0) or (x.high < 0 and y.low > 0):
                        better, worse = (first, second) if sign * x.value > 0 else (second, first)
                        told.append(
                            f"The ranking by {metric} flips with the background on {model}: {better} is better than "
                            f"{worse} under {name_a}, and worse under {name_b}."
                        )
        return told

    def _smoothness(self) -> list[str]:
        told = []
        for s in self.settings:
            sign = {"higher": 1, "lower": -1, "neither": 0}[self.direction(s.metric)]
            if s.smooth or not sign:
                continue
            blurred = [t for t in self.settings if vars(t) == {**vars(s), "smooth": t.smooth} and t.smooth]
            board = self.board(s)
            for a, b in combinations(self._own(board), 2):
                lead = self._difference(board, a, b)
                if lead.low <= 0 <= lead.high:
                    continue
                first, second = (a, b) if sign * lead.value > 0 else (b, a)
                told += self._explained(s, blurred, board.methods[first], board.methods[second], sign)
        return told

    def _explained(self, s: Setting, blurred: Sequence[Setting], first: str, second: str, sign: int) -> list[str]:
        """Say where the lead of ``first`` over ``second`` is gone when both maps are blurred alike."""
        for t in blurred:
            board = self.board(t)
            if first not in board.methods or second not in board.methods:
                continue
            found = self._difference(board, board.methods.index(first), board.methods.index(second))
            if (found.low if sign > 0 else -found.high) <= 0:
                under = f" (background {s.background})" if s.background else ""
                return [
                    f"The lead of {first} over {second} in {s.metric} on {s.model}{under} is gone when both maps are "
                    f"blurred by {t.smooth:g} px: it is a matter of smoothness."
                ]
        return []


def _under(found: Mapping[str, Interval]) -> str:
    """Return numbers, each with the background that it was found under."""
    return ", ".join(f"{number} (background {background})" for background, number in found.items())


def _failures_of_seeds(run: Run, methods: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the maps of other seeds that could not be made; images that no seed can read are told of once."""
    names = {e["maps"]: (name, e["seed"]) for name, e in methods.items() if e["kind"] == SEED}
    found = []
    for seed in sorted({seed for _, seed in names.values()}):
        folder = run.folder / SEEDS / str(seed)
        if not folder.exists():  # the scores may have been handed on without the maps
            continue
        made = open_run(folder)
        for row in made.table("failures").to_pylist():
            identity = made.info["recipes"].get(row["recipe"], {}).get("identity")
            if identity in names:
                found.append({**row, "method": names[identity][0]})
    return found


def _mean_by_image(seeds: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the mean over seeds of every image that all of them have."""
    images = [i for i in seeds[0] if all(i in one for one in seeds[1:])]
    return {i: float(np.mean([one[i] for one in seeds])) for i in images}


def read_scores(run: Run | str | Place, notes: Sequence[str] = ()) -> Scores:
    """Return the scores that a run holds.

    Raises
    ------
    RunError
        When there is no run, or nothing in it was evaluated.
    """
    run = run if isinstance(run, Run) else open_run(run)
    stage = run.info.get("stages", {}).get("evaluate")
    if stage is None:
        raise RunError(f"{run.folder} has no scores: 'salience evaluate ... --out {run.folder}' makes them.")
    repeats: dict[str, tuple[str, ...]] = {}
    for name, entry in stage["methods"].items():
        if entry["kind"] == SEED:
            repeats[entry["of"]] = (*repeats.get(entry["of"], ()), name)
    groups = zip(run.images["image_id"].to_pylist(), run.images["group"].to_pylist(), strict=True)
    return Scores(
        table=run.table("scores"),
        curves=run.table("curves"),
        metrics=stage["metrics"],
        methods={name: entry for name, entry in stage["methods"].items() if entry["kind"] != SEED},
        groups={i: g for i, g in groups if g is not None},
        repeats=repeats,
        failures=(*run.table("failures").to_pylist(), *_failures_of_seeds(run, stage["methods"])),
        notes=tuple(notes),
        run=run,
    )
