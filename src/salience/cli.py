"""The command line: one thin function per verb. Nothing heavy is imported before a verb runs."""

from __future__ import annotations

import errno
import json
import signal
import sys
import traceback
import warnings
from collections.abc import Callable
from contextvars import ContextVar
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, ParamSpec

import typer

from salience.errors import SalienceError, SalienceWarning, SettingsError

if TYPE_CHECKING:
    from salience.explaining import Outcome, RunSettings
    from salience.models.classifier import Classifier

P = ParamSpec("P")

FAILURES = 1
UNUSABLE = 2
BUG = 70
INTERRUPTED = 130

app = typer.Typer(
    name="salience",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Explain image classifiers over whole datasets.",
    epilog="Begin with 'salience demo', or see 'salience explain --help' and 'salience list methods'.\n\n"
    "Exit codes: 0 all done; 1 done, but some images or maps failed; 2 something must be mended first; "
    "130 interrupted, the same command carries on.",
)

Images = Annotated[
    str,
    typer.Argument(
        help="Folder (classes as sub-folders, or flat), manifest (.csv, .parquet), .npz, or one image file."
    ),
]
Models = Annotated[
    list[str],
    typer.Option(
        "--model",
        "-m",
        metavar="[NAME=]CARD",
        help="Model card (.toml), timm:NAME, torchvision:NAME, hf:ID, pt2:PATH, onnx:PATH, a URL, or "
        "pkg.module:factory. Repeatable.",
    ),
]
Methods = Annotated[
    list[str],
    typer.Option("--method", metavar="M[,M]", help="Methods, with settings as ig:steps=64. 'salience list methods'."),
]
Target = Annotated[str, typer.Option(help="Class to explain: predicted, label, class:K (number or name) or all.")]
Output = Annotated[
    str | None,
    typer.Option(help="Scalar to explain: logit, prob, logprob or margin.  [default: logit; prob for black boxes]"),
]
Budget = Annotated[
    int | None,
    typer.Option(min=1, help="Forward passes an image at most, for each black-box method.  [default: 1024]"),
]
PoolImages = Annotated[
    str | None,
    typer.Option(
        "--pool", metavar="IMAGES", help="Images that backgrounds are drawn from.  [default: those that are explained]"
    ),
]
PoolSize = Annotated[int, typer.Option(min=2, help="So many of them are drawn, for methods that need any.")]
Limit = Annotated[int | None, typer.Option(min=1, help="Take so many images; in turn from the classes of a folder.")]
Out = Annotated[Path, typer.Option("--out", "-o", help="Run directory; one that is unfinished is carried on.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")]
BatchSize = Annotated[int | None, typer.Option(min=1, help="Images in a model call.  [default: measured]")]
Threads = Annotated[int | None, typer.Option(min=1, help="CPU threads of the model.  [default: measured]")]
MemoryFormat = Annotated[str | None, typer.Option(help="channels_last or contiguous.  [default: measured]")]
Card = Annotated[
    Path | None,
    typer.Option(help="Card (.toml) for a model that carries no description: onnx:, pt2:, http:, https:."),
]
Rate = Annotated[
    str | None, typer.Option(metavar="N/s", help="Images sent to a model behind a URL at most: 50/s, 600/m, 9000/h.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


_LOGS_JSON = ContextVar("log_json", default=False)


def told(verb: Callable[P, None]) -> Callable[P, None]:
    """Turn errors for people into one message and an exit code; only a bug shows where it happened."""

    @wraps(verb)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        _LOGS_JSON.set(bool(kwargs.get("log_json")))
        with warnings.catch_warnings():
            warnings.simplefilter("default", SalienceWarning)
            _show_warnings_as_notes()
            try:
                verb(*args, **kwargs)
            except SalienceError as error:
                _stop(str(error), error.exit_code)
            except (typer.Exit, typer.Abort):
                raise
            except Exception as error:
                if isinstance(error, OSError) and error.errno == errno.EPIPE:  # the reader of a pipe went away
                    raise
                if isinstance(error, OSError) and error.strerror:
                    place = f"{error.filename}: " if error.filename else ""
                    _stop(f"{place}{error.strerror}.", UNUSABLE)
                typer.echo(traceback.format_exc(), err=True, nl=False)
                _stop("this is a bug. Please report the lines above, with what 'salience doctor' prints.", BUG)

    return run


def _show_warnings_as_notes() -> None:
    plain = warnings.showwarning

    def show(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
        if issubclass(category, SalienceWarning):
            _tell("note", f"note: {message}")
        else:
            plain(message, category, *where, **more)

    warnings.showwarning = show


def _stop(message: str, code: int) -> NoReturn:
    _tell("error", message, exit_code=code)
    raise typer.Exit(code)


def _interrupted(out: Path) -> NoReturn:
    if not (out / "run.json").exists():
        _stop("interrupted before anything was computed.", INTERRUPTED)
    _stop(f"interrupted. Finished work is kept in {out}; run the same command again to carry on.", INTERRUPTED)


def _tell(kind: str, message: str, **more: int) -> None:
    """Say something on stderr: as a line of JSON among the events where those are asked for."""
    if _LOGS_JSON.get():
        typer.echo(json.dumps({"event": kind, "message": message.removeprefix("note: "), **more}), err=True)
    else:
        typer.echo(f"salience: {message}", err=True)


def _split(values: list[str]) -> list[str]:
    return [part.strip() for value in values for part in value.split(",") if part.strip()]


def _load(models: list[str], device: str, card: Path | None, rate: str | None) -> list[Classifier]:
    from salience.engine.allocator import keep_freed_memory
    from salience.models.loading import load_models

    keep_freed_memory()
    return load_models(models, device=device, card=card, rate=rate)


def _settings(
    batch: int | None, threads: int | None, memory_format: str | None, unit_images: int | None = None
) -> RunSettings:
    from salience.explaining import RunSettings

    if memory_format not in (None, "channels_last", "contiguous"):
        raise SettingsError(f"--memory-format is {memory_format!r}; choose channels_last or contiguous.")
    return RunSettings(
        batch=batch,
        threads=threads,
        memory_format=memory_format,  # type: ignore[arg-type]  # checked above
        unit_images=unit_images,
    )


# ---------------------------------------------------------------------- explain


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
    column: Annotated[
        list[str] | None, typer.Option(metavar="ROLE=COLUMN", help="Which manifest column is what: label=wnid.")
    ] = None,
    seed: Annotated[int, typer.Option(help="For methods that draw; every image draws its own numbers from it.")] = 0,
    map_dtype: Annotated[str, typer.Option(help="float16 (with a float32 scale a map) or float32.")] = "float16",
    card: Card = None,
    rate: Rate = None,
    device: Device = "auto",
    batch_size: BatchSize = None,
    threads: Threads = None,
    memory_format: MemoryFormat = None,
    log_json: Annotated[bool, typer.Option("--log-json", help="Log every event as a JSON line on stderr.")] = False,
    report: Annotated[bool, typer.Option("--report/--no-report", help="Write the page at the end.")] = True,
    unit_images: Annotated[int | None, typer.Option(min=1, hidden=True)] = None,
    as_json: Json = False,
) -> None:
    """Compute maps of every image into a run directory, with a page to look at.

    What the directory already holds is kept: the same command carries an interrupted run on, and more methods, models or images are added to a finished one.
    """  # noqa: E501  # help shows line breaks as they are
    from salience.progress import listener

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a scheduler's kill ends as Ctrl-C does
    if map_dtype not in ("float16", "float32"):
        raise SettingsError(f"--map-dtype is {map_dtype!r}; choose float16 or float32.")
    columns = _columns(column)
    how = _settings(batch_size, threads, memory_format, unit_images)
    try:
        with listener(as_json=log_json) as listen:
            from salience.explaining import explain_run
            from salience.models.registry import redacted

            outcome = explain_run(
                _load(model, device, card, rate),
                images,
                _split(method),
                out,
                target=target,
                output=output,
                budget=budget,
                pool=pool,
                pool_size=pool_size,
                columns=columns,
                limit=limit,
                seed=seed,
                map_dtype=map_dtype,  # type: ignore[arg-type]  # checked above
                settings=how,
                listen=listen,
                command=["salience", *map(redacted, sys.argv[1:])],
            )
        page = _write_page(out) if report else None
    except KeyboardInterrupt:
        _interrupted(out)
    _summarise(outcome, page, as_json=as_json or log_json)
    if outcome.failures:
        raise typer.Exit(FAILURES)


def _columns(pairs: list[str] | None) -> dict[str, str] | None:
    if not pairs:
        return None
    columns = {}
    for pair in pairs:
        role, equals, name = pair.partition("=")
        if not equals or not role or not name:
            raise SettingsError(f"--column is {pair!r}; write ROLE=COLUMN, e.g. label=wnid.")
        columns[role.strip()] = name.strip()
    return columns


def _write_page(run: Path) -> Path:
    from salience.progress import busy
    from salience.report import write_report

    with busy("writing the page"):
        return write_report(run)


def _summarise(outcome: Outcome, page: Path | None, *, as_json: bool) -> None:
    from salience.progress import summary_lines, summary_record

    if as_json:
        typer.echo(json.dumps(summary_record(outcome, page)))
        return
    for line in summary_lines(outcome, page):
        typer.echo(line)


# ---------------------------------------------------------------------- evaluate


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
    model: Annotated[str, typer.Option("--model", "-m", metavar="CARD", help="As for explain.")],
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
    column: Annotated[
        list[str] | None, typer.Option(metavar="ROLE=COLUMN", help="Which manifest column is what: label=wnid.")
    ] = None,
    seed: Annotated[int, typer.Option(help="For ties, baselines, backgrounds and methods that draw.")] = 0,
    seeds: Annotated[
        int,
        typer.Option(
            min=1, help="Make the maps of methods that draw with so many seeds, and tell the spread; 3 is good."
        ),
    ] = 1,
    card: Card = None,
    rate: Rate = None,
    device: Device = "auto",
    batch_size: BatchSize = None,
    threads: Threads = None,
    memory_format: MemoryFormat = None,
    log_json: Annotated[bool, typer.Option("--log-json", help="Log every event as a JSON line on stderr.")] = False,
    report: Annotated[bool, typer.Option("--report/--no-report", help="Write the page at the end.")] = True,
    unit_images: Annotated[int | None, typer.Option(min=1, hidden=True)] = None,
    as_json: Json = False,
) -> None:
    """Find out which maps can be trusted: compute them, score them beside baselines, rank them with intervals.

    A map is complete when what it shows is enough for its label, and sound when the map of a wrong label does not produce that label. Run the same command again to carry an interrupted one on; the table is about the last call.
    """  # noqa: E501
    from salience.leaderboard import print_scores, score_record
    from salience.progress import busy, listener

    signal.signal(signal.SIGTERM, signal.default_int_handler)
    columns = _columns(column)
    how = _settings(batch_size, threads, memory_format, unit_images)
    try:
        smooths = [float(s) for s in _split([smooth])]
    except ValueError as error:
        raise SettingsError(f"--smooth is {smooth!r}; write pixels as 0,2,4.") from error
    try:
        with listener(as_json=log_json) as listen:
            from salience.evaluating import evaluate as score
            from salience.models.registry import redacted

            (classifier,) = _load([model], device, card, rate)
            scores = score(
                classifier,
                images,
                _split(method),
                metrics=_split(metric),
                background=_split(background),
                labels=labels,
                maps=maps or (),
                runs=_split(run or []),
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
        _interrupted(out)
    if as_json or log_json:
        typer.echo(json.dumps(score_record(scores, page)))
    else:
        print_scores(scores, page)
    if scores.failures:
        raise typer.Exit(FAILURES)


# ---------------------------------------------------------------------- report


@app.command(epilog="Example:\n\nsalience report runs/first")
@told
def report(run: Annotated[Path, typer.Argument(help="A run directory.")]) -> None:
    """Write the page of a run again, and say where it is."""
    typer.echo(str(_write_page(run)))


# ---------------------------------------------------------------------- list


@app.command(
    "list", epilog="Examples:\n\nsalience list methods\n\nsalience list metrics\n\nsalience list models --json"
)
@told
def list_(
    what: Annotated[str, typer.Argument(help="methods, metrics or models.")],
    as_json: Json = False,
) -> None:
    """List the methods or the metrics, with their settings, or the ways to load a model."""
    from salience.listing import method_rows, metric_rows, model_rows, print_methods, print_metrics, print_rows

    tables: dict[str, Callable[[], list[dict[str, Any]]]] = {
        "methods": method_rows,
        "metrics": metric_rows,
        "models": model_rows,
    }
    if what not in tables:
        raise SettingsError(f"There is no list of {what!r}; choose methods, metrics or models.")
    rows = tables[what]()
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
    elif what == "methods":
        print_methods(rows)
    elif what == "metrics":
        print_metrics(rows)
    else:
        print_rows(rows)


# ---------------------------------------------------------------------- bench


@app.command(
    epilog="Example:\n\nsalience bench photos/ --model card.toml --method gradient,positive,negative,contrast --json"
)
@told
def bench(
    images: Images,
    model: Annotated[str, typer.Option("--model", "-m", metavar="CARD", help="As for explain.")],
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
    as_json: Json = False,
) -> None:
    """Measure the speed of a run against the bare calls of the model: together, then each method alone.

    Efficiency is the time of the forward and backward passes that the methods mathematically need, at the best batch and memory format, over the time of the whole run: decoding, explaining, storing.
    """  # noqa: E501  # help shows line breaks as they are
    from salience.benchmark import bench as measure
    from salience.listing import print_speeds

    (classifier,) = _load([model], device, card, rate)
    results = measure(
        classifier,
        images,
        _split(method),
        limit=limit,
        rounds=rounds,
        settings=_settings(batch_size, threads, memory_format),
        target=target,
        budget=budget,
        told=lambda text: typer.echo(f"measuring {text}", err=True),
    )
    rows = [r.to_dict() for r in results]
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
    else:
        print_speeds(rows)


# ---------------------------------------------------------------------- doctor


@app.command(epilog="Example:\n\nsalience doctor --json > doctor.json")
@told
def doctor(as_json: Json = False) -> None:
    """Check the installation: versions, devices, optional packages, and a map with a known answer."""
    from salience.listing import diagnosis, print_diagnosis

    found = diagnosis()
    if as_json:
        typer.echo(json.dumps(found, indent=2))
    else:
        print_diagnosis(found)
    if not found["healthy"]:
        raise typer.Exit(FAILURES)


# ---------------------------------------------------------------------- demo


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


@app.callback(invoke_without_command=True)
def _top(
    version: Annotated[bool, typer.Option("--version", help="Print the version.", is_eager=True)] = False,
) -> None:
    if version:
        import salience

        typer.echo(f"salience {salience.__version__}")
        raise typer.Exit


def main() -> None:
    """Run the command line."""
    app()
