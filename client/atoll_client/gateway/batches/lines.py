"""Reads and checks the lines of a batch's file, which may hold anything. Everything here blocks.

A line that is too long is never held: it is an error, as are all lines that cannot be requests.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from atoll_client.errors import AtollError, MalformedRequest, ValidationError
from atoll_client.gateway.batches.answers import BatchError
from atoll_client.gateway.batches.schemas import BatchLine
from atoll_client.gateway.core.error_formats import openai_problem
from atoll_client.gateway.core.queries import read_object
from atoll_client.gateway.json_text import parse

# The most errors of a file that are told.
_MAX_ERRORS = 100
# Of a line, besides the request's body.
_FRAME_BYTES = 16_384
_BLANK = b" \t\r\n"


@dataclass
class Checked:
    """What a file holds. model: that all its requests name."""

    errors: list[BatchError] = field(default_factory=list)
    num_lines: int = 0
    model: str | None = None

    def refuse(self, line: int | None, error: AtollError) -> None:
        """Adds an error, unless there are many."""
        problem = openai_problem(error)
        told = {name: problem[name] for name in ("code", "message", "param")}
        self.errors.append({**told, "line": line})  # type: ignore[typeddict-item]

    @property
    def is_hopeless(self) -> bool:
        """Whether there are as many errors as are told."""
        return len(self.errors) >= _MAX_ERRORS


def check(
    path: Path,
    endpoint: str,
    max_lines: int,
    max_body_bytes: int,
    find_model: Callable[[str | None], None],
) -> Checked:
    """Checks every line.

    find_model: raises an AtollError if the model that all lines name cannot answer.
    """
    found, seen = Checked(), set[str]()
    for number, raw in _raw_lines(path, max_body_bytes + _FRAME_BYTES):
        if found.is_hopeless:
            break
        found.num_lines += 1
        if found.num_lines > max_lines:
            found.refuse(
                None,
                ValidationError(
                    f"the file has more than {max_lines} lines", code="too_many_requests"
                ),
            )
            break
        try:
            if raw is None:
                raise ValidationError(
                    f"the line has more than {max_body_bytes + _FRAME_BYTES} bytes: payload_limit "
                    f"is {max_body_bytes}", code="request_too_large",
                )  # fmt: skip
            _check_line(_read(raw), endpoint, seen, found)
        except AtollError as error:
            found.refuse(number, error)
    if not found.num_lines:
        found.refuse(None, ValidationError("the file has no lines", code="empty_file"))
    if not found.errors:
        try:
            find_model(found.model)
        except AtollError as error:
            found.refuse(1, error)
    return found


def requests(path: Path, max_body_bytes: int) -> Iterator[tuple[BatchLine, int]]:
    """The requests of a file that has been checked, and the bytes of each."""
    for _, raw in _raw_lines(path, max_body_bytes + _FRAME_BYTES):
        if raw is not None:
            yield _read(raw), len(raw)


def encoded(body: dict[str, Any]) -> bytes:
    """A request's body as JSON.

    Raises:
        ValidationError: it is nested more deeply than any body may be.
    """
    try:
        return orjson.dumps(body)
    except TypeError as error:
        raise ValidationError.of("body", f"cannot be read: {error}") from None


def _raw_lines(path: Path, max_bytes: int) -> Iterator[tuple[int, bytes | None]]:
    """Lines that are not blank, with their numbers from 1; None: it is too long."""
    number = 0
    with open(path, "rb") as file:
        while line := file.readline(max_bytes + 1):
            number += 1
            is_long = len(line) > max_bytes
            rest = line
            while rest and not rest.endswith(b"\n"):
                rest = file.readline(max_bytes)
            if is_long:
                yield number, None
            elif line.strip(_BLANK):
                yield number, line


def _read(raw: bytes) -> BatchLine:
    """Raises AtollError: it is no request."""
    try:
        given = parse(raw, "the line is not valid JSON")
    except MalformedRequest as error:
        raise MalformedRequest(str(error), param=error.param, code="invalid_json_line") from None
    if not isinstance(given, dict):
        raise ValidationError("the line must be a JSON object", code="invalid_json_line")
    return read_object(given, BatchLine)


def _check_line(line: BatchLine, endpoint: str, seen: set[str], found: Checked) -> None:
    if line.custom_id in seen:
        raise ValidationError.of(
            "custom_id", f"{line.custom_id!r:.100} is that of an earlier line, too",
            code="duplicate_custom_id",
        )  # fmt: skip
    seen.add(line.custom_id)
    if line.url != endpoint:
        raise ValidationError.of(
            "url", f"is {line.url!r:.100}; the batch's endpoint is {endpoint!r}", code="invalid_url"
        )
    if line.body.get("stream"):
        raise ValidationError.of(
            "body.stream", "is not supported: answers are written whole", code="invalid_value"
        )
    encoded(line.body)
    model: Any = line.body.get("model")
    if model is not None and not isinstance(model, str):
        raise ValidationError.of("body.model", "must be a text", code="invalid_type")
    if found.num_lines == 1:
        found.model = model
    elif model != found.model:
        raise ValidationError.of(
            "body.model",
            f"is {model!r:.100}, and {found.model!r:.100} in the first line; a batch has one model",
            code="mismatched_model",
        )
