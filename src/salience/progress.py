"""How a command shows that it works: a bar on a terminal, log lines elsewhere, JSON lines on request."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
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
    from salience.store.place import Place

_EVERY_S = 5.0
_LISTED = 24
_CLASSES = 9
_FAILURES = 10


@contextmanager
def listener(*, as_json: bool) -> Iterator[Listener]:
    """Return a listener that suits where stderr goes."""
    if as_json:
        yield _JsonLines()
    elif sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn
        from rich.progress import Progress as Bars

        console = Console(stderr=True)
        bars = Bars(
            TextColumn("{task.description}", markup=False),
            BarColumn(max(8, min(40, console.width - 60))),
            TextColumn("{task.fields[words]}", markup=False),
            console=console,
        )
        with bars:
            yield _Bars(bars)
    else:
        yield _Lines()


@contextmanager
def busy(what: str) -> Iterator[None]:
    """Show on a terminal that something takes a while; nothing stays behind."""
    if sys.stderr.isatty():
        from rich.console import Console

        with Console(stderr=True).status(f"{what} ..."):
            yield
    else:
        yield


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
        if isinstance(event, Started):
            self._last = time.monotonic()
        elif isinstance(event, Progress):
            now = time.monotonic()
            if now - self._last < _EVERY_S:
                return
            self._last = now
            line = f"{event.model}: {_so_far(event)}"
        if line:
            sys.stderr.write(line + "\n")
            sys.stderr.flush()


class _Bars:
    """A bar for each model; before the first, one that says what takes so long."""

    def __init__(self, bars: Any) -> None:
        self._bars = bars
        self._tasks: dict[str, Any] = {}
        self._first = bars.add_task("preparing", total=None, words="loading, and measuring how the model runs fastest")

    def __call__(self, event: Event) -> None:
        if isinstance(event, Started):
            if self._first is not None:
                self._bars.remove_task(self._first)
                self._first = None
            self._say(event)
            if event.images:
                words = f"0/{event.images} images"
                self._tasks[event.model] = self._bars.add_task(event.model, total=1.0, words=words)
        elif isinstance(event, Progress) and event.model in self._tasks:
            self._bars.update(self._tasks[event.model], completed=event.share, words=_so_far(event))
        elif isinstance(event, (Failed, PlanChanged)):
            self._say(event)
        elif isinstance(event, Finished) and event.model in self._tasks:
            words = f"{counted(event.computed, 'image')} in {duration(event.seconds)}, {event.images_per_second:.1f}/s"
            self._bars.update(self._tasks[event.model], completed=1.0, words=words)

    def _say(self, event: Event) -> None:
        self._bars.console.print(_words(event), highlight=False, markup=False)


def _so_far(event: Progress) -> str:
    words = f"{event.done}/{event.images} images"
    if event.done:
        words += f", {event.images_per_second:.1f}/s"
    return words if event.eta_s == float("inf") else f"{words}, {duration(event.eta_s)} left"


def _words(event: Event) -> str:
    if isinstance(event, Started):
        if not event.images:
            return f"{event.model}: nothing left to do, {counted(event.reused, 'image')} already done"
        kept = f", {event.reused} already done" if event.reused else ""
        if not event.calls_per_image:  # work without a model
            return f"{event.model}: {counted(event.images, 'image')} to {event.verb}{kept}"
        return (
            f"{event.model}: {counted(event.images, 'image')} to {event.verb}{kept}; "
            f"{counted(event.calls_per_image, 'model call')} an image, in batches of {event.batch} "
            f"({event.memory_format}, {counted(event.threads, 'thread')}, {event.device})"
        )
    if isinstance(event, Failed):
        return f"{event.model}: failed: {failure_words(event.image_id, event.method, event.message)}"
    if isinstance(event, PlanChanged):
        return f"{event.model}: memory ran out; going on with batches of {event.batch}"
    if isinstance(event, Finished) and (event.computed or event.failures):
        return (
            f"{event.model}: {counted(event.computed, 'image')} {event.verb.rstrip('e')}ed "
            f"in {duration(event.seconds)} "
            f"({event.images_per_second:.1f} a second), {event.reused} already done, "
            f"{counted(event.failures, 'failure')}"
        )
    return ""


def counted(count: int, noun: str) -> str:
    """Return ``1 image`` or ``2 images``."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def failure_words(image_id: str, method: str | None, message: str) -> str:
    """Return a failure in one line; the image is named once."""
    told = message if image_id in message else f"{image_id}: {message}"
    return f"{method}: {told}" if method else told


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


