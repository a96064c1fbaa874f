"""Reads forms with files (multipart/form-data, RFC 7578) as the fields of a body.

The body is complete already, and within its limit; headers are parsed by the standard library.
"""

from __future__ import annotations

from collections.abc import Iterator
from email.message import Message
from email.parser import HeaderParser
from typing import Any

from atoll_client.errors import MalformedRequest
from atoll_client.gateway.core.web import Request

FORM = "multipart/form-data"
_MAX_PARTS = 100
_MAX_HEAD_BYTES = 16_384


def is_form(request: Request) -> bool:
    """Whether the body is a form."""
    kind = request.headers.get("content-type", "")
    return kind.partition(";")[0].strip().lower() == FORM


def read_form(request: Request) -> dict[str, Any]:
    """The fields: texts, and bytes of files; a list where a name ends in ``[]``.

    Raises:
        MalformedRequest: it is no form, has too many parts, or a name occurs twice.
    """
    head = Message()
    head["content-type"] = request.headers["content-type"]
    boundary = str(head.get_param("boundary") or "")
    if not boundary:
        raise MalformedRequest("the form's content-type names no boundary")
    found: dict[str, Any] = {}
    for name, value in _parts(request.raw, boundary.encode("latin-1", "replace")):
        if name.endswith("[]"):
            found.setdefault(name.removesuffix("[]"), []).append(value)
        elif name in found:
            raise MalformedRequest(f"the form's field {name!r:.100} is given twice", param=name)
        else:
            found[name] = value
    return found


def _parts(raw: bytes, boundary: bytes) -> Iterator[tuple[str, str | bytes]]:
    """Name and value of each part."""
    _, *parts = (b"\r\n" + raw).split(b"\r\n--" + boundary)
    if not parts or not parts[-1].startswith(b"--"):
        raise MalformedRequest("the form is cut off: its last boundary is missing")
    if len(parts) > _MAX_PARTS:
        raise MalformedRequest(f"the form has {len(parts) - 1} parts; at most {_MAX_PARTS} may be")
    for part in parts[:-1]:
        # Blanks may follow a boundary.
        head, gap, value = part.lstrip(b" \t").partition(b"\r\n\r\n")
        if not gap or len(head) > _MAX_HEAD_BYTES:
            raise MalformedRequest("a part of the form has no header, or too long a one")
        fields = HeaderParser().parsestr(head.strip().decode("utf-8", "replace"))
        name = fields.get_param("name", header="content-disposition")
        if not isinstance(name, str):
            raise MalformedRequest("a part of the form has no name")
        if fields.get_filename() is not None:
            yield name, value
            continue
        try:
            yield name, value.decode()
        except UnicodeDecodeError:
            raise MalformedRequest(
                f"the form's field {name!r:.100} is not valid UTF-8, and no file", param=name
            ) from None
