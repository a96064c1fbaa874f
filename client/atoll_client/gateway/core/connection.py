"""HTTP/1.1 connections with limits of headers, chunks and time, which uvicorn's protocol lacks.

A request that exceeds one gets an error response where that is possible, and the connection is
closed.
"""

from __future__ import annotations

import asyncio
import http

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

_MAX_URL_BYTES = 16_384
_MAX_HEADER_BYTES = 65_536
_MAX_HEADERS = 256
_MAX_CHUNKS = 65_536
# From the start of a request or connection to the end of its headers.
_HEADER_S = 30.0
# How much of a body is still read after the response, for clients that first send all of it.
_MAX_IGNORED_BYTES = 16_000_000
# Bytes besides the body. The parser buffers incomplete headers without calling back.
_MAX_OTHER_BYTES = 500_000


class LimitedProtocol(HttpToolsProtocol):  # type: ignore[misc]
    """One connection."""

    def connection_made(self, transport: asyncio.Transport) -> None:
        super().connection_made(transport)
        self._header_timer: asyncio.TimerHandle | None = None
        self._refusal: _Refused | None = None
        # Requests of this connection that are not answered: ``cycle`` is only the last of them.
        self._open: list[RequestResponseCycle] = []
        self._begin_counting()
        self._await_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        self._leave()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        self._num_bytes += len(data)
        super().data_received(data)
        if self._num_bytes - self._num_body_bytes > _MAX_OTHER_BYTES:
            status = 400 if self._header_timer is None else 431
            self._refuse(
                _Refused(status, f"there are more than {_MAX_OTHER_BYTES} bytes of headers")
            )

    def send_400_response(self, msg: str) -> None:
        """Also called after an exception in one of the callbacks below."""
        self._refuse(self._refusal or _Refused(400, msg))

    def on_message_begin(self) -> None:
        self._begin_counting()
        self._await_headers()
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        if len(self.url) + len(url) > _MAX_URL_BYTES:
            raise self._refused(414, f"the address has more than {_MAX_URL_BYTES} bytes")
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        # Also called for trailers, after a chunked body.
        self._num_headers += 1
        self._num_header_bytes += len(name) + len(value)
        if self._num_headers > _MAX_HEADERS or self._num_header_bytes > _MAX_HEADER_BYTES:
            raise self._refused(
                431, f"there are more than {_MAX_HEADERS} headers, or {_MAX_HEADER_BYTES} bytes"
            )
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._stop_timer()
        super().on_headers_complete()
        # An upgrade that is declined has none of its own.
        cycles = [*self._open, *([] if self.cycle is None else [self.cycle])]
        self._open = [cycle for cycle in cycles if not cycle.response_complete]

    def on_chunk_header(self) -> None:
        """httptools calls it for each chunk of a body."""
        self._num_chunks += 1
        if self._num_chunks > _MAX_CHUNKS:
            raise self._refused(400, f"the body has more than {_MAX_CHUNKS} chunks")

    def on_body(self, body: bytes) -> None:
        self._num_body_bytes += len(body)
        if self.cycle.response_complete:
            self._num_ignored += len(body)
            if self._num_ignored > _MAX_IGNORED_BYTES:
                self.transport.abort()
                return
        super().on_body(body)

    def _begin_counting(self) -> None:
        self._num_bytes = self._num_body_bytes = self._num_ignored = 0
        self._num_header_bytes = self._num_headers = self._num_chunks = 0

    def _refused(self, status: int, text: str) -> _Refused:
        """An exception to raise; the parser turns it into an error of its own."""
        self._refusal = _Refused(status, text)
        return self._refusal

    def _await_headers(self) -> None:
        self._stop_timer()
        self._header_timer = self.loop.call_later(_HEADER_S, self._give_up)

    def _stop_timer(self) -> None:
        if self._header_timer is not None:
            self._header_timer.cancel()
            self._header_timer = None

    def _give_up(self) -> None:
        if not self.transport.is_closing():
            self._refuse(_Refused(408, f"the headers were not complete after {_HEADER_S:g} s"))

    def _refuse(self, refusal: _Refused) -> None:
        """Responds, unless a response has begun, and closes the connection."""
        if self.transport.is_closing():
            return
        # What is written into an answer that has begun would be taken for a part of it.
        if all(cycle.response_complete or not cycle.response_started for cycle in self._open):
            body = f'{{"error":"{refusal.text}"}}'.encode()
            phrase = http.HTTPStatus(refusal.status).phrase
            head = (
                f"HTTP/1.1 {refusal.status} {phrase}\r\ncontent-type: application/json\r\n"
                f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
            )
            self.transport.write(head.encode() + body)
        self.transport.close()
        self._leave()

    def _leave(self) -> None:
        """Nobody reads the answers that are missing: they are neither made nor written."""
        for cycle in self._open:
            if not cycle.response_complete:
                cycle.disconnected = True
                cycle.message_event.set()


class _Refused(Exception):
    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status, self.text = status, text
