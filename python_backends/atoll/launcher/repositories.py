"""What a server is given: repositories on disk, the models in them, and their checkpoints."""

from __future__ import annotations

import re
from pathlib import Path

from atoll.catalogue import ServedModel, read_repository, session, write_repository
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
    found = []
    if options.entries:
        sessions = [session(e.name) for e in options.entries if e.task == "generate"]
        write_repository([*options.entries, *sessions], scratch / "models")
        found.append(scratch / "models")
    if options.repository is not None:
        check_path(str(options.repository.resolve()), "the path of the model repository")
        found.append(options.repository.resolve())
    there = {model.name: model for folder in found for model in read_repository(folder)}
    missing = [name for name in options.names if name not in there]
    if missing:
        raise ConfigError(f"there is no model {', '.join(missing)} to serve")
    if not there:
        raise ConfigError("there is no model to serve")
    for name in options.names or there:
        check_path(there[name].folder.name, "the name of an entry's folder")
        there[name].check_links(there)
    return found, tuple(there[name] for name in options.names or there)


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
