"""Finds the model of a request: by its path, its ``model`` field, or the default of the task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from atoll_client.errors import NotFound, NotReady, UnsupportedModel
from atoll_client.gateway.core.pool import Pool
from atoll_client.types import ModelInfo

# Names that clients send if they do not choose a model.
_PLACEHOLDERS = frozenset(("", "tgi", "tei", "dummy", "default"))
# Tasks in words.
VERBS = {
    "embed": "embed", "sparse": "embed as sparse vectors", "rerank": "rerank",
    "classify": "classify", "token_classify": "classify tokens",
    "multi_vector": "embed as vectors of tokens", "generate": "generate text",
    "transcribe": "transcribe speech", "translate": "translate speech",
}  # fmt: skip


class Models:
    """The models of all servers. ``defaults``: names that come before all others."""

    def __init__(self, pool: Pool, defaults: Sequence[str]) -> None:
        self._pool, self._defaults = pool, defaults
        self._found: Mapping[str, ModelInfo] = {}
        self._all: list[ModelInfo] = []

    def all(self) -> list[ModelInfo]:
        """Every served model, the defaults first."""
        found = self._pool.models()
        if found is not self._found:
            first = [name for name in self._defaults if name in found]
            self._all = [found[name] for name in (*first, *sorted(found.keys() - set(first)))]
            self._found = found
        return self._all

    def num_held_at_most(self) -> int:
        """The number of requests that all models together accept."""
        return sum(int(m.facts.get("max_concurrent_requests") or 0) for m in self.all())

    def default(self, tasks: Sequence[str]) -> ModelInfo | None:
        """The model of a request that names none; earlier tasks win.

        A model of the task itself comes before one that can do it besides.
        """
        return next(
            (
                model
                for task in tasks
                for model in sorted(self.all(), key=lambda model: model.task != task)
                if task in model.tasks
            ),
            None,
        )

    def find(self, names: Sequence[str | None], tasks: Sequence[str]) -> ModelInfo:
        """The model of the first name that is not a placeholder, else the default of ``tasks``.

        Raises:
            NotFound: no such model. UnsupportedModel: it has another task.
            NotReady: no server is ready.
        """
        name = next((n for n in names if n is not None and n not in _PLACEHOLDERS), None)
        if name is None:
            model = self.default(tasks)
            if model is None and not self._pool.is_ready:
                raise NotReady("no server is ready")
            if model is None:
                raise UnsupportedModel(f"no model here can {VERBS[tasks[0]]}")
            return model
        model = self.named(name)
        if model is None and not self._pool.is_ready:
            raise NotReady("no server is ready")
        if model is None:
            raise NotFound(f"model {name!r} is not served")
        if not set(model.tasks) & set(tasks):
            raise UnsupportedModel(f"model {model.name!r} cannot {VERBS[tasks[0]]}")
        return model

    def named(self, name: str) -> ModelInfo | None:
        """By its name, its hub id, or the name of one of its adapters."""
        models = self._pool.models()
        if name in models:
            return models[name]
        return next(
            (m for m in models.values() if name in (m.model_id, m.public_id, *m.adapters)), None
        )

    def split(self, path: str) -> tuple[str | None, str]:
        """Splits a path into a model's name, which may contain a slash, and the rest."""
        parts = path.split("/")
        for count in (2, 3):
            name = "/".join(parts[1:count])
            if len(parts) >= count and self.named(name) is not None:
                return name, "/" + "/".join(parts[count:])
        return None, path
