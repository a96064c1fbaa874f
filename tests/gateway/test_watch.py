"""When a client counts as one that has left."""

from __future__ import annotations

import asyncio

import pytest
from starlette.requests import ClientDisconnect
from starlette.types import Message

from atoll_client.gateway.core.settings import GatewaySettings
from atoll_client.gateway.core.watch import Watch
from atoll_client.gateway.core.web import Request

SCOPE = {"type": "http", "method": "GET", "path": "/", "headers": [], "query_string": b""}


@pytest.mark.parametrize("is_whole", [True, False])
def test_who_has_the_whole_answer_has_not_left(is_whole: bool) -> None:
    """A download was counted with 499 if its file took a moment to close: a server says of a
    complete answer, too, that the client is gone."""

    async def answer() -> bool:
        sent: list[Message] = []
        ended = asyncio.Event()

        async def receive() -> Message:
            await ended.wait()
            return {"type": "http.disconnect"}

        async def send(message: Message) -> None:
            sent.append(message)
            if message["type"] == "http.response.body":
                ended.set()

        request = Request(SCOPE, receive, send)
        with Watch(request, GatewaySettings(), send) as watch:
            watch.begin()
            await watch.send({"type": "http.response.start", "status": 200, "headers": []})
            await watch.send(
                {"type": "http.response.body", "body": b"x", "more_body": not is_whole}
            )
            await asyncio.sleep(0.2)
        assert len(sent) == 2
        return request.is_left

    if is_whole:
        assert not asyncio.run(answer())
    else:
        with pytest.raises(ClientDisconnect):
            asyncio.run(answer())
