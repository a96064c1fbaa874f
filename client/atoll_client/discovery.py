"""Which models a server has, what each can do, and which one a call refers to."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from atoll_client.errors import DeadlineExceeded, NotFound, UnsupportedModel
from atoll_client.transport import Transport
from atoll_client.types import ModelInfo


@dataclass(frozen=True)
class Found:
    """A model, and whether its requests are streams and its tensors have a batch axis.

    session: the entry for conversations with it.
    """

    info: ModelInfo
    is_stream: bool
    is_batched: bool
    session: str | None = None


Control = Callable[[str, bool, bool, Mapping[str, Any]], Awaitable[Any]]


class Known:
    """The models of a server, looked up once for all clients that share a connection."""

    def __init__(self) -> None:
        self.models: Mapping[str, Found] = {}
        self._lock = asyncio.Lock()

    async def find(
        self, transport: Transport, control: Control, timeout_s: float, refresh: bool = False
    ) -> None:
        """Looks the models up unless they are known; concurrent callers wait for the first.

        Raises:
            DeadlineExceeded: that took longer than ``timeout_s``.
        """
        if self.models and not refresh:
            return
        if not await _acquire(self._lock, timeout_s):
            limit = f"within {timeout_s:.1f} s"
            raise DeadlineExceeded(f"the server did not say what models it has {limit}")
        try:
            if refresh or not self.models:
                self.models = await _found(transport, control, timeout_s)
        finally:
            self._lock.release()


async def _acquire(lock: asyncio.Lock, timeout_s: float) -> bool:
    """Whether the lock was to be had in time.

    Before Python 3.12, ``asyncio.wait_for`` goes on as if nothing had happened if it is cancelled
    as the lock is acquired, and who has left would get the whole answer.
    """
    acquiring = asyncio.create_task(lock.acquire())
    try:
        await asyncio.wait({acquiring}, timeout=timeout_s)
    except asyncio.CancelledError:
        if acquiring.done():
            lock.release()
        acquiring.cancel()
        raise
    if not acquiring.done():
        acquiring.cancel()
        return False
    return True


async def _found(transport: Transport, control: Control, timeout_s: float) -> dict[str, Found]:
    models, names = {}, await transport.model_names(timeout_s)
    for name in names:
        found = await describe(name, await transport.metadata(name, timeout_s), control, names)
        if found is not None:
            models[name] = found
    return models


async def describe(
    name: str, metadata: Any, control: Control, served: Collection[str] = ()
) -> Found | None:
    """A model's own description of itself; None: it is not one of Atoll's.

    metadata: its tensors, ``inputs`` and ``outputs``. served: names of all models, among which may
    be the entry for its conversations.
    """
    shape = _read(metadata)
    if shape is None:
        return None
    facts = await control(name, *shape, {"op": "info"})
    info = ModelInfo(name, str(facts.get("task", "")), facts)
    session = f"{name}-session"
    return Found(info, *shape, session if session in served else None)


def _read(metadata: Any) -> tuple[bool, bool] | None:
    """(is_stream, is_batched)."""
    names = {output.name for output in metadata.outputs}
    shape = next((list(t.shape) for t in metadata.inputs if t.name == "text_input"), None)
    if "control" not in names or shape is None:
        return None
    # Only generators have several responses, and therefore no batch axis.
    return "text_output" in names, len(shape) > 1


def named(models: Mapping[str, Found], name: str) -> Found:
    """A model by its name, its hub id or one of its adapters; NotFound if there is none."""
    for found in models.values():
        if name in (found.info.name, found.info.model_id, *found.info.adapters):
            return found
    raise NotFound(f"model {name!r} is not served; served: {', '.join(models) or 'none'}")


def choose(models: Mapping[str, Found], name: str | None, *tasks: str) -> ModelInfo:
    """The model with this name or, without a name, the first for the tasks; earlier tasks win.

    Raises:
        NotFound: no such model. UnsupportedModel: it does something else, or none does this.
    """
    if name is not None:
        info = named(models, name).info
        if not set(info.tasks) & set(tasks):
            raise UnsupportedModel(f"model {info.name!r} is for {info.task}, not {tasks[0]}")
        return info
    every = [found.info for found in models.values()]
    # A model of the task itself comes before one that can do it besides.
    first = next(
        (
            info
            for task in tasks
            for info in sorted(every, key=lambda info: info.task != task)
            if task in info.tasks
        ),
        None,
    )
    if first is None:
        raise UnsupportedModel(f"no model on the server is for {tasks[0]}")
    return first
