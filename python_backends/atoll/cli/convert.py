"""``atoll convert``: converts old weight files to safetensors."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from atoll.cli.options import AsJson, Revision, print_json
from atoll.weights.files import resolve
from atoll.weights.progress import progress_bar


def convert(
    source: Annotated[
        str, typer.Argument(help="Folder or hub id with .bin files, or a GGUF file.")
    ],
    target: Annotated[Path, typer.Argument(help="Folder to write; must not exist yet.")],
    revision: Revision = None,
    as_json: AsJson = False,
) -> None:
    """Write a checkpoint's weights as safetensors, which load faster and contain no code."""
    from atoll.weights.convert import convert as convert_files

    path = Path(source).expanduser()
    found = path if path.is_file() else resolve(source, revision)
    with progress_bar(f"converting {found.name}") as advance:
        convert_files(found, target.expanduser(), advance)
    written = sorted(path.name for path in target.expanduser().glob("*.safetensors"))
    if as_json:
        print_json({"path": str(target), "files": written})
        return
    print(f"{target}: {len(written)} file(s) written")
