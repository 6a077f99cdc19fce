"""Salience explains image classifiers over whole datasets.

>>> import salience
>>> model = salience.load_model("salience.models.zoo:efficientnet_lite0")  # doctest: +SKIP
>>> maps = salience.explain(model, "photos/", method="gradcam")  # doctest: +SKIP

Importing this package is fast: everything, torch above all, is loaded when it is first used.
"""

from __future__ import annotations

import importlib
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from salience.auditing import audit
    from salience.behaviour.audit import Audit, read_audit
    from salience.comparing import compare
    from salience.comparison.result import Comparison, read_comparison
    from salience.errors import SalienceError
    from salience.evaluating import evaluate
    from salience.explaining import explain, explain_run
    from salience.metrics.allegiance import allegiance
    from salience.models.classifier import Classifier
    from salience.models.loading import load_model
    from salience.report import write_report
    from salience.scores import Scores
    from salience.store.maps import Maps
    from salience.store.run import Run, open_run

try:
    __version__ = version("salience")
except PackageNotFoundError:  # run from a source tree that was never installed
    __version__ = "0.0.0"

_HOMES = {
    "Audit": "salience.behaviour.audit",
    "Classifier": "salience.models.classifier",
    "Comparison": "salience.comparison.result",
    "Maps": "salience.store.maps",
    "Run": "salience.store.run",
    "SalienceError": "salience.errors",
    "Scores": "salience.scores",
    "allegiance": "salience.metrics.allegiance",
    "audit": "salience.auditing",
    "compare": "salience.comparing",
    "evaluate": "salience.evaluating",
    "explain": "salience.explaining",
    "explain_run": "salience.explaining",
    "load_model": "salience.models.loading",
    "open_run": "salience.store.run",
    "read_audit": "salience.behaviour.audit",
    "read_comparison": "salience.comparison.result",
    "write_report": "salience.report",
}

__all__ = [
    "Audit",
    "Classifier",
    "Comparison",
    "Maps",
    "Run",
    "SalienceError",
    "Scores",
    "allegiance",
    "audit",
    "compare",
    "evaluate",
    "explain",
    "explain_run",
    "load_model",
    "open_run",
    "read_audit",
    "read_comparison",
    "write_report",
]


def __getattr__(name: str) -> Any:
    if name == "training":  # a room of its own, whose names are imported when they are used
        return importlib.import_module("salience.training")
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'salience' has no attribute {name!r}")
    value = getattr(importlib.import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
