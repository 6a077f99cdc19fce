"""``salience compare``."""

from __future__ import annotations

import json
import signal
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from salience.cli.app import app
from salience.cli.inputs import columns_of, crew_of, load, settings
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
    Out,
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

if TYPE_CHECKING:
    from salience.store.place import Place


@app.command(
    epilog="Examples:\n\n"
    "salience compare photos/ --model old=old.toml --model new=new.toml --out runs/differ\n\n"
    "salience compare labels.csv -m a=a.toml -m b=b.toml --encoder timm:vit_small_patch14_dinov2 --group-by patient "
    "--out runs/differ\n\n"
    "salience compare photos/ -m only=card.toml --segments masks:parts/ --out runs/parts"
)
@told
def compare(
    images: Images,
    model: Annotated[
        list[str],
        typer.Option(
            "--model",
            "-m",
            metavar="NAME=CARD",
            help="As for explain. The first is the reference; one alone tells what carries each class. Repeatable.",
        ),
    ],
    out: Out,
    method: Annotated[
        str, typer.Option(metavar="M", help="Saliency method, with settings. Only ig has a ledger.")
    ] = "ig:steps=64:baseline=black+white",
    target: Annotated[
        str | None,
        typer.Option(
            help="Class to explain, the same in all models: label, predicted (by the reference) or class:K.  "
            "[default: label where there are labels, else predicted]"
        ),
    ] = None,
    output: Annotated[str, typer.Option(help="Scalar to explain: margin, logit, prob or logprob.")] = "margin",
    encoder: Annotated[
        str,
        typer.Option(
            metavar="CARD|color|place",
            help="What makes segments alike: a model, none of the compared; color: colour and texture; place: where "
            "they lie, for aligned images.",
        ),
    ] = "color",
    segments: Annotated[
        str,
        typer.Option(
            metavar="S", help="Partition of every image: felzenszwalb, slic, grid (with settings), or masks:DIR."
        ),
    ] = "felzenszwalb",
    group_by: Annotated[
        str | None,
        typer.Option(metavar="COLUMN", help="Manifest column of what belongs together (patient, scene): one unit."),
    ] = None,
    concepts: Annotated[str, typer.Option(metavar="auto|N", help="Number of concepts.")] = "auto",
    class_map: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="CSV with the columns model, from, to where the models' classes differ; same-order: they do not.",
        ),
    ] = None,
    confirm: Annotated[
        int, typer.Option(min=0, help="So many concepts, at most, are tested by changing their pixels.")
    ] = 12,
    pool: PoolImages = None,
    pool_size: PoolSize = 100,
    limit: Limit = None,
    column: Columns = None,
    seed: Seed = 0,
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
    """Find out how models differ: which visual concepts they use differently, how sure that is, and whether it matters.

    Images are cut into segments that know nothing of the models, like segments become concepts, and each concept's share of the attribution is compared. What seems to differ is tested by changing its pixels. Run the same command again to carry an interrupted one on.
    """  # noqa: E501
    from salience.differences import comparison_record, print_comparison
    from salience.progress import busy, listener

    signal.signal(signal.SIGTERM, signal.default_int_handler)
    columns = columns_of(column)
    crew = crew_of(engine, workers, address, gpus_per_worker)
    how = settings(batch_size, threads, memory_format, precision, unit_images, crew)
    try:
        with listener(as_json=log_json) as listen:
            from salience.comparing import compare as differ
            from salience.models.registry import redacted

            reference, *others = load(model, device, card, rate)
            comparison = differ(
                reference,
                others,
                images,
                method=method,
                target=target,
                output=output,
                encoder=encoder,
                segments=segments,
                group_by=group_by,
                concepts=concepts,
                class_map=class_map,
                confirm=confirm,
                out=out,
                pool=pool,
                pool_size=pool_size,
                columns=columns,
                limit=limit,
                seed=seed,
                settings=how,
                listen=listen,
                command=["salience", *map(redacted, sys.argv[1:])],
            )
        page: Place | None = None
        if report:
            with busy("writing the page"):
                page = comparison.report()
    except KeyboardInterrupt:
        interrupted(out)
    if as_json or log_json:
        typer.echo(json.dumps(comparison_record(comparison, page)))
    else:
        print_comparison(comparison, page)
    if comparison.failures:
        raise typer.Exit(FAILURES)
