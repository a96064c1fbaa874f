"""``atoll warmup``: does in advance everything that a first start would wait for."""

from __future__ import annotations

import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from atoll.cli.choose import catalogue_entry
from atoll.cli.options import AsJson, Revision, print_json
from atoll.cli.tables import print_table
from atoll.errors import ConfigError
from atoll.weights.files import resolve
from atoll.weights.modules import transformer_folder
from atoll.weights.progress import progress_bar


@dataclass(frozen=True)
class _Model:
    """weights: the format that a start will read. note: why it is not the fastest format."""

    model: str
    folder: str
    weights: str
    seconds: float
    note: str = ""


def warmup(
    models: Annotated[
        list[str] | None,
        typer.Argument(help="Names of catalogue entries, hub ids, or folders."),
    ] = None,
    revision: Revision = None,
    as_json: AsJson = False,
) -> None:
    """Download or unpack models' weights and compile the CPU kernels, for example for an image.

    Weights in .bin files are also written as safetensors next to them, which load faster. With
    ATOLL_KERNELS, a folder, kernels are compiled into it for every instruction set.
    """
    log = Console(stderr=True)
    found = [_fetch(model, revision, log) for model in models or ()]
    began = time.monotonic()
    with log.status("compiling the CPU kernels"):
        has_kernels, text = _compile()
    seconds = round(time.monotonic() - began, 2)
    if as_json:
        kernels = {"native": has_kernels, "found": text, "seconds": seconds}
        print_json({"models": [asdict(one) for one in found], "kernels": kernels})
        return
    rows = []
    for one in found:
        note = f"\n{one.note}" if one.note else ""
        rows.append((f"{one.model} ({one.weights})", one.folder + note, str(one.seconds)))
    where = text if has_kernels else f"none, plain torch runs instead: {text}"
    print_table(("what", "where", "s"), [*rows, ("CPU kernels", where, str(seconds))])


def _fetch(model: str, revision: str | None, log: Console) -> _Model:
    known = catalogue_entry(model)
    began = time.monotonic()
    with log.status(f"fetching {model}"):
        folder = resolve(
            known.model_id if known else model, revision or (known.revision if known else None)
        )
    # The folder in which sentence-transformers keeps the model itself.
    trunk, note = transformer_folder(folder), ""
    if _weights(trunk) == ".bin":
        note = _convert(trunk, model)
    seconds = round(time.monotonic() - began, 2)
    return _Model(model, str(folder), _weights(trunk), seconds, note)


def _convert(folder: Path, model: str) -> str:
    """Why nothing was written; empty if the file was written."""
    from atoll.weights.convert import add_safetensors

    try:
        with progress_bar(f"converting {model}") as advance:
            add_safetensors(folder, advance)
    except OSError as error:
        return f"not converted: {error}"
    return ""


def _compile() -> tuple[bool, str]:
    """Which kernels this machine has, if any.

    Raises:
        ConfigError: kernels for ATOLL_KERNELS cannot be compiled; an image must not lack them.
    """
    from atoll_kernels.cpu.native import BuildError, build_all, status

    if os.environ.get("ATOLL_KERNELS"):
        try:
            build_all()
        except (BuildError, OSError) as error:
            raise ConfigError(f"ATOLL_KERNELS is set: {error}") from error
    return status()


def _weights(folder: Path) -> str:
    """The format of a checkpoint's weights."""
    kinds = (
        ("*.safetensors", "safetensors"), ("pytorch_model*.bin", ".bin"), ("*.gguf", "GGUF"),
    )  # fmt: skip
    return next((kind for pattern, kind in kinds if any(folder.glob(pattern))), "no weights")
