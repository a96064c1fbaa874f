"""What a server is given: repositories on disk, the models in them, and their checkpoints."""

from __future__ import annotations

import re
from pathlib import Path

from atoll.catalogue import (
    Entry,
    Pipeline,
    ServedModel,
    read_repository,
    session,
    write_repository,
)
from atoll.errors import ConfigError
from atoll.launcher.options import ServerOptions
from atoll.weights.files import resolve

# Triton's Python backend starts its processes through a shell, without quoting paths.
_UNQUOTED = re.compile(r"[\s'\"\\$`&|;<>()*?\[\]{}~#!]")


def prepare(options: ServerOptions, scratch: Path) -> tuple[list[Path], tuple[ServedModel, ...]]:
    """Repositories to serve and the models to load from them; entries are written to ``scratch``.

    Raises:
        ConfigError: there is no such model, or no model at all, or a pipeline names a model that
            does something else than it needs.
    """
    own = own_repository(scratch)
    own.mkdir(exist_ok=True)
    for entry in options.entries:
        write_entry(entry, own)
    found = [own]
    if options.repository is not None:
        check_path(str(options.repository.resolve()), "the path of the model repository")
        found.append(options.repository.resolve())
    there = entries_in(*found)
    missing = [name for name in options.names if name not in there]
    if missing:
        raise ConfigError(f"there is no model {', '.join(missing)} to serve")
    if not there:
        raise ConfigError("there is no model to serve")
    chosen = [name for name in options.names or there if name not in options.unloaded]
    for name in chosen:
        check_path(there[name].folder.name, "the name of an entry's folder")
        there[name].check_links(there)
    return found, tuple(there[name] for name in chosen)


def own_repository(scratch: Path) -> Path:
    """The repository of the entries that the server writes itself: also those that are loaded
    later, so it is there even if it is empty at first."""
    return scratch / "models"


def write_entry(entry: Entry, repository: Path) -> list[str]:
    """Writes an entry, and a generator's entry for conversations; returns their names."""
    written: list[Entry | Pipeline] = [entry]
    if entry.task == "generate":
        written.append(session(entry.name))
    write_repository(written, repository)
    return [one.name for one in written]


def entries_in(own: Path, *others: Path) -> dict[str, ServedModel]:
    """Every entry, by name. Only the server's own repository may be empty."""
    folders = [*([own] if any(own.glob("*/config.pbtxt")) else []), *others]
    return {model.name: model for folder in folders for model in read_repository(folder)}


def check_path(path: str, what: str) -> None:
    """Raises ConfigError: a model's process cannot be started from this path."""
    found = _UNQUOTED.search(path)
    if found:
        raise ConfigError(
            f"{what} is {path!r}: Triton cannot start models' processes there, for the character "
            f"{found[0]!r}; choose another"
        )


def fetch(model: ServedModel) -> dict[str, Path]:
    """The checkpoint folder of each version of a model, downloaded or converted if necessary.

    None if the entry is not ours, or leaves its checkpoint to the environment.

    Raises:
        ConfigError: a version has no checkpoint, or it cannot be obtained.
    """
    cache, revision = (model.parameters.get(name) for name in ("huggingface_hub_cache", "revision"))
    named = {version: model.checkpoint(version) for version in model.versions}
    return {version: resolve(name, revision, cache) for version, name in named.items() if name}
