"""Statistics used by all rooms, written once. The unit of resampling is the image, or the group it belongs to."""

from salience.stats.intervals import Interval, bca_interval, bca_limits, bootstrap_mean, bootstrap_means, interval
from salience.stats.multiple import benjamini_bogomolov, benjamini_hochberg, holm
from salience.stats.ranks import kendall_tau, midranks, signed_ranks
from salience.stats.tests import (
    FlipTest,
    bootstrap_p,
    d_z,
    detectable_effect,
    flip_tests,
    mcnemar_exact,
    sign_flip_p,
    wilcoxon_p,
)
from salience.stats.units import Units, sum_units, unit_numbers, units_of

__all__ = [
    "FlipTest",
    "Interval",
    "Units",
    "bca_interval",
    "bca_limits",
    "benjamini_bogomolov",
    "benjamini_hochberg",
    "bootstrap_mean",
    "bootstrap_means",
    "bootstrap_p",
    "d_z",
    "detectable_effect",
    "flip_tests",
    "holm",
    "interval",
    "kendall_tau",
    "mcnemar_exact",
    "midranks",
    "sign_flip_p",
    "signed_ranks",
    "sum_units",
    "unit_numbers",
    "units_of",
    "wilcoxon_p",
]
