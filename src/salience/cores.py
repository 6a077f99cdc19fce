"""How many processor cores there are for this process."""

from __future__ import annotations

import os

MOST_THREADS = 8
"""Threads that decode or draw, at most: more of them wait for one another."""


def cores() -> int:
    """Return how many cores this process may use: on Linux those it is bound to, elsewhere those of the machine."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def threads(beside: int = 1) -> int:
    """Return how many threads decode or draw where ``beside`` of them share the cores."""
    return max(1, min(MOST_THREADS, cores() // beside))
