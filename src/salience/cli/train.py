"""``salience train``."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from salience.cli.app import app
from salience.cli.inputs import columns_of, split
from salience.cli.options import Columns, Device, Images, Json, Limit, LogJson, Seed, Threads
from salience.cli.shell import FAILURES, INTERRUPTED, stop, told

if TYPE_CHECKING:
    from salience.training.group import Trained


@app.command(
    epilog="Examples:\n\n"
    "salience train faces/ --backbone card.toml --runs 10 --out models\n\n"
    "salience train faces/ --backbone card.toml --runs 10 --loss guided --human maps/ --out models\n\n"
    "salience train faces/ -b card.toml --runs 10 --loss guided --human maps/ --control shuffled --out models\n\n"
    "salience train cifar.npz --backbone small:width=16 --train all --epochs 30 --lr 0.1 --schedule cosine "
    "--batch-size 128 --augment flip,shift --runs 5 --out small"
)
@told
def train(
    images: Images,
    backbone: Annotated[
        str,
        typer.Option(
            "--backbone",
            "-b",
            metavar="CARD",
            help="Model to go on from: a card or spec, or small[:width=W], untrained.",
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for a card, weights and a log a run.")],
    classes: Annotated[
        str | None,
        typer.Option(metavar="A,B", help="Classes, in the order of the outputs.  [default: the labels, sorted]"),
    ] = None,
    runs: Annotated[int, typer.Option(min=1, help="Runs of the group, which differ in their seeds alone.")] = 10,
    loss: Annotated[str, typer.Option(help="cross-entropy or guided (by human maps).")] = "cross-entropy",
    alpha: Annotated[float, typer.Option(help="Share of the cross-entropy in the guided loss.")] = 0.5,
    human: Annotated[
        str | None,
        typer.Option(
            metavar="MAPS", help="Folder of grey maps with the images' names, or 'boxes' for those of the manifest."
        ),
    ] = None,
    control: Annotated[
        str | None, typer.Option(help="In place of an image's own map: shuffled (another's) or centre.")
    ] = None,
    target: Annotated[str, typer.Option(help="Class whose map is guided: predicted or true.")] = "predicted",
    part: Annotated[
        str | None,
        typer.Option(
            "--train",
            metavar="PART",
            help="head, last (block), all, or the module to begin with.  [default: head; all of a small network]",
        ),
    ] = None,
    size: Annotated[int | None, typer.Option(min=1, help="Input side in pixels.  [default: the backbone's]")] = None,
    epochs: Annotated[int, typer.Option(min=1, help="Epochs.")] = 50,
    lr: Annotated[float, typer.Option(help="Learning rate.")] = 0.005,
    batch_size: Annotated[int, typer.Option(min=1, help="Images a step.")] = 20,
    momentum: Annotated[float, typer.Option(help="Momentum.")] = 0.9,
    weight_decay: Annotated[float, typer.Option(help="Weight decay.")] = 1e-6,
    schedule: Annotated[str, typer.Option(help="step (a tenth every 12 epochs) or cosine.")] = "step",
    augment: Annotated[
        list[str] | None,
        typer.Option(metavar="A[,A]", help="flip, shift: move images at random, human maps with them."),
    ] = None,
    balanced: Annotated[bool, typer.Option("--balanced", help="Weigh the classes alike.")] = False,
    patience: Annotated[
        int | None, typer.Option(min=1, help="Stop after so many epochs without a better one.  [default: never]")
    ] = None,
    validation: Annotated[
        float, typer.Option(help="Share of each class held out; the best epoch on it is kept.")
    ] = 0.2,
    name: Annotated[
        str | None, typer.Option(help="Name of the group.  [default: plain, guided, guided-shuffled, guided-centre]")
    ] = None,
    limit: Limit = None,
    column: Columns = None,
    seed: Seed = 0,
    device: Device = "auto",
    threads: Threads = None,
    log_json: LogJson = False,
    as_json: Json = False,
) -> None:
    """Train a group of runs, plain or guided by human maps, for 'audit' to tell what the recipe does.

    The defaults are the published recipe of Boyd et al. (2021). The same command carries an interrupted training on; finished runs are kept, and more --runs are added to them.
    """  # noqa: E501  # help shows line breaks as they are
    from salience.progress import listener

    signal.signal(signal.SIGTERM, signal.default_int_handler)
    columns = columns_of(column)
    try:
        with listener(as_json=log_json) as listen:
            from salience.training.group import train as train_group
            from salience.training.recipe import Recipe
            from salience.training.setup import is_small

            recipe = Recipe(
                loss=loss,  # type: ignore[arg-type]  # the recipe checks what was typed
                alpha=alpha,
                target=target,  # type: ignore[arg-type]
                control=control,  # type: ignore[arg-type]
                train=part or ("all" if is_small(backbone) else "head"),
                epochs=epochs,
                batch_size=batch_size,
                lr=lr,
                momentum=momentum,
                weight_decay=weight_decay,
                schedule=schedule,  # type: ignore[arg-type]
                augment=tuple(split(augment or [])),  # type: ignore[arg-type]
                balanced=balanced,
                patience=patience,
                validation=validation,
                seed=seed,
            )
            trained = train_group(
                images,
                backbone,
                out,
                classes=None if classes is None else split([classes]),
                runs=runs,
                recipe=recipe,
                human=human,
                name=name,
                size=size,
                columns=columns,
                limit=limit,
                device=device,
                threads=threads,
                listen=listen,
            )
    except KeyboardInterrupt:
        stop(f"interrupted. What is done is kept in {out}; run the same command again to carry on.", INTERRUPTED)
    if as_json or log_json:
        typer.echo(json.dumps(trained.to_dict()))
    else:
        _summarise(trained)
    if trained.failures:
        raise typer.Exit(FAILURES)


def _summarise(trained: Trained) -> None:
    from salience.listing import print_rows
    from salience.progress import counted, duration

    for note in trained.notes:
        typer.echo(f"note: {note}")
    print_rows(
        [
            {
                "run": record.name,
                "accuracy": f"{record.accuracy:.1%}",
                "mean recall": f"{record.recall:.1%}",
                "best epoch": f"{record.best_epoch} of {record.epochs}",
                "map error": f"{record.map_error:.4f}",
                "time": duration(record.seconds),
            }
            for record in trained.runs
        ]
    )
    summary = trained.to_dict()
    spread = "" if summary["sd"] is None else f" ± {summary['sd']:.1%} (standard deviation of {len(trained.runs)} runs)"
    before = len(trained.runs) - trained.trained
    kept = f"; {before} of them finished before" if before else ""
    typer.echo(f"{trained.group}: accuracy on the images held out {summary['accuracy']:.1%}{spread}{kept}")
    for image_id, message in trained.failures:
        typer.echo(f"left out: {message if image_id in message else f'{image_id}: {message}'}")
    if trained.failures:
        typer.echo(f"{counted(len(trained.failures), 'image')} could not be read")
    typer.echo(f"cards: {trained.folder / trained.group}_*.toml")
