"""``salience audit``."""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from salience.cli.app import app
from salience.cli.inputs import columns_of, crew_of, settings, split, write_page
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
from salience.errors import SettingsError

if TYPE_CHECKING:
    from salience.store.place import Place


@app.command(
    epilog="Examples:\n\n"
    "salience audit photos/ --group plain=plain_*.toml --group guided=guided_*.toml --out runs/behaviour\n\n"
    "salience audit photos/ -m small=a.toml -m large=b.toml --out-of-set sketches/ --out runs/behaviour\n\n"
    "salience audit faces/ --model card.toml --measure entropy,geometry --method rise:budget=512 --out runs/follows"
)
@told
def audit(
    images: Images,
    out: Out,
    group: Annotated[
        list[str] | None,
        typer.Option(
            "--group",
            "-g",
            metavar="NAME=CARD[,CARD]",
            help="Training runs of one recipe: cards, patterns as plain_*.toml, or folders of cards. The first group "
            "is the reference. Repeatable.",
        ),
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option("--model", "-m", metavar="[NAME=]CARD", help="One model, a group by itself. Repeatable."),
    ] = None,
    out_of_set: Annotated[
        str | None, typer.Option(metavar="IMAGES", help="A second dataset: how focus and confidence differ on it.")
    ] = None,
    measure: Annotated[
        list[str] | None,
        typer.Option(
            "--measure",
            metavar="M[,M]",
            help="entropy, out-of-set, geometry, stability, degradation.  [default: all that the models allow]",
        ),
    ] = None,
    method: Annotated[
        str, typer.Option(metavar="M", help="Saliency method, with settings. 'salience list methods'.")
    ] = "gradcam",
    background: Annotated[
        list[str],
        typer.Option(metavar="B[,B]", help="What takes the place of pixels in the corrected degradation."),
    ] = ["blur", "dataset-mean", "road"],  # noqa: B006  # typer reads the default, nothing writes it
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
    """Find out how models behave: whether their salience is focused, stays under noise, follows turns and shifts, agrees between training runs, and decides the answer.

    Every measure is given as published and corrected, with intervals over training runs and images, and groups are compared with the first one. Run the same command again to carry an interrupted one on.
    """  # noqa: E501
    from salience.progress import busy, listener

    signal.signal(signal.SIGTERM, signal.default_int_handler)
    columns = columns_of(column)
    crew = crew_of(engine, workers, address, gpus_per_worker)
    how = settings(batch_size, threads, memory_format, precision, unit_images, crew)
    models = models_of(group or [], model or [])
    page: Place | None = None
    try:
        with listener(as_json=log_json) as listen:
            from salience.auditing import audit as ask
            from salience.engine.allocator import keep_freed_memory
            from salience.findings import audit_record, print_audit
            from salience.models.registry import redacted

            keep_freed_memory()
            found = ask(
                models,
                images,
                out_of_set=out_of_set,
                measures=split(measure) if measure else None,
                method=method,
                background=split(background),
                out=out,
                pool=pool,
                pool_size=pool_size,
                columns=columns,
                limit=limit,
                seed=seed,
                device=device,
                card=card,
                rate=rate,
                settings=how,
                listen=listen,
                command=["salience", *map(redacted, sys.argv[1:])],
            )
        if report:
            page = write_page(out)
        with busy("reading what was found"):
            record = audit_record(found, page)
    except KeyboardInterrupt:
        interrupted(out)
    if as_json or log_json:
        typer.echo(json.dumps(record))
    else:
        print_audit(found, page)
    if record["failures"]:
        raise typer.Exit(FAILURES)


def models_of(groups: list[str], models: list[str]) -> dict[str, list[str]] | list[str]:
    """Return models by group, of NAME=CARD,CARD; patterns and folders are expanded here, in the order of names.

    Raises
    ------
    SettingsError
        When a group is not written so, or a pattern or folder holds no card.
    """
    found: dict[str, list[str]] = {}
    for text in groups:
        name, equals, rest = text.partition("=")
        if not equals or not name or not rest:
            raise SettingsError(f"--group is {text!r}; write NAME=CARD,CARD or NAME=PATTERN, e.g. plain=plain_*.toml.")
        cards = [card for part in split([rest]) for card in _expanded(part)]
        found.setdefault(name.strip(), []).extend(cards)
    if not found:
        return models
    for spec in models:
        from salience.behaviour.members import name_of

        found.setdefault(name_of(spec), []).append(spec)
    return found


def _expanded(part: str) -> list[str]:
    path = Path(part).expanduser()
    pattern = part.lower().endswith(".toml") and any(mark in part for mark in "*?[") and not path.exists()
    if not pattern and not path.is_dir():
        return [part]
    cards = sorted(str(p) for p in (path.glob("*.toml") if path.is_dir() else _matching(path)))
    if not cards:
        raise SettingsError(f"--group: {part!r} holds no model card (.toml). Name cards, a pattern or a folder.")
    return cards


def _matching(pattern: Path) -> list[Path]:
    import glob

    return [Path(p) for p in glob.glob(str(pattern))]  # noqa: PTH207  # takes absolute patterns too
