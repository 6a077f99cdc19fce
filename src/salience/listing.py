"""What ``salience list`` and ``salience doctor`` show."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from dataclasses import MISSING, fields
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

_OPTIONAL = ("captum", "timm", "torchvision", "transformers", "onnxruntime", "httpx", "skimage", "sklearn")


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


def metric_rows() -> list[dict[str, Any]]:
    """Return a row for every registered metric."""
    from salience.metrics.registry import GROUPS, metrics

    rows = []
    for name, cls in metrics().items():
        traits = cls.traits
        own = fields(cls)  # type: ignore[arg-type]  # every metric is a dataclass
        rows.append(
            {
                "metric": name,
                "family": traits.family,
                "summary": traits.summary,
                "direction": traits.direction,
                "range": [v if abs(v) < float("inf") else None for v in (traits.low, traits.high)],
                "sign": traits.sign,
                "over": traits.over,
                "settings": ", ".join(f"{f.name}={f.default}" for f in own),
                "forwards": cls().cost(10, (224, 224)),
                "groups": [group for group, members in GROUPS.items() if name in members],
                "reference": traits.reference,
                "details": traits.details,
            }
        )
    return rows


def model_rows() -> list[dict[str, Any]]:
    """Return a row for every way to load a model."""
    from salience.models.registry import list_adapters

    return [dict(row._asdict()) for row in list_adapters()]


def print_rows(rows: list[dict[str, Any]]) -> None:
    """Print rows as a table that fits the terminal."""
    from rich.table import Table

    console = console_of_output()
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in rows[0]:
        table.add_column(name.replace("_", " "), overflow="fold")
    for row in rows:
        table.add_row(*(_cell(v) for v in row.values()))
    console.print(table, highlight=False, markup=False)


def print_methods(rows: list[dict[str, Any]]) -> None:
    """Print the methods by family: name, what it shows, settings, source."""
    from rich.table import Table
    from rich.text import Text

    console = console_of_output()
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    family = ""
    for row in rows:
        if row["family"] != family:
            if family:
                table.add_row()
            family = row["family"]
            table.add_row(Text(family, style="bold underline"))
        traits = ["signed" if row["signed"] else "unsigned", *(["stochastic"] if row["stochastic"] else [])]
        if row["settings"]:
            traits.append(row["settings"].replace(", ", ":"))
        table.add_row(Text(row["method"], style="bold"), row["summary"])
        table.add_row("", Text(row["reference"], style="dim"))
        table.add_row("", Text(", ".join(traits), style="dim"))
    console.print(table, highlight=False, markup=False)
    console.print(
        "\nSettings follow the name: --method gradient,ig:steps=64:baseline=blur", highlight=False, markup=False
    )


def print_metrics(rows: list[dict[str, Any]]) -> None:
    """Print the metrics by family: name, what it tells, how to read it, source."""
    from rich.table import Table
    from rich.text import Text

    console = console_of_output()
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    family = ""
    for row in rows:
        if row["family"] != family:
            if family:
                table.add_row()
            family = row["family"]
            table.add_row(Text(family, style="bold underline"))
        low, high = ("unbounded" if v is None else f"{v:g}" for v in row["range"])
        better = "no direction" if row["direction"] == "neither" else f"{row['direction']} is better"
        traits = [better, f"{low} to {high}", f"{row['sign']} values", f"forward passes: {row['forwards']}"]
        if row["settings"]:
            traits.append(row["settings"].replace(", ", ":"))
        table.add_row(Text(row["metric"], style="bold"), row["summary"])
        table.add_row("", Text(f"{', '.join(traits)}; {row['reference']}", style="dim"))
    console.print(table, highlight=False, markup=False)
    groups: dict[str, list[str]] = {}
    for row in rows:
        for group in row["groups"]:
            groups.setdefault(group, []).append(row["metric"])
    console.print("\nGroups, as --metric complete-sound,boxes:", highlight=False, markup=False)
    for group, members in groups.items():
        console.print(f"  {group}: {', '.join(members)}", highlight=False, markup=False)
    console.print(
        "Forward passes are those of an image and method at 224 x 224 with 10 labels.", highlight=False, markup=False
    )


def print_speeds(rows: list[dict[str, Any]]) -> None:
    """Print what ``salience bench`` measured, and what the figures mean."""
    from rich.table import Table

    console = console_of_output()
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("method", overflow="fold")
    for name in ("efficiency", "images/s", "bare ms", "run ms", "batch"):
        table.add_column(name, justify="right", no_wrap=True)
    for r in rows:
        figures = (r["images_per_second"], r["bare_ms"], r["run_ms"])
        table.add_row(r["method"], f"{r['efficiency']:.2f}", *(f"{v:.4g}" for v in figures), str(r["batch"]))
    console.print(table, highlight=False, markup=False)
    for line in filter(None, map(_fidelity_line, rows)):
        console.print(line, highlight=False, markup=False)
    console.print(
        "\nmilliseconds an image; efficiency = bare / run: the model's own calls over the whole run",
        highlight=False,
        markup=False,
    )


def _fidelity_line(row: Mapping[str, Any]) -> str | None:
    """Say what a check of bfloat16 found, where one was made."""
    found = row.get("fidelity")
    if found is None:
        return None
    maps = ", ".join(
        f"{name} {_figure(a['rank_correlation'])} (largest difference {_figure(a['deviation'])})"
        for name, a in found["methods"].items()
    )
    verdict = "within the tolerances" if found["within"] else "outside the tolerances"
    return (
        f"\n{row['method']} in {row['precision']}. bfloat16: {_figure(found['speedup'])} times as fast; {verdict}; "
        f"rank correlation of maps with those of float32: {maps}; probabilities differ by "
        f"{_figure(found['probability'])}"
    )


def _figure(value: float | None) -> str:
    return "none" if value is None else f"{value:.4g}"


def console_of_output() -> Console:
    """Return standard output, wide where it is a file or a pipe."""
    from rich.console import Console

    console = Console()
    return console if console.is_terminal else Console(width=200)


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
        "bfloat16": _bfloat16(),
        "optional": {name: _optional(name) for name in _OPTIONAL},
    }
    found["known_answer"] = _known_answer()
    found["healthy"] = found["known_answer"] == "right"
    return found


def _bfloat16() -> str:
    """Tell whether model calls in bfloat16 may pay on the device that would be taken."""
    from salience.engine.precision import convolution_gain
    from salience.models.devices import resolve_device

    gain = convolution_gain(resolve_device("auto"))
    if gain is None:
        return "not available"
    return f"convolutions {gain:.1f} times as fast; 'salience bench --precision auto' measures a model"


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _optional(name: str) -> str:
    """Tell whether a package that is used where it is there can be imported, and what it says if not."""
    import importlib

    try:
        importlib.import_module(name)
    except ImportError:
        return "not installed"
    except Exception as error:  # a broken build raises anything at all
        from salience.models.registry import torchvision_cure

        told = f"{type(error).__name__}: {error}".splitlines()[0].rstrip(".")
        return f"installed, but broken: {told}. {torchvision_cure(error) or ''}".rstrip()
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
    import typer

    for key, value in found.items():
        if isinstance(value, dict):
            typer.echo(f"{key}:")
            for name, text in value.items():
                typer.echo(f"  {name:14} {text}")
        else:
            typer.echo(f"{key.replace('_', ' '):16} {_cell(value)}")
