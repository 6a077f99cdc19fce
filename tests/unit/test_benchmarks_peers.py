"""The comparison with peers: its rows are built, its values agree on a tiny net, and a peer that is missing is told."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from salience.data.source import open_images
from salience.engine.plan import Plan
from salience.methods.registry import parse_method
from salience.metrics.registry import parse_metrics
from salience.testing.models import small_classifier

sys.path.append(str(Path(__file__).resolve().parents[2]))  # benchmarks are no part of what is installed

from benchmarks.peers import measuring
from benchmarks.peers.agreement import of_maps, of_scores
from benchmarks.peers.case import Case, MethodCase, Scored
from benchmarks.peers.cases import CASES, chosen, names
from benchmarks.peers.importing import DISTRIBUTIONS, missing
from benchmarks.peers.measuring import Bare, Effort
from benchmarks.peers.row import HEADER, Row, Times, head
from benchmarks.peers.scene import How, Scene

pytestmark = pytest.mark.filterwarnings("ignore")

APART = {
    "gradcam++": 0.1,  # the peer's 1e-6 in a denominator
    "smoothgrad": None,  # other draws
    "Quantus ROAD": 0.34,  # other noise: of three images, one may change its class
    "ROADMostRelevantFirstAverage": None,  # other noise, which is all that is left of so small a net
    "MPRT": None,  # other weights
    "KernelShap": 5e-3,  # a small ridge on one side, a large weight on the other
}
"""How far values may be apart where they are not the same, as a share of the largest; None where draws decide."""
TOLERANCE = 1e-3
"""Elsewhere: single precision, and what it makes of small differences of probabilities."""


@pytest.fixture(scope="module")
def scene() -> Scene:
    images = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3)).astype(np.uint8)
    return Scene.of(small_classifier(), open_images(images))


@pytest.fixture(scope="module")
def scored(scene: Scene) -> Scored:
    return measuring.scored_maps(scene)


@pytest.fixture(autouse=True)
def _small(one_thread: None) -> None:
    """The net is small."""


@pytest.mark.parametrize("case", CASES, ids=names)
def test_values_agree(case: Case, scene: Scene, scored: Scored) -> None:
    why = missing(case.package)
    if why is not None:
        pytest.skip(f"{case.package}: {why}")
    how = How(Plan(8, "contiguous", 1))
    if isinstance(case, MethodCase):
        case = replace(case, ours=case.ours.format(**scene.settings()))
        found = measuring.agreement_of_maps(case, scene, how)[0]
    else:
        found = measuring.agreement_of_scores(case, scored, how)[0]
    allowed = next((value for name, value in APART.items() if name in names(case)), TOLERANCE)
    if allowed is None:
        assert np.isfinite(found.difference)
    else:
        assert found.difference <= allowed


def test_smoothgrad_is_as_near_to_the_peer_as_to_itself(scene: Scene) -> None:
    pytest.importorskip("captum.attr")
    (case,) = chosen("smoothgrad")
    assert isinstance(case, MethodCase)
    ours, between = measuring.agreement_of_maps(case, scene, How(Plan(8, "contiguous", 1)))
    assert between is not None
    assert ours.ranks == pytest.approx(between.ranks, abs=0.05)


def test_cases_are_of_known_peers_methods_and_metrics(scene: Scene) -> None:
    assert {case.package for case in CASES} == set(DISTRIBUTIONS)
    assert len({names(case) for case in CASES}) == len(CASES)
    for case in CASES:
        if isinstance(case, MethodCase):
            parse_method(case.ours.format(**scene.settings()))
        else:
            assert len(parse_metrics(list(case.ours))) == len(case.ours)


def test_rows_have_times_and_values(scene: Scene) -> None:
    pytest.importorskip("captum.attr")
    cases = (*chosen("Captum InputXGradient"), *chosen("Captum infidelity"))
    told: list[Row] = []
    rows = measuring.compare(scene, cases, Effort(rounds=1, seconds=0.01), told.append)
    assert rows == told
    assert [row.failure for row in rows] == [None, None]
    for row in rows:
        plain = json.loads(json.dumps(row.to_dict()))
        assert plain["images"] == 3
        assert min(plain["milliseconds"].values()) > 0
        assert plain["agreement"]["difference"] < TOLERANCE
        assert len(row.cells()) == len(HEADER) == head().splitlines()[0].count("|") - 1


def test_a_missing_peer_is_a_row(scene: Scene, scored: Scored, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measuring, "missing", lambda package: "not installed: pip install captum")
    row = measuring.measure(CASES[0], Bare(scene), lambda: scored, Effort(rounds=1, seconds=0.01))
    assert row.failure == "not installed: pip install captum"
    assert row.times is None
    assert row.cells()[-1] == row.failure
    assert row.to_dict()["failure"] == row.failure


def test_a_peer_that_fails_is_a_row(scene: Scene, scored: Scored, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(scene: Scene, how: How) -> None:
        raise IndexError("out of bounds")

    monkeypatch.setattr(measuring, "missing", lambda package: None)
    case = replace(CASES[0], make=broken)
    row = measuring.measure(case, Bare(scene), lambda: scored, Effort(rounds=1, seconds=0.01))
    assert row.failure == "fails: IndexError: out of bounds"


def test_a_package_that_is_not_there_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(DISTRIBUTIONS, "no_such_peer", "no-such-peer")
    assert missing("no_such_peer") == "not installed: pip install no-such-peer"
    assert missing("json") is None


def test_agreement_by_hand() -> None:
    a = np.array([[[1.0, 2.0], [3.0, 4.0]], [[4.0, 3.0], [2.0, 1.0]]])
    b = np.array([[[1.0, 2.0], [3.0, 5.0]], [[1.0, 2.0], [3.0, 4.0]]])
    found = of_maps(a, b)
    assert found.ranks == pytest.approx(0.0)  # 1 and -1
    assert found.difference == pytest.approx(0.75)  # 1 of 5, and 3 of 4
    assert of_scores(np.array([1.0, np.nan, 2.0]), np.array([1.0, np.nan, 4.0])).difference == pytest.approx(0.5)
    assert np.isnan(of_scores(np.array([1.0, np.nan]), np.array([1.0, 2.0])).difference)  # one library has none
    assert of_scores(np.zeros(3), np.zeros(3)).difference == 0
    assert np.isnan(of_scores(np.zeros(3), np.zeros(3)).ranks)
    with pytest.raises(ValueError, match="different images"):
        of_scores(np.zeros(3), np.zeros(4))


def test_ratios() -> None:
    times = Times(bare=2.0, salience=2.5, usual=10.0, best=5.0)
    assert times.efficiency("salience") == pytest.approx(0.8)
    assert Times(0.0, 1.0, 1.0, 1.0).efficiency("salience") is None
    row = Row("method", "gradient", "Captum Saliency", images=4, times=times)
    assert row.to_dict()["times_as_fast"] == {"as_usual": 4.0, "as_its_best": 2.0}
    assert row.cells()[3:6] == ("0.80", "0.20 (0.40)", "4.0 (2.0)")