def summary_record(outcome: Outcome, page: Place | None) -> dict[str, Any]:
    """Return what a command came to, for ``--json``."""
    info = outcome.run.info
    return {
        "event": "done",
        "run": str(outcome.run.folder),
        "report": None if page is None else str(page),
        "images": info["images"]["count"],
        "models": {
            name: {**info["last"][name], **_scores(outcome, name), **_queries(outcome, name)}
            for name in outcome.summaries
        },
        "methods": list(outcome.run.methods),
        "failures": outcome.failures,
        "notes": list(outcome.notes),
    }


def _queries(outcome: Outcome, model: str) -> dict[str, int]:
    """Return how many images a paid model was ever sent for this run."""
    entry = outcome.run.info["models"][model]
    return {"queries": entry["queries"]} if "queries" in entry else {}


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


def summary_lines(outcome: Outcome, page: Place | None) -> list[str]:
    """Return what a command came to, for people: what the network says it sees, and where everything is."""
    lines = [f"note: {note}" for note in outcome.notes]
    for model in outcome.summaries:
        classes = outcome.run.info["models"][model]["classes"]
        rows = _predictions(outcome, model)
        scores = _scores(outcome, model)
        lines.append("")
        if len(rows) <= _LISTED:
            lines.append(f"{model} sees")
            width = max((len(r["image_id"]) for r in rows), default=0)
            for r in rows:
                label, seen = r["label"], short_class(classes[r["predicted"]])
                true = "" if label in (None, r["predicted"]) else f"  (labelled {short_class(classes[label])})"
                lines.append(f"  {r['image_id']:{width}}  {r['probability']:6.1%}  {seen}{true}")
        else:
            every = Counter(r["predicted"] for r in rows).most_common()
            shown = every if len(every) <= _CLASSES + 1 else every[:_CLASSES]
            width = max(13, *(len(short_class(classes[c])) for c, _ in shown))
            lines.append(f"{model} sees in {len(rows)} images")
            lines += [f"  {short_class(classes[c]):{width}}  {n:6}" for c, n in shown]
            if len(shown) < len(every):
                others = sum(n for _, n in every[len(shown) :])
                lines.append(f"  {'other classes':{width}}  {others:6}")
        if scores["accuracy"] is not None:
            lines.append(f"  right on {scores['accuracy']:.1%} of {counted(scores['labelled'], 'labelled image')}")
        for sent in _queries(outcome, model).values():
            lines.append(f"  {counted(sent, 'image')} sent to it for this run in all, repeated attempts included")
    if outcome.failures:
        lines.append("")
        lines.append(f"{counted(outcome.failures, 'failure')}:")
        for r in outcome.run.table("failures").to_pylist()[:_FAILURES]:
            lines.append(f"  {failure_words(r['image_id'], r['method'], r['message'])}")
        if outcome.failures > _FAILURES:
            lines.append(f"  ... and {outcome.failures - _FAILURES} more: see the table 'failures' and the page")
    lines.append("")
    lines.append(f"run:  {outcome.run.folder}")
    if page is not None:
        lines.append(f"page: {page.absolute()}")
    return lines


def short_class(name: str) -> str:
    """Return a class name that fits a line: of the many synonyms of an ImageNet class the first."""
    if name.isdecimal():  # the model has no names
        return f"class {name}"
    first = name if len(name) <= 32 else name.split(",")[0]
    return first if len(first) <= 48 else first[:47] + "…"
