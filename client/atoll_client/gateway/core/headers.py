"""Headers of requests that are passed on to servers, checked against their standards.

They become gRPC metadata, where a byte above 127 or a control character makes a call fail. An
invalid ``traceparent`` is ignored, as W3C demands.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import secrets

from starlette.datastructures import Headers

from atoll_client.errors import Unauthorized, ValidationError
from atoll_client.gateway.core.settings import listed
from atoll_client.kserve import MAX_PRIORITY, PRIORITY

# Names of authentication schemes are not case-sensitive.
_BASIC = re.compile("basic +", re.IGNORECASE)
_BEARER = re.compile("bearer +", re.IGNORECASE)
_LENGTH = re.compile(r"[0-9]{1,20}")
_PRIORITY = re.compile(r"[+-]?[0-9]{1,3}")
_REQUEST_ID = re.compile(r"[\x20-\x7e]{1,256}")

# W3C Trace Context, level 2. Versions after 00 may have more fields.
_TRACEPARENT = re.compile(
    r"(?!ff)([0-9a-f]{2})-((?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2})(-[\x21-\x7e]*)?"
)
_TRACE_KEY = r"[a-z0-9][a-z0-9_\-*/]{0,255}|[a-z0-9][a-z0-9_\-*/]{0,240}@[a-z][a-z0-9_\-*/]{0,13}"
_TRACE_VALUE = r"[\x20-\x2b\x2d-\x3c\x3e-\x7e]{0,255}[\x21-\x2b\x2d-\x3c\x3e-\x7e]"
_TRACE_MEMBER = re.compile(f"(?:{_TRACE_KEY})=(?:{_TRACE_VALUE})")
_MAX_TRACE_MEMBERS = 32
# Servers accept about 8 KiB of metadata.
_MAX_TRACE_CHARACTERS = 4096


def joined(headers: Headers, name: str) -> str:
    """A header's values, joined by commas; "" if it is missing."""
    return ",".join(headers.getlist(name))


def request_id(headers: Headers) -> str:
    """``x-request-id`` if it is at most 256 printable ASCII characters, else a new id."""
    given = joined(headers, "x-request-id")
    return given if _REQUEST_ID.fullmatch(given) else secrets.token_hex(8)


def read_priority(headers: Headers) -> int | None:
    """``x-priority``; None: it is missing.

    Raises:
        ValidationError: it is not an integer between -999 and 999.
    """
    given = joined(headers, PRIORITY).strip(" \t")
    if not given:
        return None
    if not _PRIORITY.fullmatch(given):
        raise ValidationError(
            f"the header {PRIORITY} is {given!r:.80}; it must be an integer between "
            f"-{MAX_PRIORITY} and {MAX_PRIORITY}"
        )
    return int(given)


def announced_bytes(headers: Headers) -> int:
    """The content length in bytes; 0: unknown."""
    given = headers.get("content-length", "")
    return int(given) if _LENGTH.fullmatch(given) else 0


def trace_context(headers: Headers) -> dict[str, str]:
    """``traceparent`` and ``tracestate``, if they are valid."""
    match = _TRACEPARENT.fullmatch(joined(headers, "traceparent").strip(" \t"))
    if match is None or (match[1] == "00" and match[3] is not None):
        return {}
    found = {"traceparent": f"00-{match[2]}"}
    state = _trace_state(joined(headers, "tracestate"))
    return {**found, "tracestate": state} if state else found


def _trace_state(text: str) -> str:
    """The members of ``tracestate``; "" if one is invalid or there are too many."""
    members = [part for part in (part.strip(" \t") for part in text.split(",")) if part]
    keys = {member.partition("=")[0] for member in members}
    is_valid = len(keys) == len(members) <= _MAX_TRACE_MEMBERS and all(
        map(_TRACE_MEMBER.fullmatch, members)
    )
    joined = ",".join(members)
    return joined if is_valid and len(joined) <= _MAX_TRACE_CHARACTERS else ""


class Keys:
    """The API keys. Every request that is not public needs one of them."""

    def __init__(self, text: str) -> None:
        self._keys = [key.encode() for key in listed(text)]

    def check(self, headers: Headers) -> None:
        """Checks ``authorization``, or ``x-api-key``, Anthropic's header for the same.

        A non-ASCII key may be encoded as UTF-8 or latin-1.

        Raises:
            Unauthorized: the key is missing or wrong.
        """
        if self._keys and self._presented(headers) is None:
            raise Unauthorized("the API key is missing or wrong")

    def owner(self, headers: Headers) -> str:
        """Tells apart what the holders of different keys have stored; "" if no key is needed."""
        key = self._presented(headers) if self._keys else None
        return "" if key is None else _digest(key)

    def of_owner(self, owner: str) -> bytes | None:
        """The key of an owner, for what is done in its name; None: no key, or it is gone."""
        return next((key for key in self._keys if _digest(key) == owner), None)

    def _presented(self, headers: Headers) -> bytes | None:
        """The key that a request has; None: none of ours."""
        authorization = joined(headers, "authorization")
        scheme = _BEARER.match(authorization)
        text = authorization[scheme.end() :] if scheme else _password(authorization)
        given = (text, joined(headers, "x-api-key"))
        forms = [form for one in given for form in (one.encode("latin-1", "replace"), one.encode())]
        pairs = ((form, key) for form in forms for key in self._keys)
        return next((key for form, key in pairs if hmac.compare_digest(form, key)), None)


def _digest(key: bytes) -> str:
    return hashlib.sha256(key).hexdigest()


def _password(authorization: str) -> str:
    """The password of HTTP's Basic scheme, which browsers use; else the whole header."""
    scheme = _BASIC.match(authorization)
    if scheme is None:
        return authorization
    try:
        pair = base64.b64decode(authorization[scheme.end() :].strip(), validate=True)
    except ValueError:
        return authorization
    return pair.partition(b":")[2].decode("latin-1")
