"""The command line as the tests of this folder use it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from PIL import Image

import salience

CLASSES = ("ant", "bee", "cat", "dog")
#: measuring how a model runs fastest takes longer than these models do
FAST = ("--batch-size", "4", "--memory-format", "contiguous", "--threads", "1", "--device", "cpu")

NETS = '''
import os, time
from torch import nn
from salience.testing.models import Wrapped, small_classifier

class Slow(nn.Module):
    """Takes NET_SLEEP seconds a call."""
    def __init__(self, inner):
        super().__init__()
        self.inner = inner
    def forward(self, x):
        time.sleep(float(os.environ.get("NET_SLEEP", "0")))
        return self.inner(x)

class OnlyTwenty(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(3 * 20 * 20, 4)
    def forward(self, x):
        return self.fc(x.flatten(1))

def small(): return Slow(small_classifier(16, 4, seed=1).module)
def other(): return Slow(small_classifier(16, 4, seed=2).module)
def answers_tuple(): return Wrapped(small().inner, "tuple")
def answers_object(): return Wrapped(small().inner, "object")
def answers_dict(): return Wrapped(small().inner, "dict")
def answers_nan(): return Wrapped(small().inner, "nan")
def only_twenty(): return OnlyTwenty()
def raises(): raise FileNotFoundError("no such file: backbone.bin")
def gives_number(): return 7
'''


def write_nets(folder: Path) -> None:
    (folder / "nets.py").write_text(NETS, encoding="utf-8")


def write_card(path: Path, factory: str = "small", **keys: Any) -> Path:
    """Write a model card; a key that is None is left out."""
    card = {
        "factory": f"nets.py:{factory}",
        "size": 16,
        "mean": [0.5, 0.5, 0.5],
        "std": [0.25, 0.25, 0.25],
        "classes": list(CLASSES),
        **keys,
    }
    path.write_text("".join(f"{k} = {json.dumps(v)}\n" for k, v in card.items() if v is not None), encoding="utf-8")
    return path


def pixels(seed: int, height: int = 20, width: int = 24) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)


def write_pictures(folder: Path, counts: Mapping[str, int]) -> None:
    """Write so many pictures into each sub-folder; the name ``.`` is the folder itself."""
    for c, (name, count) in enumerate(counts.items()):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            Image.fromarray(pixels(1000 * c + i)).save(folder / name / f"{i:03d}.png")


@dataclass(frozen=True)
class Done:
    """What a command left."""

    code: int
    out: str
    err: str

    @property
    def events(self) -> list[dict[str, Any]]:
        """The events that ``--log-json`` logged."""
        return [json.loads(line) for line in self.err.splitlines() if line.startswith("{")]

    def event(self, kind: str) -> dict[str, Any]:
        """The one event of a kind."""
        (found,) = [e for e in self.events if e["event"] == kind]
        return found

    @property
    def summary(self) -> dict[str, Any]:
        """The summary that ``--json`` and ``--log-json`` print."""
        found: dict[str, Any] = json.loads(self.out)
        return found

    def refusal(self) -> str:
        """The one line that says why nothing was done."""
        assert self.code == 2, (self.code, self.out, self.err)
        assert self.out == ""
        assert "Traceback" not in self.err
        (line,) = [x for x in self.err.splitlines() if not x.startswith(("salience: note:", '{"event": "note"'))]
        if line.startswith("{"):
            event = json.loads(line)
            assert event["event"] == "error"
            assert event["exit_code"] == self.code
            return str(event["message"])
        assert line.startswith("salience: ")
        return line.removeprefix("salience: ")


@dataclass(frozen=True)
class Terminal:
    """A command line in a folder."""

    folder: Path
    monkeypatch: pytest.MonkeyPatch
    capsys: pytest.CaptureFixture[str]

    def here(self, *args: str | Path) -> Done:
        """Run a command in this process: as :meth:`run`, without the seconds that importing torch takes."""
        from salience.cli import main

        words = [str(a) for a in args]
        self.monkeypatch.setattr(sys, "argv", ["salience", *words])
        before = signal.getsignal(signal.SIGTERM)
        self.capsys.readouterr()
        try:
            with pytest.raises(SystemExit) as stop:
                main()
        finally:
            signal.signal(signal.SIGTERM, before)
        said = self.capsys.readouterr()
        return Done(int(stop.value.code or 0), said.out, said.err)

    def explain(self, *args: str | Path, images: str = "pictures", model: str = "card.toml", out: str = "run") -> Done:
        """Explain the pictures with the small model, in this process."""
        return self.here("explain", images, "--model", model, "--out", out, *FAST, "--no-report", "--log-json", *args)

    def start(self, *args: str | Path, sleep: float = 0.0) -> subprocess.Popen[str]:
        """Start the program."""
        return subprocess.Popen(
            [sys.executable, "-m", "salience", *map(str, args)],
            cwd=self.folder,
            env={**os.environ, "NET_SLEEP": str(sleep), "NO_COLOR": "1", "COLUMNS": "160", "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL) and None,  # background jobs ignore it
        )

    def run(self, *args: str | Path) -> Done:
        """Run the program."""
        program = self.start(*args)
        out, err = program.communicate(timeout=300)
        return Done(program.returncode, out, err)


def wait_for(condition: Any, what: str, seconds: float = 120.0) -> None:
    """Wait until something is true."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"waited {seconds} s for {what}"
        time.sleep(0.01)


def workers_of(program: subprocess.Popen[str]) -> list[psutil.Process]:
    """The processes that work for a command."""
    found = psutil.Process(program.pid).children()
    return [p for p in found if "spawn_main" in " ".join(p.cmdline())]


def lives(process: psutil.Process) -> bool:
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


def results_of(run: Path) -> dict[str, object]:
    """All results of a run: what must not depend on how often it was killed."""
    opened = salience.open_run(run)
    found: dict[str, object] = {}
    for method in opened.methods:
        maps = opened.maps(method)
        found[method] = (maps.image_ids, maps.values.tobytes(), maps.targets.tobytes(), maps.scores.tobytes())
        found[f"{method} diagnostics"] = {k: v.tobytes() for k, v in maps.diagnostics.items()}
    for table in ("predictions", "failures", "diagnostics"):
        found[table] = opened.table(table).to_pylist()
    found["maps"] = opened.table("maps").drop_columns(["row"]).to_pylist()
    return found
