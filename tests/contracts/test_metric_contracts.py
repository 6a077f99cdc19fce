"""Every contract, for every registered metric."""

from __future__ import annotations

import pytest

from salience.metrics.registry import GROUPS, metrics, parse_metric
from salience.testing.metric_contracts import METRIC_CONTRACTS

#: metrics that cost more than these tests need, and the forms in which they are tried
FORMS: dict[str, str] = {
    "adversarial-reach": "adversarial-reach:steps=8",
    "adversarial-soundness": "adversarial-soundness:steps=8",
}
ALL = [FORMS.get(name, name) for name in metrics()]


@pytest.mark.parametrize("check", METRIC_CONTRACTS, ids=lambda c: c.__name__.removeprefix("check_"))
@pytest.mark.parametrize("metric", ALL)
def test_contract(metric: str, check, one_thread: None) -> None:
    check(metric)


def test_groups_hold_metrics_that_exist() -> None:
    for group, members in GROUPS.items():
        assert [item.metric.traits.name for item in parse_metric(group)] == list(members)
