"""All commands; each of our errors is printed as one line, with exit status 1."""

from __future__ import annotations

import logging
import os
import sys
from typing import Annotated

import typer
from rich.console import Console

from atoll import __version__
from atoll.cli.admin import load, logs, ps, reload, unload
from atoll.cli.bench import bench
from atoll.cli.catalogue import info, list_entries, render
from atoll.cli.convert import convert
from atoll.cli.doctor import doctor
from atoll.cli.flags import unknown_variables
from atoll.cli.help import Command, Group
from atoll.cli.infer import chat, infer
from atoll.cli.profile import profile
from atoll.cli.pull import pull
from atoll.cli.repository import add, remove
from atoll.cli.serve import serve
from atoll.cli.warmup import warmup
from atoll.cli.worker import worker
from atoll.environment import clean
from atoll.errors import AtollError
from atoll.logs import is_json

logger = logging.getLogger(__name__)

app = typer.Typer(
    name="atoll",
    help="Serves embedders and text generators from a real Triton Inference Server.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    # The environment variable of each flag that names none itself: ATOLL_<COMMAND>_<FLAG>.
    context_settings={"auto_envvar_prefix": "ATOLL", "help_option_names": ["-h", "--help"]},
    cls=Group,
)
app.command(cls=Command)(serve)
app.command(cls=Command)(ps)
app.command(cls=Command)(load)
app.command(cls=Command)(unload)
app.command(cls=Command)(reload)
app.command(cls=Command)(logs)
app.command(cls=Command)(pull)
app.command("list", cls=Command)(list_entries)
app.command(cls=Command)(info)
app.command(cls=Command)(add)
app.command(cls=Command)(remove)
app.command(cls=Command)(infer)
app.command(cls=Command)(chat)
app.command(cls=Command)(bench)
app.command(cls=Command)(profile)
app.command(cls=Command)(warmup)
app.command(cls=Command)(convert)
app.command(cls=Command)(worker)
app.command(cls=Command)(doctor)
app.command(cls=Command)(render)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"atoll {__version__}")
        raise typer.Exit()


@app.callback()
def options(
    context: typer.Context,
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, allow_from_autoenv=False,
            help="Print it and exit.",
        ),
    ] = False,
) -> None:  # fmt: skip
    """Options of every command."""
    # Before the command's own flags read the environment.
    clean(os.environ)
    for name in unknown_variables(context.command, os.environ):
        logger.warning("%s is set, and nothing reads a variable of that name", name)


def main() -> None:
    """Entry point of the ``atoll`` command."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    try:
        app()
    except Exception as error:
        if not _is_ours(error):
            raise
        if is_json():
            logger.error("%s%s", error, _hint(error))
            sys.exit(1)
        console = Console(stderr=True, soft_wrap=True)
        text = f"error: {error}{_hint(error)}"
        console.print(text, style="red", markup=False, highlight=False)
        sys.exit(1)


def _is_ours(error: Exception) -> bool:
    """Whether the message is enough: our own error, or the client's, if it is installed."""
    if isinstance(error, AtollError):
        return True
    client = sys.modules.get("atoll_client.errors")
    return client is not None and isinstance(error, client.AtollError)


def _hint(error: Exception) -> str:
    if type(error).__name__ == "Unreached":
        return "; start one with `atoll serve`, or say where it is: --url"
    return ""
