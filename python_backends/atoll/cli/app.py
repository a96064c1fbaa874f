"""The commands, put together; every error of ours becomes one line and exit status 1."""

from __future__ import annotations

import logging
import sys
from typing import Annotated

import typer
from rich.console import Console

from atoll import __version__
from atoll.cli.catalogue import info, list_entries, render
from atoll.cli.convert import convert
from atoll.cli.doctor import doctor
from atoll.cli.serve import serve
from atoll.errors import AtollError

app = typer.Typer(
    name="atoll",
    help="Serves embedders and text generators from a real Triton Inference Server.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command()(serve)
app.command("list")(list_entries)
app.command()(info)
app.command()(convert)
app.command()(doctor)
app.command()(render)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"atoll {__version__}")
        raise typer.Exit()


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, help="Print it and exit.")
    ] = False,
) -> None:
    """Options of every command."""


def main() -> None:
    """Entry point of the ``atoll`` command."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    try:
        app()
    except AtollError as error:
        console = Console(stderr=True, soft_wrap=True)
        console.print(f"error: {error}", style="red", markup=False, highlight=False)
        sys.exit(1)
