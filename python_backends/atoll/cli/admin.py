"""``atoll ps``, ``load``, ``unload``, ``reload`` and ``logs``: a running server's models."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from atoll.cli.options import AsJson, Name, Setting, print_json, read_settings
from atoll.cli.phases import Shown
from atoll.cli.tables import print_table
from atoll.errors import AtollError, ConfigError
from atoll.launcher.admin.client import AdminClient, addresses

Address = Annotated[
    str | None,
    typer.Option(
        "--admin", envvar="ATOLL_ADMIN",
        help="The server: its id or socket, as `atoll ps` shows them, or the URL of its admin port "
        "or gateway. By default the one that runs on this machine.",
    ),
]  # fmt: skip
KeyFile = Annotated[
    Path | None,
    typer.Option(
        "--admin-key-file", envvar="ATOLL_ADMIN_KEY_FILE",
        help="The file with the admin key, for a URL.",
    ),
]  # fmt: skip
Model = Annotated[str, typer.Argument(help="Name of a model on the server.")]
_SECONDS = ((86_400, "d"), (3600, "h"), (60, "m"))


def ps(address: Address = None, key_file: KeyFile = None, as_json: AsJson = False) -> None:
    """Show running servers and their models."""
    found = []
    chosen: list[Any] = addresses() if address is None else [_one(address)]
    for each in chosen:
        with AdminClient(each, key_file) as client:
            try:
                found.append({"address": client.address, **client.models()})
            except AtollError as error:
                if address is not None:
                    raise
                found.append({"address": client.address, "error": str(error), "models": []})
    if as_json:
        print_json(found)
        return
    if not found:
        print("no server of yours runs on this machine")
    for at, server in enumerate(found):
        _show(server, "\n" if at else "")


def load(
    model: Annotated[
        str, typer.Argument(help="Name of an entry, hub id, or folder of a checkpoint.")
    ],
    name: Name = None,
    setting: Setting = None,
    adapter: Annotated[
        str | None,
        typer.Option(help="NAME=FOLDER or NAME=HUB-ID: a LoRA adapter for the loaded model MODEL."),
    ] = None,
    address: Address = None,
    key_file: KeyFile = None,
    as_json: AsJson = False,
) -> None:
    """Load a model into a running server; the others go on answering."""
    if adapter is not None:
        if name is not None or setting:
            raise ConfigError("--adapter goes with a model that is loaded: no --name, no --set")
        named, sign, path = adapter.partition("=")
        if not sign:
            raise ConfigError(f"--adapter {adapter}: write it as NAME=FOLDER or NAME=HUB-ID")
        wanted = {"lora_name": named, "lora_path": _absolute(path), "model": model}
        _do("adapters/load", wanted, address, key_file, as_json)
        return
    body = {"model": _absolute(model), "settings": read_settings(setting or [])}
    if name is not None:
        body["name"] = name
    _do("models/load", body, address, key_file, as_json)


def unload(
    model: Model,
    grace: Annotated[
        float | None,
        typer.Option(
            help="Seconds that its requests get to finish; by default, the server's --exit-timeout."
        ),
    ] = None,
    adapter: Annotated[
        str | None, typer.Option(help="Unload only this LoRA adapter of the model.")
    ] = None,
    address: Address = None,
    key_file: KeyFile = None,
    as_json: AsJson = False,
) -> None:
    """Unload a model from a running server, once its requests are answered."""
    if grace is not None and not 0 <= grace < math.inf:
        raise ConfigError(f"--grace is {grace:g}; it must be a number of seconds, at least 0")
    if adapter is not None:
        if grace is not None:
            raise ConfigError("--grace has no effect on an adapter: its requests finish")
        one = {"lora_name": adapter, "model": model}
        _do("adapters/unload", one, address, key_file, as_json)
        return
    body = {"model": model, **({} if grace is None else {"grace_s": grace})}
    _do("models/unload", body, address, key_file, as_json)


def reload(
    model: Model,
    setting: Setting = None,
    address: Address = None,
    key_file: KeyFile = None,
    as_json: AsJson = False,
) -> None:
    """Replace a model by itself, with other settings or changed files, without an interruption."""
    body = {"model": model, "settings": read_settings(setting or [])}
    _do("models/reload", body, address, key_file, as_json)


def logs(
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until Ctrl-C.")] = False,
    lines: Annotated[int, typer.Option("--lines", "-n", help="Of the log's end.", min=0)] = 100,
    model: Annotated[str, typer.Option(help="Only lines that name this model.")] = "",
    address: Address = None,
    key_file: KeyFile = None,
) -> None:
    """Show the log of a running server."""
    with _client(address, key_file) as client:
        try:
            for piece in client.logs(lines, model, follow):
                sys.stdout.write(piece)
                sys.stdout.flush()
        except KeyboardInterrupt:
            return


def _do(
    operation: str, body: dict[str, Any], address: str | None, key_file: Path | None, as_json: bool
) -> None:
    with _client(address, key_file) as client, Shown(is_quiet=as_json) as shown:
        for event in client.events(operation, body):
            shown(event)
    if as_json:
        print_json(event)


@contextmanager
def _client(address: str | None, key_file: Path | None) -> Iterator[AdminClient]:
    """The server that is named, or the only one.

    Raises:
        ConfigError: none runs, or several do.
    """
    with AdminClient(_one(address), key_file) as client:
        yield client


def _one(address: str | None) -> str | Path:
    if address is not None and ("/" in address or Path(address).exists()):
        return address
    running = addresses()
    shown = ", ".join(path.stem for path in running)
    if address is not None:
        found = next((path for path in running if path.stem == address), None)
        if found is None:
            raise ConfigError(f"no server {address} runs here; running: {shown or 'none'}")
        return found
    if not running:
        raise ConfigError("no server of yours runs on this machine; `atoll serve` starts one")
    if len(running) > 1:
        raise ConfigError(f"several servers run here: {shown}; choose one with --admin")
    return running[0]


def _absolute(model: str) -> str:
    """A folder as the server, which runs elsewhere, can find it."""
    path = Path(model).expanduser()
    try:
        return str(path.resolve()) if path.exists() else model
    except OSError:
        return model  # too long for a path, which the server says


def _show(found: dict[str, Any], before: str) -> None:
    server = found.get("server", {})
    print(f"{before}{server.get('id', '')} {found.get('error') or server.get('state')}")
    for name in ("gateway", "triton", "log"):
        if server.get(name):
            print(f"{name:<8} {server[name]}")
    print(f"{'admin':<8} {found['address']}")
    if found["models"]:
        columns = (
            "model", "task", "state", "memory", "device", "running", "waiting", "idle", "up",
            "adapters",
        )  # fmt: skip
        print_table(columns, [_cells(row) for row in found["models"]])


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    size = row.get("memory_bytes") or 0
    return (
        row["name"], row["kind"], row["state"], f"{size / 1e6:.0f} MB" if size else "",
        row.get("device", ""), *(str(row.get(name, "")) for name in ("running", "waiting")),
        _time(row.get("idle_s")), _time(row.get("uptime_s")), ", ".join(row.get("adapters", ())),
    )  # fmt: skip


def _time(seconds: float | None) -> str:
    if seconds is None:
        return ""
    for size, unit in _SECONDS:
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
