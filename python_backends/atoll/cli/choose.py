"""Turns the models that the user names into what is served: entries, or names in a repository."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import get_type_hints

import atoll
from atoll.catalogue import (
    ENTRIES,
    Entry,
    entry_for,
    entry_name,
    read_model,
    read_repository,
    renamed,
    session,
)
from atoll.config import Settings
from atoll.environment import lookup
from atoll.errors import ConfigError
from atoll.models import task_settings
from atoll.setting_fields import parse
from atoll.weights.adapters import with_absolute_folders
from atoll.weights.embedded import EMBEDDED
from atoll.weights.files import local_folder, resolve

# What Triton takes besides folders, as paths: their double slash is gone.
_REMOTE = ("s3:/", "gs:/", "as:/")
# Settings that become no parameter of an entry, and those that say which model it is.
_NO_PARAMETERS = ("revision", "served_model_name")
_OF_ONE_MODEL = (*_NO_PARAMETERS, "task", "dense_path")


@dataclass(frozen=True)
class Choice:
    """The part of ``ServerOptions`` that says what is served.

    notes: which models a setting applies to, if it does not apply to all of them.
    """

    entries: tuple[Entry, ...] = ()
    repository: Path | None = None
    names: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def checkout_repository() -> Path | None:
    """``model_repository/`` of the checkout this package runs from; None if it is installed."""
    folder = Path(atoll.__file__).resolve().parents[2] / "model_repository"
    return folder if folder.is_dir() else None


def choose(
    model_ids: Sequence[str], repository: Path | None, settings: Mapping[str, str]
) -> Choice:
    """What to serve. With a repository, ``model_ids`` are names in it; empty means all of it.

    With neither, the embedded models, from the checkout's files unless settings change them.

    Raises:
        ConfigError, UnsupportedModel: a setting or a model that cannot be used.
    """
    twice = {name for name in model_ids if model_ids.count(name) > 1}
    if twice:
        raise ConfigError(f"--model-id names {', '.join(sorted(twice))} more than once")
    # Models read the environment themselves: only flags need new entries.
    flags = [name for name, text in settings.items() if not _is_in_environment(name, text)]
    Settings.read({"model_id": "-", **{name: settings[name] for name in flags}})
    if repository is not None:
        if str(repository).startswith(_REMOTE):
            raise ConfigError(
                f"--repository is {repository}; it takes folders, and repositories in object "
                "stores are left to Triton's own --model-repository: docs/container.md"
            )
        if flags:
            shown = ", ".join(f"--{name.replace('_', '-')}" for name in flags)
            raise ConfigError(f"--repository serves entries as they are, without {shown}")
        notes = _told(settings, repository, model_ids)
        return Choice(repository=repository, names=tuple(model_ids), notes=notes)
    embedded = tuple(entry for entry in ENTRIES if entry.model_id in EMBEDDED)
    if not model_ids:
        own = checkout_repository()
        if own is not None and not flags:
            # As for every generator that is served by its model id.
            sessions = [session(e.name).name for e in embedded if e.task == "generate"]
            names = (*(e.name for e in embedded), *sessions)
            return Choice(repository=own, names=names, notes=_told(settings, own, names))
        model_ids = [entry.model_id for entry in embedded]
    if len(model_ids) > 1 and "served_model_name" in settings:
        raise ConfigError("--served-model-name goes with a single --model-id")
    entries: list[Entry] = []
    for model_id in model_ids:
        entries.append(entry_of(model_id, settings, taken=[entry.name for entry in entries]))
    notes = task_settings.told(settings, {entry.name: entry.task for entry in entries})
    if asked := settings.get("served_model_name"):
        notes = (*(() if asked == entries[0].name else (renamed(asked, entries[0].name),)), *notes)
    return Choice(entries=tuple(entries), notes=notes)


def entry_of(model_id: str, settings: Mapping[str, str], taken: Sequence[str] = ()) -> Entry:
    """The entry of one model, with the settings that apply to it: the catalogue's, or one read from
    its checkpoint.
    """
    known = catalogue_entry(model_id)
    name = settings.get("served_model_name")
    if known is not None and not settings.keys() & {"revision", "task", "dense_path"}:
        own = entry_name(name) if name else known.name
        own = own if own not in taken else entry_name(own, taken)
        return replace(known, name=own, settings={**known.settings, **_own(settings, known.task)})
    model_id = known.model_id if known else model_id
    folder = local_folder(model_id)
    revision = settings.get("revision")
    found = folder or resolve(model_id, revision, settings.get("huggingface_hub_cache"))
    detected = read_model(
        found, settings.get("task"), settings.get("dense_path"), settings.get("pooling"),
        reranker_template=settings.get("reranker_template"),
    )  # fmt: skip
    return entry_for(
        str(folder or model_id),
        detected,
        name=entry_name(name or without_ending(model_id), taken),
        revision=revision,
        settings=_own(settings, detected.task),
    )


def entry_beside(model_id: str, own: Mapping[str, str], shared: Mapping[str, str]) -> Entry:
    """The entry of a model that joins a running server. own: settings that it was asked for with.
    shared: those of the server's command line, as far as they are not one model's alone.

    Raises:
        ConfigError, UnsupportedModel: a setting or a model that cannot be used.
    """
    Settings.read({"model_id": model_id, **own}, {})
    given = {k: v for k, v in shared.items() if k not in _OF_ONE_MODEL}
    entry = entry_of(model_id, {**given, **own})
    task_settings.check_parameters(
        {k: v for k, v in own.items() if k not in _NO_PARAMETERS}, entry.task, entry.name
    )
    return entry


def _own(settings: Mapping[str, str], task: str) -> dict[str, str]:
    """The parameters for an entry with this task."""
    own = task_settings.fitting(settings, task)
    for name in _NO_PARAMETERS:
        own.pop(name, None)
    if own.get("lora_adapters"):
        cache = settings.get("huggingface_hub_cache")
        own["lora_adapters"] = with_absolute_folders(own["lora_adapters"], cache)
    return own


def _told(settings: Mapping[str, str], repository: Path, names: Sequence[str]) -> tuple[str, ...]:
    """``task_settings.told`` for the named entries of a repository, or for all if none is named."""
    if all(task_settings.tasks_of(name) == task_settings.TASKS for name in settings):
        return ()
    tasks = {
        model.name: "embed" if model.kind == "tokens" else model.task
        for model in read_repository(repository)
        if not names or model.name in names
    }
    return task_settings.told(settings, {name: task for name, task in tasks.items() if task})


def _is_in_environment(name: str, text: str) -> bool:
    """Whether a setting comes from the environment, or equals it."""
    found, hint = lookup(name, os.environ), get_type_hints(Settings)[name]
    return found is not None and parse(*found, hint) == parse(name, text, hint)


def catalogue_entry(model: str) -> Entry | None:
    """The catalogue's entry of that name or model id."""
    return next((e for e in ENTRIES if model in (e.name, e.model_id)), None)


def without_ending(model_id: str) -> str:
    """What a model is named after: a GGUF file without its ending."""
    return model_id[:-5] if model_id.lower().endswith(".gguf") else model_id
