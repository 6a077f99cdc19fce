"""What ``salience evaluate`` prints: a ranking with intervals for each background, and warnings in words."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from salience.listing import console_of_output
from salience.progress import counted, failure_words

if TYPE_CHECKING:
    from salience.scores import Scores, Setting
    from salience.store.place import Place

_FAILURES = 10


def score_record(scores: Scores, page: Place | None = None) -> dict[str, Any]:
    """Return everything that the scores come to, for ``--json``."""
    return {
        "event": "done",
        "run": None if scores.run is None else str(scores.run.folder),
        "report": None if page is None else str(page),
        "images": len(scores.table["image_id"].unique()),
        "ranking": scores.ranking(),
        "agreement": scores.agreement(),
        "warnings": scores.warnings(),
        "failures": len(scores.failures),
        "notes": list(scores.notes),
    }


def print_scores(scores: Scores, page: Place | None = None) -> None:
    """Print one ranking for each background, by its first metric; then warnings, failures and where everything is."""
    console = console_of_output()

    def say(text: str) -> None:
        console.print(text, highlight=False, markup=False)

    for note in scores.notes:
        say(f"note: {note}")
    boards: dict[tuple[str, str | None], list[Setting]] = {}
    least = min((s.smooth for s in scores.settings), default=0.0)
    for setting in scores.settings:
        if setting.smooth == least and scores.board(setting).methods:
            boards.setdefault((setting.model, setting.background), []).append(setting)
    for (model, background), settings in boards.items():
        where = f"background {background}" if background is not None else "maps alone"
        blur = f", maps blurred by {least:g} px" if least else ""
        n = scores.board(settings[0]).n
        say(f"\n{model}, {where}{blur}: {counted(n, 'image')}")
        _print_board(scores, settings)
    if scores.repeats:
        seeds = 1 + max(map(len, scores.repeats.values()))
        say(f"\n±: standard deviation between the means of {seeds} seeds, of methods that draw; [ ] is over images.")
    warnings = scores.warnings()
    if warnings:
        say("\nwarnings:")
        for text in warnings:
            say(f"  {text}")
    if scores.failures:
        say(f"\n{counted(len(scores.failures), 'failure')}:")
        for row in scores.failures[:_FAILURES]:
            say(f"  {failure_words(row['image_id'], row['method'], row['message'])}")
        if len(scores.failures) > _FAILURES:
            say(f"  ... and {len(scores.failures) - _FAILURES} more: see the table 'failures'")
    if scores.run is not None:
        say(f"\nrun:  {scores.run.folder}")
    if page is not None:
        say(f"page: {page.absolute()}")


def _print_board(scores: Scores, settings: list[Setting]) -> None:
    """Print methods by rank in the first setting, with its interval; means in the others."""
    from rich.table import Table

    found = {
        s: {r["method"]: r for r in scores.ranking(s.metric, s.background, s.smooth, s.model) if _is(r, s)}
        for s in settings
    }
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("")
    table.add_column("method", overflow="fold")
    for s in settings:
        arrow = {"higher": " ↑", "lower": " ↓", "neither": ""}[scores.direction(s.metric)]
        table.add_column(f"{s.metric}{arrow}", justify="right", overflow="fold")
    for method, first in found[settings[0]].items():
        between = "" if first["between_seeds"] is None else f" ± {first['between_seeds']:.3f}"
        cells = [f"{first['mean']:.3f} [{first['low']:.3f}, {first['high']:.3f}]{between}"]
        cells += [f"{found[s][method]['mean']:.3f}" if method in found[s] else "" for s in settings[1:]]
        name = method if first["kind"] == "method" else f"({method})"
        table.add_row("" if first["rank"] is None else str(first["rank"]), name, *cells)
    console_of_output().print(table, highlight=False, markup=False)


def _is(row: dict[str, Any], setting: Setting) -> bool:
    return all(row[key] == value for key, value in vars(setting).items())
