"""What is told of a request that has ended: in its log line, and as spans."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, NamedTuple

# Headers that the launcher has Triton forward as parameters, and the gateway sends.
REQUEST_ID, CLIENT, TRACE = "x-request-id", "x-client", ("traceparent", "tracestate")
FORWARDED = (REQUEST_ID, CLIENT, *TRACE)


class Part(NamedTuple):
    """A part of a request's time, in ``time.monotonic()``."""

    name: str
    began: float
    ended: float


# Of the request that a pipeline answers: what ``part`` adds to.
PARTS: ContextVar[list[Part]] = ContextVar("parts")


@contextmanager
def part(name: str) -> Iterator[None]:
    """``with``: a part of the request's time, also if it fails."""
    began = time.monotonic()
    try:
        yield
    finally:
        PARTS.get().append(Part(name, began, time.monotonic()))


def parts_of(names: Sequence[str], moments: Sequence[float]) -> list[Part]:
    """The parts between moments; as many as there are."""
    spans = pairwise(moments)
    return [Part(name, *span) for name, span in zip(names, spans, strict=False)]


class Origin(NamedTuple):
    """Who asked. request_id: the client's, if there is one. trace: its W3C trace context. client:
    what the gateway calls the client, see ``fairness``."""

    request_id: str = ""
    trace: Mapping[str, str] = {}
    client: str = ""

    @classmethod
    def read(cls, parameters: Mapping[str, Any], request_id: str) -> Origin:
        """From a request's parameters and Triton's id of it."""
        trace = {k: str(parameters[k]) for k in TRACE if k in parameters}
        client = str(parameters.get(CLIENT, ""))
        return cls(str(parameters.get(REQUEST_ID, "")) or request_id, trace, client)


@dataclass(frozen=True)
class Report:
    """operation: by the names of OpenTelemetry's GenAI conventions, where they have one. parts: of
    the request's time, in order, as far as it came. options: as they were asked for, by the
    conventions' names.
    """

    operation: str = ""
    num_input_tokens: int = 0
    num_output_tokens: int = 0
    finish_reasons: tuple[str, ...] = ()
    parts: Sequence[Part] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
