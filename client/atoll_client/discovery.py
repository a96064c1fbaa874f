"""Which models a server has, what each can do, and which one a call means."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from atoll_client.errors import NotFound, UnsupportedModel
from atoll_client.types import ModelInfo


@dataclass(frozen=True)
class Found:
    """A model and how it is asked: over a stream or not, with a batch axis or not.

    session: the entry that takes conversations with it turn by turn.
    """

    info: ModelInfo
    is_stream: bool
    is_batched: bool
    session: str | None = None


def read(metadata: Any) -> tuple[bool, bool] | None:
    """(is_stream, is_batched) from a model's metadata; None: it is not one of Atoll's."""
    names = {output.name for output in metadata.outputs}
    shape = next((list(t.shape) for t in metadata.inputs if t.name == "text_input"), None)
    if "control" not in names or shape is None:
        return None
    # Generators alone have several responses, and so no batch axis.
    return "text_output" in names, len(shape) > 1


def session_of(name: str, served: Collection[str]) -> str | None:
    """The entry of a generator's conversations, by its name."""
    session = f"{name}-session"
    return session if session in served else None


def named(models: Mapping[str, Found], name: str) -> Found:
    """A model by its name, its hub id or one of its adapters; NotFound if there is none."""
    for found in models.values():
        if name in (found.info.name, found.info.model_id, *found.info.adapters):
            return found
    raise NotFound(f"model {name!r} is not served; served: {', '.join(models) or 'none'}")


def choose(models: Mapping[str, Found], name: str | None, task: str) -> ModelInfo:
    """The model that is named, or the first of the task.

    Raises:
        NotFound: no such model. UnsupportedModel: it does something else, or none does this.
    """
    if name is not None:
        info = named(models, name).info
        if info.task != task:
            raise UnsupportedModel(f"model {info.name!r} is for {info.task}, not {task}")
        return info
    first = next((f.info for f in models.values() if f.info.task == task), None)
    if first is None:
        raise UnsupportedModel(f"no model on the server is for {task}")
    return first
