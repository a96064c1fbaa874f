"""Receives a form with one file: the file goes to disk as it comes, in pieces of a megabyte."""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
from dataclasses import dataclass, field
from email.message import Message
from email.parser import HeaderParser
from pathlib import Path
from typing import TYPE_CHECKING, Any

from atoll_client.errors import MalformedRequest, TooLarge, ValidationError
from atoll_client.gateway.batches.folder import explained
from atoll_client.gateway.core.forms import is_form
from atoll_client.gateway.core.headers import joined
from atoll_client.gateway.core.web import Request

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartParser

_FILE = "file"
_PIECE_BYTES = 1_000_000
# Of all fields but the file, and of the form around them.
_MAX_FIELD_BYTES = 16_384
FORM_BYTES = 65_536
_MAX_PARTS = 20


@dataclass
class Received:
    """A form. content: of its file, synchronized; fields: by name, ``file`` included if it came."""

    content: Path
    filename: str = _FILE
    fields: dict[str, Any] = field(default_factory=dict)
    num_bytes: int = 0


async def receive(request: Request, folder: Path, max_bytes: int) -> Received:
    """Reads the request's form. The caller moves or deletes the content.

    Raises:
        MalformedRequest: it is no form, or a broken one. ValidationError: it is compressed.
        TooLarge: the file has too many bytes.
        AtollError: the disk is full. ClientDisconnect: the client has gone.
    """
    from python_multipart.exceptions import FormParserError

    if not is_form(request):
        raise MalformedRequest("a file comes as a form: multipart/form-data")
    encoding = joined(request.headers, "content-encoding").strip().lower()
    if encoding not in ("", "identity"):
        raise ValidationError(
            f"the header content-encoding is {encoding!r:.100}; forms are read without compression"
        )
    found = Received(folder / secrets.token_hex(16))
    form = _Form(found)
    parser = form.parser(_boundary(request))
    try:
        with explained("the file cannot be written"), open(found.content, "xb") as file:
            async for piece in request.pieces(max_bytes + FORM_BYTES):
                try:
                    parser.write(piece)
                except FormParserError as error:
                    raise MalformedRequest(f"the form cannot be read: {error}") from None
                if found.num_bytes > max_bytes:
                    raise TooLarge.of(_FILE, f"has more than {max_bytes} bytes, the limit of files")
                if len(form.pending) >= _PIECE_BYTES:
                    await asyncio.to_thread(file.write, form.take())
            file.write(form.take())
            file.flush()
            await asyncio.to_thread(os.fsync, file.fileno())
        if not form.is_complete:
            raise MalformedRequest("the form is cut off: its last boundary is missing")
    except BaseException:
        found.content.unlink(missing_ok=True)
        raise
    return found


def _boundary(request: Request) -> bytes:
    head = Message()
    head["content-type"] = request.headers["content-type"]
    boundary = str(head.get_param("boundary") or "").encode("latin-1", "replace")
    if not 0 < len(boundary) <= 256:
        raise MalformedRequest("the form's content-type names no boundary")
    return boundary


class _Form:
    """The state of a form that is being read. pending: bytes of the file that came last."""

    def __init__(self, found: Received) -> None:
        self._found = found
        self.pending = bytearray()
        self.is_complete = False
        self._head, self._field, self._value = bytearray(), bytearray(), bytearray()
        self._name = ""
        self._num_parts = self._num_field_bytes = 0

    def parser(self, boundary: bytes) -> MultipartParser:
        """What calls this form's methods with the parts of the body."""
        from python_multipart.multipart import MultipartParser

        parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._begin,
                "on_header_field": lambda data, start, end: self._field.extend(data[start:end]),
                "on_header_value": lambda data, start, end: self._value.extend(data[start:end]),
                "on_header_end": self._end_header,
                "on_headers_finished": self._read_head,
                "on_part_data": self._add,
                "on_part_end": self._end,
                "on_end": self._complete,
            },
        )
        # What is wrong with a client's form is in its answer, and no matter for the log.
        parser.logger.setLevel(logging.CRITICAL)
        return parser

    def take(self) -> bytes:
        """The pending bytes, which are then no longer pending."""
        found = bytes(self.pending)
        self.pending.clear()
        return found

    def _begin(self) -> None:
        self._num_parts += 1
        if self._num_parts > _MAX_PARTS:
            raise MalformedRequest(f"the form has more than {_MAX_PARTS} parts")
        self._head.clear()

    def _end_header(self) -> None:
        self._head += self._field + b": " + self._value + b"\r\n"
        self._field.clear()
        self._value.clear()

    def _read_head(self) -> None:
        head = HeaderParser().parsestr(self._head.decode("utf-8", "replace"))
        name = head.get_param("name", header="content-disposition")
        if not isinstance(name, str):
            raise MalformedRequest("a part of the form has no name")
        if name in self._found.fields:
            raise MalformedRequest(f"the form's field {name!r:.100} is given twice", param=name)
        self._name = name
        self._found.fields[name] = b""
        if name == _FILE:
            self._found.filename = head.get_filename(_FILE)[:255]

    def _add(self, data: bytes, start: int, end: int) -> None:
        if self._name == _FILE:
            self.pending += data[start:end]
            self._found.num_bytes += end - start
            return
        self._num_field_bytes += end - start
        if self._num_field_bytes > _MAX_FIELD_BYTES:
            raise MalformedRequest(f"the form's fields have more than {_MAX_FIELD_BYTES} bytes")
        self._value += data[start:end]

    def _end(self) -> None:
        if self._name == _FILE:
            return
        text = bytes(self._value)
        self._value.clear()
        try:
            self._found.fields[self._name] = text.decode()
        except UnicodeDecodeError:
            raise MalformedRequest(
                f"the form's field {self._name!r:.100} is not valid UTF-8", param=self._name
            ) from None

    def _complete(self) -> None:
        self.is_complete = True
