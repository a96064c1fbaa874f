"""Which settings mean something to a model of a task; the others are refused, or told of.

What an entry's config.pbtxt says is meant for that model, and refused where it cannot be used. What
a flag or the environment says may be meant for another model of the same server.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import fields
from typing import get_type_hints

from atoll.config import Settings
from atoll.errors import ConfigError
from atoll.setting_fields import parse

TASKS = (
    "embed", "sparse", "multi_vector", "rerank", "classify", "token_classify", "generate",
    "transcribe",
)  # fmt: skip
_ENCODERS = TASKS[:-2]
_ENGINES = ("generate", "transcribe")
# Settings of a group that fewer tasks, or more, have a use for than the group's.
_OWN_TASKS = {
    "pooling": ("embed", "sparse"), "dense_path": ("embed",),
    "reranker_template": ("rerank",),
    **dict.fromkeys(("max_image_bytes", "max_image_pixels"), ("embed",)),
    **dict.fromkeys(("prompts", "default_prompt_name", "default_prompt"), ("embed", "sparse")),
    **dict.fromkeys(
        (
            "max_batch_prefill_tokens", "max_batch_total_tokens", "max_batch_size",
            "waiting_served_ratio", "max_waiting_tokens", "block_size", "memory_fraction",
            "cuda_graphs", "num_shard", "sharded", "num_nodes", "shard_port", "shard_timeout_s",
        ),
        _ENGINES,
    ),
    "max_input_tokens": TASKS[:-1],
}  # fmt: skip
_OF_GROUPS = {"encoder": _ENCODERS, "generate": ("generate",), "transcribe": ("transcribe",)}


def tasks_of(setting: str) -> tuple[str, ...]:
    """The tasks whose models read a setting, by its name in ``Settings``."""
    return _TASKS_OF[setting]


def check_parameters(parameters: Mapping[str, str], task: str, model: str) -> None:
    """That an entry's own parameters mean something to it; defaults do no harm.

    Raises:
        ConfigError: one means nothing to models of this task; names it and the tasks that read it.
    """
    for name, text in parameters.items():
        if name in _TASKS_OF and task not in _TASKS_OF[name] and not _is_default(name, text):
            raise ConfigError(
                f"{name} is {text!r}, but {model} is served for task {task!r}, where it has no "
                f"effect; it is for {_listed(_TASKS_OF[name])}"
            )


def fitting(settings: Mapping[str, str], task: str) -> dict[str, str]:
    """Those of the settings that models of a task read."""
    return {name: text for name, text in settings.items() if task in _TASKS_OF[name]}


def told(settings: Mapping[str, str], tasks: Mapping[str, str]) -> tuple[str, ...]:
    """A sentence for each setting, meant for several models, that not all of them read.

    tasks: of each model, by its name.

    Raises:
        ConfigError: none of them reads it.
    """
    notes = []
    for name, text in settings.items():
        readers = [model for model, task in tasks.items() if task in _TASKS_OF[name]]
        if len(readers) == len(tasks) or _is_default(name, text):
            continue
        if not readers:
            raise ConfigError(
                f"{name} is {text!r}, but is for {_listed(_TASKS_OF[name])}, and "
                + ", ".join(f"{model} is for {task}" for model, task in tasks.items())
            )
        others = ", ".join(f"{model} ({tasks[model]})" for model in tasks if model not in readers)
        notes.append(f"{name} is for {', '.join(readers)}; it has no effect on {others}")
    return tuple(notes)


def unused(settings: Settings, task: str) -> tuple[str, ...]:
    """A sentence for each setting that was changed and that models of this task do not read."""
    return tuple(
        f"{f.name} is {getattr(settings, f.name)!r}, which has no effect on models of task "
        f"{task!r}; it is for {_listed(_TASKS_OF[f.name])}"
        for f in fields(Settings)
        if task not in _TASKS_OF[f.name] and getattr(settings, f.name) != f.default
    )


def cut(settings: Settings, task: str, max_tokens: int | None) -> tuple[str, ...]:
    """A sentence where an encoder's texts are cut before the model needs it.

    max_tokens: what the model accepts, if its files say so.
    """
    limit = min(max_tokens or 0, settings.max_input_tokens or max_tokens or 0)
    if task in _ENGINES or limit <= settings.max_batch_tokens:
        return ()
    return (
        f"texts are cut at max_batch_tokens, {settings.max_batch_tokens}; the model accepts "
        f"{limit} tokens",
    )


def _is_default(name: str, text: str) -> bool:
    default = next(f.default for f in fields(Settings) if f.name == name)
    return text == "" or bool(parse(name, text, get_type_hints(Settings)[name]) == default)


def _listed(tasks: Collection[str]) -> str:
    return f"task{'s' if len(tasks) > 1 else ''} {', '.join(tasks)}"


def _tasks() -> Iterable[tuple[str, tuple[str, ...]]]:
    for f in fields(Settings):
        yield f.name, _OWN_TASKS.get(f.name, _OF_GROUPS.get(f.metadata["group"], TASKS))


_TASKS_OF = dict(_tasks())
