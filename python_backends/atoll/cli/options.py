"""Flags shared by several commands, and the client that these commands use."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from atoll.cli.choose import checkout_repository
from atoll.environment import variables
from atoll.errors import ConfigError

if TYPE_CHECKING:
    from atoll_client import Client

AsJson = Annotated[bool, typer.Option("--json", envvar="ATOLL_JSON", help="Print JSON.")]
Url = Annotated[
    str,
    typer.Option(
        envvar="ATOLL_URL",
        help="A running server or gateway: host:port of its gRPC port, or an http:// address.",
    ),
]
Key = Annotated[
    str | None,
    typer.Option(envvar="ATOLL_KEY", help="The gateway's key (its --api-key)."),
]
Timeout = Annotated[
    float, typer.Option(envvar="ATOLL_TIMEOUT", help="Seconds to wait for a request.")
]
Repository = Annotated[
    Path | None,
    typer.Option(envvar="ATOLL_REPOSITORY", help="A model repository; by default the checkout's."),
]
Revision = Annotated[
    str | None, typer.Option(envvar=variables("revision"), help="Branch, tag or commit on the hub.")
]
Name = Annotated[
    str | None,
    typer.Option(
        envvar=variables("served_model_name"),
        help="Name of the entry; by default made from the model's.",
    ),
]
Setting = Annotated[
    list[str] | None,
    typer.Option("--set", help="A setting for this entry as NAME=VALUE; may be repeated."),
]
ServedName = Annotated[str, typer.Argument(help="Name of a model on the server.")]

URL = "localhost:8001"


def repository_folder(folder: Path | None) -> Path:
    """The repository that a command works on.

    Raises:
        ConfigError: none was named, and there is no checkout.
    """
    target = folder.expanduser() if folder else checkout_repository()
    if target is None:
        raise ConfigError("there is no checkout with a model_repository; name one: --repository")
    return target


def read_settings(given: Sequence[str]) -> dict[str, str]:
    """The settings that ``--set`` gives.

    Raises:
        ConfigError: one is not NAME=VALUE.
    """
    pairs = [text.partition("=") for text in given]
    for name, sign, _ in pairs:
        if not sign:
            raise ConfigError(f"--set {name}: write it as NAME=VALUE")
    return {name.strip().replace("-", "_"): value for name, _, value in pairs}


def connect(url: str, timeout: float, key: str | None = None) -> Client:
    """A client that fails at once if nothing listens at the address.

    Raises:
        ConfigError: the client's package is not installed.
    """
    try:
        from atoll_client import Client
    except ModuleNotFoundError as error:
        raise ConfigError(f"this needs {error.name}: pip install atoll-client") from error
    return Client(url, timeout_s=timeout, retries=0, metadata=key_metadata(key))


def key_metadata(key: str | None) -> list[tuple[str, str]]:
    """The metadata that carries the gateway's key."""
    return [("authorization", f"Bearer {key}")] if key else []


def has_http(url: str) -> bool:
    """Whether a server's address is an HTTP address."""
    return url.strip().lower().startswith(("http://", "https://"))


def print_json(value: Any) -> None:
    """Prints JSON for ``--json``: indented, without escaping text."""
    print(json.dumps(value, indent=2, ensure_ascii=False))
