"""How a command shows that it works: a bar on a terminal, log lines elsewhere, JSON lines on request."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from salience.engine.events import (
    Event,
    Failed,
    Finished,
    Listener,
    PlanChanged,
    Progress,
    Started,
)

if TYPE_CHECKING:
    from salience.explaining import Outcome

_EVERY_S = 5.0
_LISTED = 24


@contextmanager
def listener(*, as_json: bool) -> Iterator[Listener]:
    """Return a listener that suits where stderr goes."""
    if as_json:
        yield _JsonLines()
    elif sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bars

        bars = Bars(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[done]}/{task.fields[images]} images"),
            TextColumn("{task.fields[rate]:.1f}/s"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
        )
        with bars:
            yield _Bars(bars)
    else:
        yield _Lines()


class _JsonLines:
    """Every event as a line; progress at most twice a second."""

    def __init__(self) -> None:
        self._last = 0.0
        self._lock = threading.Lock()

    def __call__(self, event: Event) -> None:
        now = time.monotonic()
        with self._lock:
            if isinstance(event, Progress):
                if now - self._last < 0.5 and event.share < 1:
                    return
                self._last = now
            record = {"time": round(time.time(), 3), **event.to_dict()}
            sys.stderr.write(json.dumps({k: _finite(v) for k, v in record.items()}) + "\n")
            sys.stderr.flush()


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 4) if abs(value) < float("inf") else None
    return value


class _Lines:
    """Plain log lines, now and then."""

    def __init__(self) -> None:
        self._last = time.monotonic()

    def __call__(self, event: Event) -> None:
        line = _words(event)
        if isinstance(event, Progress):
            now = time.monotonic()
            if now - self._last < _EVERY_S:
                return
            self._last = now
            line = (
                f"{event.model}: {event.done} of {event.images} images, {event.images_per_second:.1f} a second, "
                f"{duration(event.eta_s)} left"
            )
        if line:
            sys.stderr.write(line + "\n")
            sys.stderr.flush()


class _Bars:
    """A bar for each model."""

    def __init__(self, bars: Any) -> None:
        self._bars = bars
        self._tasks: dict[str, Any] = {}

    def __call__(self, event: Event) -> None:
        if isinstance(event, Started):
            self._bars.console.print(_words(event), highlight=False)
            self._tasks[event.model] = self._bars.add_task(
                event.model, total=1.0, done=0, images=event.images, rate=0.0
            )
        elif isinstance(event, Progress):
            self._bars.update(
                self._tasks[event.model], completed=event.share, done=event.done, rate=event.images_per_second
            )
        elif isinstance(event, (Failed, PlanChanged)):
            self._bars.console.print(_words(event), highlight=False, markup=False)
        elif isinstance(event, Finished):
            self._bars.update(self._tasks[event.model], completed=1.0)


def _words(event: Event) -> str:
    if isinstance(event, Started):
        kept = f", {event.reused} already done" if event.reused else ""
        return (
            f"{event.model}: {event.images} images to explain{kept}; {event.calls_per_image} model calls each, "
            f"batches of {event.batch}, {event.memory_format}, {event.threads} threads, {event.device}"
        )
    if isinstance(event, Failed):
        what = f"{event.image_id}, {event.method}" if event.method else event.image_id
        return f"{event.model}: failed ({event.why}): {what}: {event.message}"
    if isinstance(event, PlanChanged):
        return f"{event.model}: memory ran out; going on with batches of {event.batch}"
    if isinstance(event, Finished):
        return (
            f"{event.model}: {event.computed} images explained in {duration(event.seconds)} "
            f"({event.images_per_second:.1f} a second), {event.reused} kept, {event.failures} failures"
        )
    return ""


def duration(seconds: float) -> str:
    """Return a time in words a person reads at a glance."""
    if seconds == float("inf"):
        return "unknown time"
    if seconds < 60:
        return f"{seconds:.0f} s"
    if seconds < 3600:
        return f"{seconds // 60:.0f} min {seconds % 60:.0f} s"
    return f"{seconds // 3600:.0f} h {seconds % 3600 // 60:.0f} min"


# ---------------------------------------------------------------------- at the end


def summary_record(outcome: Outcome, page: Path | None) -> dict[str, Any]:
    """Return what a command came to, for ``--json``."""
    info = outcome.run.info
    return {
        "event": "done",
        "run": str(outcome.run.folder),
        "report": None if page is None else str(page),
        "images": info["images"]["count"],
        "models": {name: {**info["last"][name], **_scores(outcome, name)} for name in outcome.summaries},
        "methods": list(outcome.run.methods),
        "failures": outcome.failures,
        "notes": list(outcome.notes),
    }


def _scores(outcome: Outcome, model: str) -> dict[str, Any]:
    rows = _predictions(outcome, model)
    labelled = [r for r in rows if r["label"] is not None]
    right = sum(r["label"] == r["predicted"] for r in labelled)
    return {"accuracy": right / len(labelled) if labelled else None, "labelled": len(labelled)}


def _predictions(outcome: Outcome, model: str) -> list[dict[str, Any]]:
    images = outcome.run.table("images")
    labels = dict(zip(images["image_id"].to_pylist(), images["label"].to_pylist(), strict=True))
    table = outcome.run.table("predictions").select(["image_id", "model", "predicted", "probability"])
    return [{**r, "label": labels[r["image_id"]]} for r in table.to_pylist() if r["model"] == model]


def summary_lines(outcome: Outcome, page: Path | None) -> list[str]:
    """Return what a command came to, for people: what the network says it sees, and where everything is."""
    lines = [f"note: {note}" for note in outcome.notes]
    for model in outcome.summaries:
        classes = outcome.run.info["models"][model]["classes"]
        rows = _predictions(outcome, model)
        scores = _scores(outcome, model)
        lines.append("")
        lines.append(f"{model} sees")
        if len(rows) <= _LISTED:
            width = max((len(r["image_id"]) for r in rows), default=0)
            for r in rows:
                true = "" if r["label"] in (None, r["predicted"]) else f"  (it is: {classes[r['label']]})"
                lines.append(f"  {r['image_id']:{width}}  {r['probability']:6.1%}  {classes[r['predicted']]}{true}")
        else:
            top = Counter(r["predicted"] for r in rows).most_common(5)
            lines += [f"  {n:5} images as {classes[c]}" for c, n in top]
        if scores["accuracy"] is not None:
            lines.append(f"  right on {scores['accuracy']:.1%} of {scores['labelled']} labelled images")
    if outcome.failures:
        lines.append("")
        lines.append(f"{outcome.failures} failures:")
        for r in outcome.run.table("failures").to_pylist()[:10]:
            what = f"{r['image_id']}, {r['method']}" if r["method"] else r["image_id"]
            lines.append(f"  {what}: {r['message']}")
        if outcome.failures > 10:
            lines.append("  ... all of them are in the table 'failures' and on the page")
    lines.append("")
    lines.append(f"run:  {outcome.run.folder}")
    if page is not None:
        lines.append(f"page: {page.absolute()}")
    return lines
