"""Options that several verbs share, each written once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Images = Annotated[
    str,
    typer.Argument(
        help="Folder (classes as sub-folders, or flat), manifest (.csv, .parquet), .npz, or one image file."
    ),
]
Model = Annotated[str, typer.Option("--model", "-m", metavar="CARD", help="As for explain.")]
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
Out = Annotated[
    str,
    typer.Option(
        "--out",
        "-o",
        metavar="FOLDER|URL",
        help="Run directory, also s3://BUCKET/FOLDER and the like; one that is unfinished is carried on.",
    ),
]
Run = Annotated[str, typer.Argument(metavar="RUN", help="A run directory, or its URL.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")]
BatchSize = Annotated[int | None, typer.Option(min=1, help="Images in a model call.  [default: measured]")]
Threads = Annotated[int | None, typer.Option(min=1, help="CPU threads of the model.  [default: measured]")]
MemoryFormat = Annotated[str | None, typer.Option(help="channels_last or contiguous.  [default: measured]")]
Precision = Annotated[
    str,
    typer.Option(
        help="Of model calls: float32; bfloat16, if maps stay the same within a tolerance; auto: if faster too."
    ),
]
Card = Annotated[
    Path | None,
    typer.Option(help="Card (.toml) for a model that carries no description: onnx:, pt2:, http:, https:."),
]
Rate = Annotated[
    str | None, typer.Option(metavar="N/s", help="Images sent to a model behind a URL at most: 50/s, 600/m, 9000/h.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Columns = Annotated[
    list[str] | None,
    typer.Option("--column", metavar="ROLE=COLUMN", help="Which manifest column is what: label=wnid."),
]
Seed = Annotated[int, typer.Option(help="For all that is drawn; every image draws its own numbers from it.")]
ShardOf = Annotated[
    str | None,
    typer.Option(
        "--shard", metavar="I/N", help="Take the I-th of N parts of the images, each into an --out of its own: 3/8."
    ),
]
Engine = Annotated[str, typer.Option(help="Who works: local (processes here) or ray (actors of a cluster).")]
Address = Annotated[str, typer.Option(help="Ray cluster: local starts one here, auto finds this machine's, ray://...")]
Workers = Annotated[
    int | None, typer.Option(min=1, help="So many processes or actors work side by side.  [default: one process]")
]
GpusPerWorker = Annotated[float, typer.Option(min=0.0, help="Graphics cards of a Ray worker; 0.5 shares one.")]
LogJson = Annotated[bool, typer.Option("--log-json", help="Log every event as a JSON line on stderr.")]
Report = Annotated[bool, typer.Option("--report/--no-report", help="Write the page at the end.")]
UnitImages = Annotated[int | None, typer.Option("--unit-images", min=1, hidden=True)]
