"""Areas under curves, against a peer's formula and by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from salience.metrics.metric import Curves
from salience.metrics.perturbation import Deletion, DeletionClass, Insertion, Srg, area

SIZE = (2, 2)


def curves(keep: list[float], delete: list[float]) -> Curves:
    values = {
        (order, output): torch.tensor([[row]], dtype=torch.float64)
        for order, row in (("keep", keep), ("delete", delete))
        for output in ("full", "top")
    }
    counts = (0, 1, 2, 3, 4)
    return Curves({}, values, {"keep": counts, "delete": counts}, 4)


def test_by_hand() -> None:
    seen = curves([0.0, 0.5, 0.6, 0.7, 0.8], [0.8, 0.4, 0.2, 0.1, 0.0])
    insertion = (0.0 / 2 + 0.5 + 0.6 + 0.7 + 0.8 / 2) / 4
    deletion = (0.8 / 2 + 0.4 + 0.2 + 0.1 + 0.0 / 2) / 4
    assert Insertion(points=4).score(seen, SIZE).tolist() == [[pytest.approx(insertion)]]
    assert Deletion(points=4).score(seen, SIZE).tolist() == [[pytest.approx(deletion)]]
    assert Srg(points=4).score(seen, SIZE).tolist() == [[pytest.approx(insertion - deletion)]]
    assert DeletionClass(points=4).score(seen, SIZE).tolist() == [[pytest.approx(deletion)]]


def test_area_is_petsiuks_where_steps_are_even() -> None:
    """(sum - first / 2 - last / 2) / (n - 1), as in the authors' code."""
    y = np.random.default_rng(0).random(29)
    wanted = (y.sum() - y[0] / 2 - y[-1] / 2) / (len(y) - 1)
    assert float(area(torch.from_numpy(y), tuple(range(0, 29)))) == pytest.approx(wanted)


def test_a_constant_curve_has_its_value_as_area_on_an_uneven_grid() -> None:
    assert float(area(torch.full((4,), 0.3).double(), (0, 24, 48, 64))) == pytest.approx(0.3)


def test_points_of_a_finer_sweep_are_shared() -> None:
    """A metric with few points reads them out of another's many."""
    fine = torch.linspace(0, 1, 9, dtype=torch.float64).square().view(1, 1, 9)
    seen = Curves({}, {("keep", "full"): fine}, {"keep": tuple(range(9))}, 8)
    assert float(Insertion(points=4).score(seen, (2, 4))) == pytest.approx(
        float(area(fine[0, 0, ::2], (0, 2, 4, 6, 8)))
    )
