"""``salience demo``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from salience.cli.app import app
from salience.cli.explain import explain
from salience.cli.options import Device
from salience.cli.shell import told


@app.command(epilog="Example:\n\nsalience demo --out demo")
@told
def demo(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the photographs and the run.")] = Path("demo"),
    device: Device = "auto",
) -> None:
    """Explain what EfficientNet-Lite0 sees in real photographs; needs the extra 'demo' and no download."""
    from salience.demo import METHODS, MODEL, collect_photographs

    photographs = collect_photographs(out / "photographs")
    explain(
        images=str(photographs),
        model=[MODEL],
        out=out / "run",
        method=list(METHODS),
        device=device,
    )
