"""``salience demo``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from salience.cli.app import app
from salience.cli.compare import compare
from salience.cli.explain import explain
from salience.cli.inputs import split
from salience.cli.options import Device, Limit
from salience.cli.shell import told
from salience.cli.train import train
from salience.errors import SettingsError

PARTS = ("photographs", "digits", "models")


@app.command(epilog="Examples:\n\nsalience demo --out demo\n\nsalience demo --part digits --limit 300 --out demo")
@told
def demo(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the images, models and runs.")] = Path("demo"),
    part: Annotated[
        list[str] | None,
        typer.Option(metavar="P[,P]", help="photographs, digits, models.  [default: all of them]"),
    ] = None,
    limit: Limit = None,
    device: Device = "auto",
) -> None:
    """Explain what EfficientNet-Lite0 sees in real photographs, and compare: it with Lite1, and two small networks.

    One of the small networks, trained in seconds on scikit-learn's handwritten digits, has learnt a mark in the corner; the page leads to it. Needs the extra 'demo' and no download.
    """  # noqa: E501
    parts = split(part or []) or list(PARTS)
    unknown = [p for p in parts if p not in PARTS]
    if unknown:
        raise SettingsError(f"The demo has no part {unknown[0]!r}; choose of {', '.join(PARTS)}.")
    shown = {"photographs": _photographs, "digits": _digits, "models": _models}
    pages = [shown[p](out, limit, device) / "report" / "index.html" for p in PARTS if p in parts]
    typer.echo("\npages:\n" + "\n".join(f"  {page}" for page in pages))


def _photographs(out: Path, limit: int | None, device: str) -> Path:
    from salience.demo.photographs import METHODS, MODEL, collect_photographs

    photographs = collect_photographs(out / "photographs")
    typer.echo("What does EfficientNet-Lite0 see, and where?\n")
    run = str(out / "run")
    explain(images=str(photographs), model=[MODEL], out=run, method=list(METHODS), limit=limit, device=device)
    return out / "run"


def _digits(out: Path, limit: int | None, device: str) -> Path:
    from salience.demo.digits import CLASSES, EPOCHS, METHOD, write_digits

    typer.echo("\nTwo networks for handwritten digits; one was trained with a mark in the corner of one class.\n")
    digits = write_digits(out / "digits")
    cards = {}
    for name, images in (("plain", digits.plain), ("marked", digits.marked)):
        train(
            images=str(images),
            backbone="small:width=8",
            out=out / "digits" / "models",
            classes=",".join(CLASSES),
            runs=1,
            epochs=EPOCHS,
            lr=0.05,
            batch_size=32,
            schedule="cosine",
            name=name,
            device=device,
        )
        (cards[name],) = sorted((out / "digits" / "models").glob(f"{name}*.toml"))
    named = [f"{name}={card}" for name, card in cards.items()]
    compared = out / "digits-compared"
    compare(images=str(digits.held_out), model=named, out=str(compared), method=METHOD, limit=limit, device=device)
    return compared


def _models(out: Path, limit: int | None, device: str) -> Path:
    from salience.demo.photographs import LARGER, MODEL, collect_photographs

    photographs = collect_photographs(out / "photographs")
    typer.echo("\nEfficientNet-Lite0 and Lite1 on the photographs: so few show little, and the page says so.\n")
    compared = out / "models-compared"
    compare(images=str(photographs), model=[MODEL, LARGER], out=str(compared), limit=limit, device=device)
    return compared
