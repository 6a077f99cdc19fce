"""A small model on a card, small pictures, and the command line in two ways: as a program, and in this process."""

from __future__ import annotations

from pathlib import Path

import pytest
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
