"""What a comparison is: one of salience's methods or metrics, and the peer's call that should give the same."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt

import salience

from .scene import Floats, How, Scene

Run = Callable[[slice], Floats]
"""Returns the peer's maps (n, h, w) of some of the scene's images."""
Make = Callable[[Scene, How], Run]
Align = Callable[[Floats, Floats, Scene], tuple[Floats, Floats]]


def as_they_are(ours: Floats, theirs: Floats, scene: Scene) -> tuple[Floats, Floats]:
    """Compare the maps themselves."""
    return ours, theirs


@dataclass(frozen=True)
class MethodCase:
    """One method of salience beside one of a peer.

    Attributes
    ----------
    ours
        Salience's method with its settings; ``{window}`` and ``{stride}`` stand for :meth:`Scene.settings`.
    peer, package
        The peer's call in words, and the package that has it.
    make
        Sets the peer up as it is timed.
    output
        The scalar that both explain.
    given
        Sets the peer up with salience's own draws, for the values; ``make`` where it draws nothing.
    align
        Brings (N, h, w) of salience and of the peer to the same grid and scale.
    seeds
        Whether the peer draws what cannot be given: then two seeds of salience are compared as well.
    needed
        For methods that run the model themselves: a method whose calls are those that this one needs, and how often.
    remark
        Why values differ, where they do.
    """

    ours: str
    peer: str
    package: str
    make: Make
    output: Literal["logit", "prob"] = "logit"
    given: Make | None = None
    align: Align = as_they_are
    seeds: bool = False
    needed: tuple[str, int] | None = None
    remark: str = ""


@dataclass(frozen=True, eq=False)
class Scored:
    """What metrics are given: a scene, and salience's maps of it.

    Attributes
    ----------
    whole
        What :func:`salience.explain` returned.
    maps
        The maps at the size of the input, (N, H, W).
    probabilities
        Of the predicted classes, (N,).
    """

    scene: Scene
    whole: salience.Maps
    maps: npt.NDArray[np.float32]
    probabilities: Floats

    def first(self, count: int) -> Scored:
        """Return that of the first images."""
        whole = replace(
            self.whole,
            values=self.whole.values[:count],
            image_ids=self.whole.image_ids[:count],
            targets=self.whole.targets[:count],
            probabilities=self.whole.probabilities[:count],
            scores=self.whole.scores[:count],
            labels=self.whole.labels[:count],
            diagnostics={},
        )
        return Scored(self.scene.first(count), whole, self.maps[:count], self.probabilities[:count])


Score = Callable[[], Floats]
"""Returns the peer's scores (N,) or curves (N, P)."""
Read = Callable[[salience.Scores, Scored], Floats]


@dataclass(frozen=True)
class MetricCase:
    """One metric of salience, or several that share their work, beside a peer's.

    Attributes
    ----------
    ours
        The metrics with their settings.
    read
        Returns what is compared of salience's scores: (N,) or (N, P).
    calls
        Forward passes that a map's score needs beside those that all maps of an image share.
    remakes
        Maps that are made for a score; then the method is named to ``evaluate`` and no map is given.
    labels, background
        As of :func:`salience.evaluate`.
    usual_batch
        The batch that the peer takes where nothing is said.
    seeds
        Whether the peer draws what cannot be given: then two seeds of salience are compared as well.
    """

    ours: tuple[str, ...]
    peer: str
    package: str
    make: Callable[[Scored, How], Score]
    read: Read
    calls: int = 0
    remakes: int = 0
    labels: str = "predicted"
    background: str = "dataset-mean"
    usual_batch: int = 32
    seeds: bool = False
    remark: str = ""


Case = MethodCase | MetricCase


ROAD_POINTS = 5
"""Steps of ROAD: the peers solve a linear system for each image and step, by the second."""


# ---------------------------------------------------------------------- reading salience's scores


METHOD = "gradient"
"""The method whose maps are scored: every peer has it, and its values are not negative, as some of their scores ask."""


def value(of: str, change: Callable[[Floats, Scored], Floats] = lambda found, scored: found) -> Read:
    """Return what reads a metric's value of each image, and brings it to the peer's units."""

    def read(scores: salience.Scores, scored: Scored) -> Floats:
        rows = [r for r in scores.table.to_pylist() if (r["method"], r["metric"]) == (METHOD, of)]
        known = {r["image_id"]: r["value"] for r in rows}
        return change(np.array([known.get(i, np.nan) for i in scored.scene.ids], dtype=np.float64), scored)

    return read


def curve(order: str, output: str = "full") -> Read:
    """Return what reads the curve (N, points + 1) over the whole image to none of it, or the other way round."""

    def read(scores: salience.Scores, scored: Scored) -> Floats:
        rows = scores.curves.to_pylist()
        known = {
            r["image_id"]: r["values"]
            for r in rows
            if (r["method"], r["curve"], r["output"]) == (METHOD, order, output) and r["position"] == 0
        }
        return np.array([known[i] for i in scored.scene.ids], dtype=np.float64)

    return read
