"""The one registry of metrics: a file in this folder with a registered class is all that a new metric needs."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from salience.engine.registry import Registry, split
from salience.errors import MetricError, nearest
from salience.metrics.metric import Direction, Labelled, Metric, Over, Sign, Traits

M = TypeVar("M", bound=type[Metric])
_REGISTRY: Registry[Metric] = Registry("metric", "salience.metrics", MetricError)

GROUPS: dict[str, tuple[str, ...]] = {
    "complete-sound": (
        "completeness",
        "worst-completeness",
        "soundness",
        "worst-soundness",
        "runner-up-soundness",
        "wrong-auc",
        "agreement",
    ),
    "boxes": ("pointing", "iou", "energy"),
    "complexity": ("entropy", "gini"),
}
"""Names that stand for several metrics; settings behind a group's name go to those of its metrics that have them."""


def register(
    name: str,
    *,
    summary: str,
    family: str,
    direction: Direction,
    low: float,
    high: float,
    sign: Sign,
    over: Over,
    reference: str,
    details: str,
    version: int = 1,
) -> Callable[[M], M]:
    """Register a frozen dataclass as the metric ``name``; see :class:`~salience.metrics.metric.Traits`."""

    def add(cls: M) -> M:
        _REGISTRY.add(name, cls)
        cls.traits = Traits(name, summary, family, direction, low, high, sign, over, reference, details, version)
        return cls

    return add


def metrics() -> dict[str, type[Metric]]:
    """Return every registered metric by name: the files of this folder and the entry points of plug-ins."""
    return dict(sorted(_REGISTRY.every().items(), key=lambda item: (item[1].traits.family, item[0])))


def parse_metric(text: str) -> tuple[Labelled, ...]:
    """Read ``name`` or ``name:setting=value``; the name of a group gives several.

    Raises
    ------
    MetricError
        When there is no such metric (nearest names are told) or setting, or a value does not fit.
    """
    head, words, given = split(text)
    if head not in GROUPS:
        known = metrics()
        if head not in known:
            raise _REGISTRY.unknown(head, [*known, *GROUPS])
        return (Labelled(text.strip(), _REGISTRY.build(head, words, given)),)
    known = metrics()
    fields = {name: set(known[name].__dataclass_fields__) for name in GROUPS[head]}  # type: ignore[attr-defined]
    every = sorted(set().union(*fields.values()))
    for key in given:
        if key not in every:
            raise MetricError(
                f"No metric of {head!r} has a setting {key!r}.{nearest(key, every)} They have: {', '.join(every)}."
            )
    if words:
        raise MetricError(f"{head!r} is written without {words[0]!r}; its settings are written NAME=VALUE.")
    chosen = []
    for name in GROUPS[head]:
        own = {k: v for k, v in given.items() if k in fields[name]}
        label = ":".join([name, *(f"{k}={v}" for k, v in own.items())])
        chosen.append(Labelled(label, _REGISTRY.build(name, [], own)))
    return tuple(chosen)


def parse_metrics(texts: list[str]) -> tuple[Labelled, ...]:
    """Read several metrics; one that is named twice, or is in two groups, counts once.

    Raises
    ------
    MetricError
        When none is named, or one cannot be read.
    """
    chosen = {item.label: item for text in texts for item in parse_metric(text)}
    if not chosen:
        raise MetricError("No metric is named. 'salience list metrics' shows them all.")
    return tuple(chosen.values())
