"""Sends one request of any kind within a deadline, and judges its answer."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from typing import Any

import grpc
import grpc.aio
import httpx

from fuzzing.shot import GrpcShot, HttpShot, Outcome, RawShot, Shot
from fuzzing.target import Target

DEADLINE_S = 120.0
# Triton itself calls much of what clients do wrong its own error, and says so in its own words.
TRITON_S = ("http-port", "grpc-port")
# What gRPC's client says of a stream that the server ends while it sends: what the server has said
# is lost.
_OWN = "Internal error from Core"
# A client that sends half a request and waits, then leaves.
_PATIENCE_S = 0.5
_STATUS = re.compile(rb"HTTP/1\.[01] (\d{3})")
# A request that is wrong is told so; none of these says that.
_BAD_CODES = frozenset({
    grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN, grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DATA_LOSS, grpc.StatusCode.DEADLINE_EXCEEDED,
})  # fmt: skip


class Sender:
    """``async with``. ids: what paths name as ``{file}``, ``{response}`` and ``{batch}``."""

    def __init__(self, target: Target) -> None:
        self.ids: Mapping[str, str] = {}
        self._target = target
        self._http: dict[str, httpx.AsyncClient] = {}
        self._grpc: dict[str, grpc.aio.Channel] = {}

    async def __aenter__(self) -> Sender:
        unix = httpx.AsyncHTTPTransport(uds=str(self._target.admin_socket))
        self._http["socket"] = httpx.AsyncClient(transport=unix, base_url="http://socket")
        for name in ("port", "http-port", "admin-port"):
            url = f"http://127.0.0.1:{self._target.port(name)}"
            self._http[name] = httpx.AsyncClient(base_url=url)
        for name in ("gateway-grpc-port", "grpc-port"):
            address = f"127.0.0.1:{self._target.port(name)}"
            self._grpc[name] = grpc.aio.insecure_channel(address)
        return self

    async def __aexit__(self, *reason: object) -> None:
        for client in self._http.values():
            await client.aclose()
        for channel in self._grpc.values():
            await channel.close()

    async def send(self, shot: Shot) -> Outcome:
        """Never raises: what goes wrong is the outcome's problem."""
        found = await self._within_deadline(shot)
        is_told = found.status not in ("unanswered", "broken")
        return Outcome(found.status) if shot.port in TRITON_S and is_told else found

    async def _within_deadline(self, shot: Shot) -> Outcome:
        try:
            async with asyncio.timeout(DEADLINE_S):
                if isinstance(shot, HttpShot):
                    return await self._over_http(shot)
                if isinstance(shot, GrpcShot):
                    return await self._over_grpc(shot)
                return await self._bytes(shot)
        except TimeoutError:
            return Outcome("unanswered", f"no end within {DEADLINE_S:.0f} s")
        except httpx.HTTPError as error:
            return Outcome("broken", repr(error))

    async def _over_http(self, shot: HttpShot) -> Outcome:
        path = shot.path
        for name, value in self.ids.items():
            path = path.replace(f"{{{name}}}", value)
        # As they are: httpx would read the path, and the headers as ASCII.
        url = httpx.URL(str(self._http[shot.port].base_url), raw_path=path.encode())
        headers = {k.encode(): v.encode("latin-1") for k, v in shot.headers.items()}
        response = await self._http[shot.port].request(
            shot.method, url, headers=headers, content=shot.content, timeout=DEADLINE_S
        )
        return judged(response.status_code, response.headers, response.text)

    async def _over_grpc(self, shot: GrpcShot) -> Outcome:
        channel = self._grpc[shot.port]
        options: dict[str, Any] = {"timeout": DEADLINE_S, "metadata": shot.metadata}
        try:
            if shot.is_stream:
                call = channel.stream_stream(shot.method)(iter(shot.messages), **options)
                count = len([answer async for answer in call])
                return Outcome(f"OK, {'none' if count == 0 else 'some'} of a stream")
            await channel.unary_unary(shot.method)(shot.messages[0], **options)
            return Outcome("OK")
        except grpc.aio.AioRpcError as error:
            code, said = error.code(), str(error.details())
            if said == _OWN:
                return Outcome("ended before all was sent")
            bad = code in _BAD_CODES or not said
            return Outcome(code.name, f"{code.name}: {said}" if bad else "")

    async def _bytes(self, shot: RawShot) -> Outcome:
        port = self._target.port(shot.port)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        found = b""
        try:
            for piece in shot.pieces:
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(0.01)
            if shot.closes and writer.can_write_eof():
                writer.write_eof()
            limit = None if shot.closes else _PATIENCE_S
            async with asyncio.timeout(limit):
                while part := await reader.read(1 << 16):
                    found += part
        except TimeoutError:
            if shot.closes:
                raise
        except OSError:
            pass  # it was cut off, maybe after an answer
        finally:
            writer.close()
        statuses = [int(one) for one in _STATUS.findall(found)]
        worst = max(statuses, default=0)
        if not statuses:
            return Outcome("closed" if shot.closes else "left")
        return judged(worst, {}, found[-300:].decode("latin-1"))


def judged(status: int, headers: Mapping[str, str], text: str) -> Outcome:
    """5xx is a defect, unless it says that a limit is reached and when to come again, or 501, which
    is what KServe's clients are told by Triton, too, where it does not do what they ask for."""
    kind = f"{status // 100}xx"
    if status == 501 or (status == 503 and "retry-after" in headers):
        return Outcome(str(status))
    return Outcome(kind, f"{status}: {text[:600]}" if status >= 500 else "")
