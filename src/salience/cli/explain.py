"""``salience explain``."""

from __future__ import annotations

import json
import signal
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from salience.cli.app import app
from salience.cli.inputs import columns_of, crew_of, load, settings, split, write_page
from salience.cli.options import (
    Address,
    BatchSize,
    Budget,
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
    Models,
    Out,
    Output,
    PoolImages,
    PoolSize,
    Precision,
    Rate,
    Report,
    Seed,
    ShardOf,
    Target,
    Threads,
    UnitImages,
    Workers,
)
from salience.cli.shell import FAILURES, interrupted, told
from salience.errors import SettingsError

if TYPE_CHECKING:
    from salience.explaining import Outcome
    from salience.store.place import Place


@app.command(
    epilog="Examples:\n\n"
    "salience explain photos/ --model card.toml --method gradient,gradcam --out runs/first\n\n"
    "salience explain val/labels.csv -m timm:resnet50 --method ig:steps=64 --target label --out runs/ig\n\n"
    "salience explain cifar.npz -m old=a.toml -m new=b.toml --method active --target all --out runs/both"
)
@told
def explain(
    images: Images,
    model: Models,
    out: Out,
    method: Methods = ["gradcam"],  # noqa: B006  # typer reads the default, nothing writes it
    target: Target = "predicted",
    output: Output = None,
    budget: Budget = None,
    pool: PoolImages = None,
    pool_size: PoolSize = 100,
    limit: Limit = None,
    shard: ShardOf = None,
    column: Columns = None,
    seed: Seed = 0,
    map_dtype: Annotated[str, typer.Option(help="float16 (with a float32 scale a map) or float32.")] = "float16",
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
    """Compute maps of every image into a run directory, with a page to look at.

    What the directory already holds is kept: the same command carries an interrupted run on, and more methods, models or images are added to a finished one.
    """  # noqa: E501  # help shows line breaks as they are
    from salience.data.base import Shard
    from salience.progress import listener

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a scheduler's kill ends as Ctrl-C does
    if map_dtype not in ("float16", "float32"):
        raise SettingsError(f"--map-dtype is {map_dtype!r}; choose float16 or float32.")
    columns = columns_of(column)
    part = None if shard is None else Shard.parse(shard)
    crew = crew_of(engine, workers, address, gpus_per_worker)
    how = settings(batch_size, threads, memory_format, precision, unit_images, crew)
    try:
        with listener(as_json=log_json) as listen:
            from salience.explaining import explain_run
            from salience.models.registry import redacted

            outcome = explain_run(
                load(model, device, card, rate),
                images,
                split(method),
                out,
                target=target,
                output=output,
                budget=budget,
                pool=pool,
                pool_size=pool_size,
                columns=columns,
                limit=limit,
                shard=part,
                seed=seed,
                map_dtype=map_dtype,  # type: ignore[arg-type]  # checked above
                settings=how,
                listen=listen,
                command=["salience", *map(redacted, sys.argv[1:])],
            )
        page = write_page(out) if report else None
    except KeyboardInterrupt:
        interrupted(out)
    _summarise(outcome, page, as_json=as_json or log_json)
    if outcome.failures:
        raise typer.Exit(FAILURES)


def _summarise(outcome: Outcome, page: Place | None, *, as_json: bool) -> None:
    from salience.progress import summary_lines, summary_record

    if as_json:
        typer.echo(json.dumps(summary_record(outcome, page)))
        return
    for line in summary_lines(outcome, page):
        typer.echo(line)
