"""The pages of a run: they read the store, need no torch, work offline."""

from salience.report.page import write_comparison, write_report, write_scores

__all__ = ["write_comparison", "write_report", "write_scores"]
