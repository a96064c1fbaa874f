"""``atoll warmup``: everything that a first start would wait for, done ahead."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from atoll.cli.choose import catalogue_entry
from atoll.cli.options import AsJson, Revision, print_json
from atoll.weights.files import resolve


def warmup(
    models: Annotated[
        list[str], typer.Argument(help="Names of catalogue entries, hub ids, or folders.")
    ],
    revision: Revision = None,
    as_json: AsJson = False,
) -> None:
    """Download or unpack models' weights and compile the CPU kernels, as for an image."""
    from atoll_kernels.cpu.native import status

    log = Console(stderr=True)
    rows = []
    for model in models:
        known = catalogue_entry(model)
        began = time.monotonic()
        with log.status(f"fetching {model}"):
            folder = resolve(
                known.model_id if known else model, revision or (known.revision if known else None)
            )
        rows.append(
            {
                "model": model,
                "folder": str(folder),
                "weights": _weights(folder),
                "seconds": round(time.monotonic() - began, 2),
            }  # fmt: skip
        )
    began = time.monotonic()
    with log.status("compiling the CPU kernels"):
        has_kernels, text = status()
    seconds = round(time.monotonic() - began, 2)
    if as_json:
        kernels = {"native": has_kernels, "found": text, "seconds": seconds}
        print_json({"models": rows, "kernels": kernels})
        return
    table = Table("what", "where", "s")
    for row in rows:
        table.add_row(f"{row['model']} ({row['weights']})", str(row["folder"]), str(row["seconds"]))
    found = text if has_kernels else f"none, plain torch runs instead: {text}"
    table.add_row("CPU kernels", found, str(seconds))
    Console().print(table)


def _weights(folder: Path) -> str:
    """Kind of a checkpoint's weights; .bin files load slower than what `atoll convert` writes."""
    for pattern, kind in (("*.safetensors", "safetensors"), ("*.bin", ".bin"), ("*.gguf", "GGUF")):
        if any(folder.glob(pattern)):
            return kind
    return "no weights"
