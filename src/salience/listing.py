"""What ``salience list`` and ``salience doctor`` show."""

from __future__ import annotations

import os
import platform
from dataclasses import MISSING, fields
from importlib.metadata import PackageNotFoundError, version
from typing import Any

_BESIDE = ("captum", "timm", "torchvision", "transformers", "skimage", "sklearn")


def method_rows() -> list[dict[str, Any]]:
    """Return a row for every registered method."""
    from salience.methods.registry import methods

    rows = []
    for name, cls in methods().items():
        own = [f for f in fields(cls) if f.name != "options"]  # type: ignore[arg-type]  # every method is a dataclass
        words = [f.name.upper() for f in own if f.default is MISSING]
        rows.append(
            {
                "method": ":".join([name, *words]),
                "family": cls.traits.family,
                "summary": cls.traits.summary,
                "signed": cls.traits.signed,
                "settings": ", ".join(f"{f.name}={f.default}" for f in own if f.default is not MISSING),
                "stochastic": cls.traits.stochastic,
                "reference": cls.traits.reference,
                "details": cls.traits.details,
            }
        )
    return rows


def model_rows() -> list[dict[str, Any]]:
    """Return a row for every way to load a model."""
    from salience.models.registry import list_adapters

    return [dict(row._asdict()) for row in list_adapters()]


def print_rows(rows: list[dict[str, Any]]) -> None:
    """Print rows as a table that fits the terminal."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    if not console.is_terminal:
        console = Console(width=200)
    hidden = ("details", "stochastic")
    names = [n for n in rows[0] if n not in hidden]
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in names:
        table.add_column(name.replace("_", " "), overflow="fold")
    for row in rows:
        table.add_row(*(_cell(row[n]) for n in names))
    console.print(table, highlight=False, markup=False)


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def diagnosis() -> dict[str, Any]:
    """Return what a bug report needs, and whether a map with a known answer comes out right."""
    import torch

    from salience.models.devices import resolve_device

    found: dict[str, Any] = {
        "salience": _version("salience"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "torch": torch.__version__,
        "numpy": _version("numpy"),
        "pillow": _version("pillow"),
        "pyarrow": _version("pyarrow"),
        "device": str(resolve_device("auto")),
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "beside": {name: _beside(name) for name in _BESIDE},
    }
    found["known_answer"] = _known_answer()
    found["healthy"] = found["known_answer"] == "right"
    return found


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _beside(name: str) -> str:
    """Tell whether a package that is used where it is there can be imported, and what it says if not."""
    import importlib

    try:
        importlib.import_module(name)
    except ImportError:
        return "not installed"
    except Exception as error:  # a broken build raises anything at all
        return f"installed, but broken: {type(error).__name__}: {error}".splitlines()[0]
    names = {"skimage": "scikit-image", "sklearn": "scikit-learn"}
    return _version(names.get(name, name)) or "installed"


def _known_answer() -> str:
    """Explain a linear model, whose gradient is its weights."""
    import numpy as np

    from salience.explaining import explain
    from salience.testing.models import linear_classifier

    classifier, weights = linear_classifier(size=8, classes=3, seed=0)
    images = np.full((2, 8, 8, 3), 128, dtype=np.uint8)
    try:
        maps = explain(classifier, images, method="gradient", target=1)
    except Exception as error:
        return f"failed: {type(error).__name__}: {error}"
    expected = np.abs(weights[1]).max(axis=0)
    return "right" if np.allclose(maps.values, expected[None], rtol=1e-5, atol=1e-7) else "wrong"


def print_diagnosis(found: dict[str, Any]) -> None:
    """Print a diagnosis for people."""
    from rich.console import Console

    console = Console()
    for key, value in found.items():
        if isinstance(value, dict):
            console.print(f"{key}:", highlight=False, markup=False)
            for name, text in value.items():
                console.print(f"  {name:14} {text}", highlight=False, markup=False)
        else:
            console.print(f"{key:14} {value}", highlight=False, markup=False)
