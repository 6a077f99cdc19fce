"""Every comparison, and what the peers have beside it that is not one."""

from __future__ import annotations

from . import captum_methods, captum_metrics, grad_cam_methods, other_metrics, quantus_metrics, xaitk_methods
from .case import Case
from .importing import TITLES

CASES: tuple[Case, ...] = (
    *captum_methods.CASES,
    *grad_cam_methods.CASES,
    *xaitk_methods.CASES,
    *captum_metrics.CASES,
    *quantus_metrics.CASES,
    *other_metrics.CASES,
)

LEFT_OUT = (
    "Captum FeatureAblation, over a grid: Occlusion with touching windows.",
    "Captum's other classes: salience has them by the adapter alone, which calls them (two rows show what it costs).",
    "Quantus Infidelity: its patches are removed one after another and stay removed, all draws are the same, and the "
    "map is not scaled: not the expectation over single perturbations of Yeh et al. (equation 1), which Captum has.",
    "XAITK MC-RISE: RISE over colours, which salience does not have.",
    "Methods and metrics that no peer has: signed and competing gradients, evolve, decam, mask, hsic, sobol, "
    "brightness, complete and sound scores.",
)


def chosen(only: str) -> tuple[Case, ...]:
    """Return the cases in whose names, of either side, the text stands."""
    return tuple(case for case in CASES if only.lower() in names(case).lower())


def names(case: Case) -> str:
    """Return what a case is called on both sides."""
    ours = case.ours if isinstance(case.ours, str) else " ".join(case.ours)
    return f"{ours} {TITLES[case.package]} {case.peer}"
