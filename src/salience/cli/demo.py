"""``salience demo``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from salience.cli.app import app
from salience.cli.compare import compare
from salience.cli.explain import explain
from salience.cli.options import Device
from salience.cli.shell import told
from salience.cli.train import train


@app.command(epilog="Example:\n\nsalience demo --out demo")
@told
def demo(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the images, models and runs.")] = Path("demo"),
    device: Device = "auto",
) -> None:
    """Explain what EfficientNet-Lite0 sees in real photographs, and compare: it with Lite1, and two small networks.

    One of the small networks, trained in seconds on scikit-learn's handwritten digits, has learnt a mark in the corner; the page leads to it. Needs the extra 'demo' and no download.
    """  # noqa: E501
    from salience.demo.digits import CLASSES, EPOCHS, write_digits
    from salience.demo.photographs import LARGER, METHODS, MODEL, collect_photographs

    photographs = collect_photographs(out / "photographs")
    typer.echo("1. What does EfficientNet-Lite0 see, and where?\n")
    explain(images=str(photographs), model=[MODEL], out=out / "run", method=list(METHODS), device=device)

    typer.echo("\n2. Two networks for handwritten digits, one trained with a mark in the corner of one class\n")
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
    compare(
        images=str(digits.held_out),
        model=[f"{name}={card}" for name, card in cards.items()],
        out=out / "digits-compared",
        device=device,
    )

    typer.echo("\n3. EfficientNet-Lite0 and Lite1 on the photographs: so few show little, and the page says so\n")
    compare(images=str(photographs), model=[MODEL, LARGER], out=out / "photographs-compared", device=device)
    pages = [out / run / "report" / "index.html" for run in ("run", "digits-compared", "photographs-compared")]
    typer.echo("\npages:\n" + "\n".join(f"  {page}" for page in pages))
