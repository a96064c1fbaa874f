"""Models that answer by asking others of the server (Triton's business logic scripting)."""

from __future__ import annotations

import asyncio
import json
import re
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from atoll import json_text, progress
from atoll.errors import EmptyInputError, UnsupportedModel
from atoll.serving.links import wrong_link
from atoll.serving.observer import Observer
from atoll.serving.requests.limits import TIMEOUT, refuse_time_limit
from atoll.serving.requests.priority import PRIORITY
from atoll.serving.requests.report import FORWARDED, PARTS, Origin, Part, Report
from atoll.serving.robust_mutexes import end_without_marks
from atoll.serving.triton import model_requests, tensors

# Rows in one request to a model that does not say how many it takes: the limit of our entries.
_ROWS = 256
# How the error of a model begins that says which text is wrong.
_PLACE = re.compile(r"^(text_input|query)\[(\d+)\]")
# Parameters that go to every model, which checks the rest.
_SHARED: Mapping[str, Callable[[str, Any], Any]] = {
    "truncate": tensors.as_bool, "truncation_direction": lambda _, side: str(side),
    PRIORITY: tensors.as_int,
}  # fmt: skip
# (input, row) of a linked model -> what the pipeline's own request calls that text.
Place = Callable[[str, int], str]


class LinkedModel(ABC):
    """query and text_input -> index and score; its requests are processed concurrently."""

    def initialize(self, args: dict[str, str]) -> None:
        """Reads the names of the models; they need not be loaded yet."""
        end_without_marks()
        progress.introduce(args["model_name"], args["model_version"])
        parameters = tensors.settings_parameters(args["model_config"])
        self.observer = Observer.of(args, parameters, "search")
        self.configure(parameters)

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
        """In a task of its own, and so in its own context."""
        arrival, (given, wrong) = time.monotonic(), tensors.read_parameters(request)
        origin, error, parts = Origin(), None, list[Part]()
        PARTS.set(parts)
        try:
            if wrong is not None:
                raise wrong
            origin = Origin.read(given, request.request_id())
            names = (*FORWARDED, tensors.CANARY)
            model_requests.PASSED_ON.set({k: given[k] for k in names if k in given})
            return tensors.response(await self.answer(request))
        except Exception as problem:
            error = problem
            return tensors.failure(error, given.get(tensors.JSON_ERRORS) is True)
        finally:
            if given.get(tensors.CANARY) is not True:
                self.observer.ended(origin, arrival, error, Report(parts=parts))


class Search(NamedTuple):
    """A request: shared: its parameters that go to every model. given: the others."""

    query: str
    texts: list[str]
    given: dict[str, Any]
    shared: dict[str, Any]

    @classmethod
    def read(cls, request: Any, known: frozenset[str]) -> Search:
        """Raises ValidationError: an input is missing or empty, a parameter is unknown, or there is
        a time limit."""
        given = tensors.own_parameters(
            tensors.parsed_parameters(request), known | {TIMEOUT, *_SHARED}
        )
        refuse_time_limit(request, given)
        query, texts = tensors.string(request, "query"), tensors.strings(request, "text_input")
        if not query or not texts:
            raise EmptyInputError(f"{'text_input' if query else 'query'} is empty")
        shared = {name: read(name, given.pop(name)) for name, read in _SHARED.items()
                  if name in given}  # fmt: skip
        return cls(query, texts, given, shared)


class Link(NamedTuple):
    """A model that a pipeline asks, and the parameter of config.pbtxt that names it."""

    parameter: str
    name: str

    async def find(self) -> Linked:
        """The model as it is now, since it may have been loaded again.

        Raises:
            UnsupportedModel: its task is another than the pipeline needs; names both.
            AtollError: it is not ready.
        """
        asked = {"text_input": tensors.texts([""])[:, None]}
        try:
            (control,) = await model_requests.infer(
                self.name, ["control"], asked, {"control": json.dumps({"op": "info"})}
            )
        except tensors.Failure:
            return Linked(self.name)  # somebody else's model
        facts = json_text.loads(control.reshape(-1)[0])
        wrong = wrong_link(self.parameter, self.name, [facts["task"], *facts.get("tasks", ())])
        if wrong is not None:
            raise UnsupportedModel(wrong)
        return Linked(
            self.name, facts["task"], facts["max_client_batch_size"], facts["input_types"]
        )


@dataclass(frozen=True)
class Linked:
    """A model that a pipeline asks.

    task: None: it is not one of ours. max_rows: in one request. input_types: those of query and
    document that it encodes differently.
    """

    name: str
    task: str | None = None
    max_rows: int = _ROWS
    input_types: Sequence[str] = ()

    async def encode(
        self,
        outputs: list[str],
        search: Search,
        parameters: Mapping[str, Any],
        prompts: Mapping[str, str],
    ) -> tuple[list[list[tensors.Array]], list[list[tensors.Array]]]:
        """Outputs for the query, and for the documents: see ``ask``. prompts: names by side."""

        def given(side: str) -> dict[str, Any]:
            kind = {"input_type": side} if side in self.input_types else {}
            prompt = {"prompt_name": prompts[side]} if side in prompts else {}
            return {**parameters, **search.shared, **kind, **prompt}

        return await asyncio.gather(
            self.ask(outputs, {"text_input": [search.query]}, lambda *_: "query", given("query")),
            self.ask(
                outputs, {"text_input": search.texts}, lambda name, row: f"{name}[{row}]",
                given("document"),
            ),
        )  # fmt: skip

    async def ask(
        self,
        outputs: list[str],
        inputs: Mapping[str, Sequence[str]],
        place: Place,
        parameters: Mapping[str, Any],
    ) -> list[list[tensors.Array]]:
        """Outputs for each request that the rows take; single texts go with all.

        Raises:
            AtollError, Failure: the model's own error, in which texts are named by ``place``.
        """
        num_rows = max(map(len, inputs.values()))

        async def part(at: int) -> list[tensors.Array]:
            rows = {
                name: tensors.texts(t if len(t) == 1 else t[at : at + self.max_rows])[:, None]
                for name, t in inputs.items()
            }

            def reworded(message: str) -> str:
                return _PLACE.sub(lambda m: place(m[1], at + int(m[2])), message)

            return await model_requests.infer(self.name, outputs, rows, parameters, reworded)

        return list(await asyncio.gather(*map(part, range(0, num_rows, self.max_rows))))
