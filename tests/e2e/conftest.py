"""A small model on a card, small pictures, the command line (as a program, in this process), a browser, a cluster."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browsing import ARGUMENTS
from terminal import Terminal, write_card, write_nets, write_pictures


@pytest.fixture
def terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Terminal:
    """A folder with ``card.toml`` and ``pictures/`` (three classes of four), and a command line in it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("NET_SLEEP", raising=False)
    write_nets(tmp_path)
    write_card(tmp_path / "card.toml")
    write_pictures(tmp_path / "pictures", {"ant": 4, "bee": 4, "cat": 4})
    return Terminal(tmp_path, monkeypatch, capsys)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Headless Chromium."""
    missing = "playwright is not installed (the extra 'dev' has it)"
    playwright = pytest.importorskip("playwright.sync_api", reason=missing)
    found = next((p for p in map(shutil.which, ("chromium", "chromium-browser", "google-chrome")) if p), None)
    if found is None:
        pytest.skip("no Chromium is installed")
    with playwright.sync_playwright() as tool:
        opened = tool.chromium.launch(executable_path=found, args=list(ARGUMENTS))
        yield opened
        opened.close()


def free_port() -> int:
    """Return a port of this machine that nobody listens at."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@pytest.fixture(scope="session")
def cluster() -> Iterator[Any]:
    """A Ray cluster whose head has no cores, to which nodes are added."""
    pytest.importorskip("ray", reason="Ray is not installed (the extra 'ray')")
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    from ray.cluster_utils import Cluster

    head = {"num_cpus": 0, "include_dashboard": False, "ray_client_server_port": free_port()}
    started = Cluster(initialize_head=True, head_node_args=head)
    yield started
    started.shutdown()
