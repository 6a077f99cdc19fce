"""The command ``salience`` itself, which the verbs register with."""

from __future__ import annotations

from typing import Annotated

import typer

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


@app.callback(invoke_without_command=True)
def _top(
    version: Annotated[bool, typer.Option("--version", help="Print the version.", is_eager=True)] = False,
) -> None:
    if version:
        import salience

        typer.echo(f"salience {salience.__version__}")
        raise typer.Exit
