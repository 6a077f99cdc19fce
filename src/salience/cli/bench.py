"""``salience bench``."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from salience.cli.app import app
from salience.cli.inputs import load, settings, split
from salience.cli.options import (
    BatchSize,
    Budget,
    Card,
    Device,
    Images,
    Json,
    MemoryFormat,
    Methods,
    Model,
    Precision,
    Rate,
    Target,
    Threads,
)
from salience.cli.shell import told


@app.command(
    epilog="Example:\n\nsalience bench photos/ --model card.toml --method gradient,positive,negative,contrast --json"
)
@told
def bench(
    images: Images,
    model: Model,
    method: Methods = ["gradient"],  # noqa: B006
    target: Target = "predicted",
    budget: Budget = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Images a round.  [default: some seconds' worth]")] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Alternated rounds of bare calls and runs.")] = 3,
    card: Card = None,
    rate: Rate = None,
    device: Device = "auto",
    batch_size: BatchSize = None,
    threads: Threads = None,
    memory_format: MemoryFormat = None,
    precision: Precision = "float32",
    as_json: Json = False,
) -> None:
    """Measure the speed of a run against the bare calls of the model: together, then each method alone.

    Efficiency is the time of the forward and backward passes that the methods mathematically need, at the best batch and memory format, over the time of the whole run: decoding, explaining, storing.
    """  # noqa: E501  # help shows line breaks as they are
    from salience.benchmark import bench as measure
    from salience.listing import print_speeds

    (classifier,) = load([model], device, card, rate)
    results = measure(
        classifier,
        images,
        split(method),
        limit=limit,
        rounds=rounds,
        settings=settings(batch_size, threads, memory_format, precision),
        target=target,
        budget=budget,
        told=lambda text: typer.echo(f"measuring {text}", err=True),
    )
    rows = [r.to_dict() for r in results]
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
    else:
        print_speeds(rows)
