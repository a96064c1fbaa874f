"""Models that answer by asking others of the server (Triton's business logic scripting)."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

from atoll.errors import EmptyInputError
from atoll.serving.requests.limits import TIMEOUT, refuse_time_limit
from atoll.serving.robust_mutexes import end_without_marks
from atoll.serving.triton import model_requests, tensors

# Rows in one request to a model: the limit of their entries.
_ROWS = 256


class LinkedModel(ABC):
    """query and text_input -> index and score; its requests are processed concurrently."""

    def initialize(self, args: dict[str, str]) -> None:
        """Reads the names of the models; they need not be loaded yet."""
        end_without_marks()
        self.configure(tensors.settings_parameters(args["model_config"]))

    @abstractmethod
    def configure(self, parameters: Mapping[str, str]) -> None:
        """Reads the entry's parameters.

        Raises:
            ConfigError: one is missing or wrong.
        """

    @abstractmethod
    async def answer(self, request: Any) -> dict[str, tensors.Array]:
        """The output tensors of a request."""

    async def execute(self, requests: list[Any]) -> list[Any]:
        """One response per request."""
        return list(await asyncio.gather(*(self._guarded(request) for request in requests)))

    async def _guarded(self, request: Any) -> Any:
        try:
            return tensors.response(await self.answer(request))
        except Exception as error:
            return tensors.failure(error)


def read_request(request: Any, known: frozenset[str]) -> tuple[str, list[str], dict[str, Any]]:
    """The query, the documents and the request's own parameters.

    Raises:
        ValidationError: one of them is missing, empty or unknown, or there is a time limit.
    """
    given = tensors.own_parameters(
        tensors.parsed_parameters(request.parameters()), known | {TIMEOUT}
    )
    refuse_time_limit(request, given)
    query, texts = tensors.string(request, "query"), tensors.strings(request, "text_input")
    if not query or not texts:
        raise EmptyInputError(f"{'text_input' if query else 'query'} is empty")
    return query, texts, given


async def ask(
    model: str,
    outputs: list[str],
    inputs: Mapping[str, list[str]],
    parameters: Mapping[str, Any] | None = None,
) -> list[list[tensors.Array]]:
    """Outputs of another model for each request that its rows take; single texts go with all.

    Raises:
        GenerationError: the model answered with an error.
    """
    num_rows = max(map(len, inputs.values()))
    batches = [
        {
            name: tensors.texts(texts if len(texts) == 1 else texts[at : at + _ROWS])[:, None]
            for name, texts in inputs.items()
        }
        for at in range(0, num_rows, _ROWS)
    ]
    answers = (model_requests.infer(model, outputs, batch, parameters or {}) for batch in batches)
    return list(await asyncio.gather(*answers))
