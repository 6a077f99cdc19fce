"""Cores are those that this process may use, whatever the machine has."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from salience.cores import MOST_THREADS, cores, threads


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system binds no process to cores")
def test_a_process_that_is_bound_to_one_core_has_one() -> None:
    program = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
    program += "from salience.cores import cores, threads; print(cores(), threads(), threads(4))"
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert told.stdout.split() == ["1", "1", "1"]


def test_threads_share_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert (cores(), threads(), threads(2), threads(12)) == (6, 6, 3, 1)
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    assert threads() == MOST_THREADS
