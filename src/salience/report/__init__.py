"""The page of a run: reads the store, needs no torch, works offline."""

from salience.report.page import write_report

__all__ = ["write_report"]
