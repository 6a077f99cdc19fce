"""``salience evaluate``."""

from __future__ import annotations

import json
import signal
import sys
from typing import Annotated

import typer

from salience.cli.app import app
from salience.cli.inputs import columns_of, crew_of, load, settings, split
from salience.cli.options import (
    Address,
    BatchSize,
    Card,
    Columns,
    Device,
    Engine,
    GpusPerWorker,
    Images,
    Json,
    Limit,
    LogJson,
    MemoryFormat,
    Methods,
    Model,
    Out,
    Output,
    PoolImages,
    PoolSize,
    Precision,
    Rate,
    Report,
    Seed,
    Threads,
    UnitImages,
    Workers,
)
from salience.cli.shell import FAILURES, interrupted, told
from salience.errors import SettingsError


@app.command(
    epilog="Examples:\n\n"
    "salience evaluate photos/ --model card.toml --method gradient,gradcam --out runs/trust\n\n"
    "salience evaluate cifar.npz -m card.toml --method ig,rise --metric complete-sound,srg --background "
    "dataset-mean,blur,road --labels all --smooth 0,2,4 --out runs/trust\n\n"
    "salience evaluate photos/ -m card.toml --maps other.npz --run runs/first --out runs/beside"
)
@told
def evaluate(
    images: Images,
    model: Model,
    out: Out,
    method: Methods = [],  # noqa: B006  # typer reads the default, nothing writes it
    metric: Annotated[
        list[str], typer.Option("--metric", metavar="M[,M]", help="Metrics and groups. 'salience list metrics'.")
    ] = ["complete-sound", "insertion", "deletion", "srg"],  # noqa: B006
    background: Annotated[
        list[str],
        typer.Option(
            metavar="B[,B]",
            help="What takes the place of pixels: dataset-mean (published), mean, blur, dataset, road, black, grey, "
            "white, noise. Each is a sweep of its own.",
        ),
    ] = ["dataset-mean"],  # noqa: B006
    labels: Annotated[
        str, typer.Option(help="Label set: predicted+M (with M runners-up), all, or predicted (no soundness).")
    ] = "predicted+9",
    maps: Annotated[
        list[str] | None, typer.Option(metavar="FILE", help="Maps from elsewhere: an .npz. Repeatable.")
    ] = None,
    run: Annotated[
        list[str] | None, typer.Option(metavar="RUN[,RUN]", help="Runs of explain whose maps are scored too.")
    ] = None,
    smooth: Annotated[
        str, typer.Option(metavar="PX[,PX]", help="Blur all maps alike by so many pixels before scoring them.")
    ] = "0",
    tiles: Annotated[bool, typer.Option("--tiles", help="Score tiles of two images each.")] = False,
    output: Output = None,
    pool: PoolImages = None,
    pool_size: PoolSize = 100,
    limit: Limit = None,
    column: Columns = None,
    seed: Seed = 0,
    seeds: Annotated[
        int,
        typer.Option(
            min=1, help="Make the maps of methods that draw with so many seeds, and tell the spread; 3 is good."
        ),
    ] = 1,
    card: Card = None,
    rate: Rate = None,
    device: Device = "auto",
    engine: Engine = "local",
    workers: Workers = None,
    address: Address = "local",
    gpus_per_worker: GpusPerWorker = 0.0,
    batch_size: BatchSize = None,
    threads: Threads = None,
    memory_format: MemoryFormat = None,
    precision: Precision = "float32",
    log_json: LogJson = False,
    report: Report = True,
    unit_images: UnitImages = None,
    as_json: Json = False,
) -> None:
    """Find out which maps can be trusted: compute them, score them beside baselines, rank them with intervals.

    A map is complete when what it shows is enough for its label, and sound when the map of a wrong label does not produce that label. Run the same command again to carry an interrupted one on; the table is about the last call.
    """  # noqa: E501
    from salience.leaderboard import print_scores, score_record
    from salience.progress import busy, listener

    signal.signal(signal.SIGTERM, signal.default_int_handler)
    columns = columns_of(column)
    crew = crew_of(engine, workers, address, gpus_per_worker)
    how = settings(batch_size, threads, memory_format, precision, unit_images, crew)
    try:
        smooths = [float(s) for s in split([smooth])]
    except ValueError as error:
        raise SettingsError(f"--smooth is {smooth!r}; write pixels as 0,2,4.") from error
    try:
        with listener(as_json=log_json) as listen:
            from salience.evaluating import evaluate as score
            from salience.models.registry import redacted

            (classifier,) = load([model], device, card, rate)
            scores = score(
                classifier,
                images,
                split(method),
                metrics=split(metric),
                background=split(background),
                labels=labels,
                maps=maps or (),
                runs=split(run or []),
                out=out,
                smooth=smooths,
                tiles=tiles,
                pool=pool,
                pool_size=pool_size,
                output=output,
                columns=columns,
                limit=limit,
                seed=seed,
                seeds=seeds,
                settings=how,
                listen=listen,
                command=["salience", *map(redacted, sys.argv[1:])],
            )
        with busy("writing the page"):
            page = scores.report() if report else None
    except KeyboardInterrupt:
        interrupted(out)
    if as_json or log_json:
        typer.echo(json.dumps(score_record(scores, page)))
    else:
        print_scores(scores, page)
    if scores.failures:
        raise typer.Exit(FAILURES)
