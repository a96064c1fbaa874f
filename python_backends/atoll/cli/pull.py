"""``atoll pull``: a model's files into the cache, before any server needs them."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from atoll.cli.choose import catalogue_entry
from atoll.cli.options import AsJson, Revision, print_json
from atoll.cli.phases import Shown
from atoll.environment import variables
from atoll.weights.files import resolve
from atoll.weights.progress import downloads_told


def pull(
    model: Annotated[str, typer.Argument(help="Name of a catalogue entry, or hub id.")],
    revision: Revision = None,
    huggingface_hub_cache: Annotated[
        str | None,
        typer.Option(envvar=variables("huggingface_hub_cache"), help="Where downloads go."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Download a model into the cache. Needs no server."""
    known = catalogue_entry(model)
    model_id = known.model_id if known else model
    revision = revision or (known.revision if known else None)
    began, size = time.monotonic(), 0
    with Shown(is_quiet=as_json) as shown:

        def tell(done: int, total: int) -> None:
            nonlocal size
            size = max(size, done)
            event = {"phase": "downloading", "model": model_id, "bytes": done, "total_bytes": total}
            shown(event)

        with downloads_told(tell):
            folder = resolve(model_id, revision, huggingface_hub_cache)
    seconds = round(time.monotonic() - began, 2)
    if as_json:
        print_json(
            {"model": model_id, "path": str(folder), "downloaded_bytes": size, "seconds": seconds}
        )
        return
    print(folder)
