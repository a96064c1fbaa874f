"""LoRA adapters loaded and unloaded at run time, by control requests that have the launcher's key.

Whoever can reach Triton's ports can send control requests, but an adapter is a path on this
machine. The launcher gives its processes a key in their environment, which other users cannot read;
without one, these operations are refused.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from atoll.engine.thread import Engine
from atoll.errors import ValidationError
from atoll.runner.live_adapters import LiveAdapters
from atoll.serving.control_key import check_key


class AdapterOps:
    """The operations of one generator (``model_ops.Changes``), and the facts that they change."""

    def __init__(self, engine: Engine, adapters: LiveAdapters) -> None:
        self._engine, self._adapters = engine, adapters

    def operations(self) -> Mapping[str, Callable[[Mapping[str, Any]], Any]]:
        """See ``model_ops``."""
        return {"load_adapter": self._load, "unload_adapter": self._unload}

    def facts(self) -> Mapping[str, Any]:
        """Part of ``info``."""
        own = {"adapters": list(self._adapters.names), "max_loras": self._adapters.max_loras}
        return {**own, **self._engine.adapters_in_use()}

    def _load(self, question: Mapping[str, Any]) -> None:
        check_key(question)
        name, folder = str(question.get("name") or ""), str(question.get("folder") or "")
        if not name or not folder:
            raise ValidationError("control: an adapter needs a name and a folder")
        if name in self._adapters.names and not question.get("load_inplace"):
            raise ValidationError(f"adapter {name!r} is loaded; with load_inplace, it is replaced")
        deltas = self._adapters.read(Path(folder))

        def add(core: Any) -> None:
            self._adapters.release(core.uses_adapter)
            self._adapters.add(name, deltas)

        self._engine.call(add)

    def _unload(self, question: Mapping[str, Any]) -> None:
        check_key(question)
        name = str(question.get("name") or "")
        self._engine.call(lambda core: self._adapters.remove(name))
