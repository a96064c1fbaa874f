"""``atoll add`` and ``atoll remove``: entries of a model repository."""

from __future__ import annotations

import shutil
from pathlib import PurePath
from typing import Annotated

import typer
from rich.console import Console
from rich.syntax import Syntax

from atoll.catalogue import read_repository, write_repository
from atoll.catalogue.render import CONFIG, MODEL, render
from atoll.cli.choose import entry_of
from atoll.cli.options import (
    AsJson,
    Name,
    Repository,
    Revision,
    Setting,
    print_json,
    read_settings,
    repository_folder,
)
from atoll.config import Settings
from atoll.errors import ConfigError
from atoll.models.task_settings import check_parameters


def add(
    model: Annotated[
        str, typer.Argument(help="Name of a catalogue entry, hub id, or folder of a checkpoint.")
    ],
    repository: Repository = None,
    name: Name = None,
    revision: Revision = None,
    setting: Setting = None,
    replace: Annotated[bool, typer.Option(help="Overwrite an existing entry.")] = False,
    as_json: AsJson = False,
) -> None:
    """Write a model's entry to a repository and show its config."""
    given = {"served_model_name": name, "revision": revision}
    settings = {**read_settings(setting or []), **{k: v for k, v in given.items() if v}}
    Settings.read({"model_id": model, **settings}, {})
    folder = repository_folder(repository)
    entry = entry_of(model, settings)
    check_parameters(settings, entry.task, entry.name)
    target = folder / entry.name
    if target.exists() and not replace:
        raise ConfigError(f"{target} exists; --replace overwrites it, --name makes another")
    write_repository([entry], folder, is_own=True)
    config = render(entry, is_own=True)[CONFIG]
    if as_json:
        print_json({"name": entry.name, "task": entry.task, "path": str(target), "config": config})
        return
    Console().print(Syntax(config.rstrip(), "protobuf", background_color="default"))
    print(f"\n{target}\natoll serve --repository {folder} --model-id {entry.name}")


def remove(
    name: Annotated[str, typer.Argument(help="Name of the entry.")],
    repository: Repository = None,
    as_json: AsJson = False,
) -> None:
    """Remove a model's entry from a repository; its weights stay where they are."""
    folder = repository_folder(repository)
    names = [model.name for model in read_repository(folder)]
    target = folder / name
    if name not in names or not (target / CONFIG).is_file():
        raise ConfigError(f"{folder} has no entry {name!r}; it has {', '.join(names)}")
    others = [p for p in target.rglob("*") if p.is_file() and not _is_ours(p.relative_to(target))]
    if others:
        raise ConfigError(f"{target} holds files that Atoll did not write, such as {others[0]}")
    shutil.rmtree(target)
    if as_json:
        print_json({"removed": name, "path": str(target)})
        return
    print(f"removed {target}")


def _is_ours(path: PurePath) -> bool:
    return path.as_posix() in (CONFIG, MODEL) or "__pycache__" in path.parts
