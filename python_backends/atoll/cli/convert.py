"""``atoll convert``: old weight files to safetensors."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress

from atoll.cli.options import AsJson, Revision, print_json
from atoll.weights.files import resolve


def convert(
    source: Annotated[
        str, typer.Argument(help="Folder or hub id with .bin files, or a GGUF file.")
    ],
    target: Annotated[Path, typer.Argument(help="Folder to write; must not exist yet.")],
    revision: Revision = None,
    as_json: AsJson = False,
) -> None:
    """Write a checkpoint's weights as safetensors, which load faster and hold no code."""
    from atoll.weights.convert import convert as convert_files

    path = Path(source).expanduser()
    found = path if path.is_file() else resolve(source, revision)
    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(f"converting {found.name}", total=None)

        def advance(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        convert_files(found, target.expanduser(), advance)
    written = sorted(path.name for path in target.expanduser().glob("*.safetensors"))
    if as_json:
        print_json({"path": str(target), "files": written})
        return
    print(f"{target}: {len(written)} file(s) written")
