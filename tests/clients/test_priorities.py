"""Requests that wait are answered by their priority, in whatever dialect they say it."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import httpx
from gateways import Served

_MESSAGES = [{"role": "user", "content": "a"}]
_FIELD, _HEADER = {"priority": -5}, {"x-priority": "-5"}
# Route, body and headers of requests for one token, all with the same priority.
HIGH: list[tuple[str, Any, dict[str, str]]] = [
    ("/v1/chat/completions", {"messages": _MESSAGES, "max_tokens": 1, **_FIELD}, {}),
    ("/v1/responses", {"input": "a", "max_output_tokens": 1, **_FIELD}, {}),
    # The field goes before the header.
    ("/v1/completions", {"prompt": "a", "max_tokens": 1, **_FIELD}, {"x-priority": "900"}),
    ("/xml/generate", {"inputs": "a", "parameters": {"max_new_tokens": 1}}, _HEADER),
    ("/v1/messages", {"messages": _MESSAGES, "max_tokens": 1}, _HEADER),
    ("/api/generate", {"prompt": "a", "stream": False, "options": {"num_predict": 1}}, _HEADER),
    ("/v2/models/xml/generate", {"text_input": "a", "max_tokens": 1}, _HEADER),
    ("/v2/models/xml/generate", {"text_input": "a", "max_tokens": 1, "x-priority": -5}, {}),
]
LOW: list[tuple[str, Any, dict[str, str]]] = [
    ("/v2/models/xml/generate", {"text_input": "a", "max_tokens": 1, "priority": 5}, {}),
    ("/v1/completions", {"prompt": "a", "max_tokens": 1}, {"x-priority": "5"}),
]


def test_a_priority_that_is_none_has_the_name_that_it_came_with(echoes: Served) -> None:
    """A generator named its option, `priority`."""
    for name in ("x-priority", "priority"):
        body = {"text_input": "a", "parameters": {name: 9999}}
        answer = httpx.post(f"{echoes.url}/v2/models/xml/generate", json=body)
        assert answer.status_code == 400
        assert re.search(rf"(^|['\s]){name}'? is 9999", answer.json()["error"]), answer.text


def _long(num_tokens: int, **more: Any) -> tuple[str, Any, dict[str, str]]:
    tokens = {"max_tokens": num_tokens, "min_tokens": num_tokens, "stream": True}
    return "/v1/completions", {"prompt": "a", **tokens, **more}, {}


def test_high_priorities_are_answered_before_low_ones(echoes: Served) -> None:
    """Two requests run at once: long ones take both places until all others wait. Those in the
    middle run between the high and the low ones, so that no answer overtakes another on its way."""
    order: list[str] = []

    async def ask(
        http: httpx.AsyncClient, name: str, path: str, body: Any, headers: dict[str, str],
        has_begun: asyncio.Event | None = None,
    ) -> None:  # fmt: skip
        body = body if path.startswith(("/xml", "/v2")) else {"model": "xml", **body}
        async with http.stream("POST", path, json=body, headers=headers) as response:
            async for _ in response.aiter_lines():
                if has_begun is not None:
                    has_begun.set()
        assert response.status_code == 200, (path, response.status_code)
        order.append(name)

    async def all_at_once() -> None:
        async with httpx.AsyncClient(base_url=echoes.url, timeout=120) as http:
            begun = [asyncio.Event() for _ in range(12)]
            # Of different lengths, so that one place is free at a time.
            work = [
                asyncio.create_task(
                    ask(http, "first", *_long(300 + 15 * i, priority=-999), has_begun=begun[i])
                )
                for i in range(12)
            ]  # fmt: skip
            while sum(one.is_set() for one in begun) < 2:
                await asyncio.sleep(0.01)
            waiting = [("low", one) for one in LOW]
            waiting += [("middle", _long(200))] * 2 + [("high", one) for one in HIGH]
            work += [asyncio.create_task(ask(http, name, *one)) for name, one in waiting]
            await asyncio.gather(*work)

    asyncio.run(all_at_once())
    last_high = max(at for at, name in enumerate(order) if name == "high")
    assert last_high < order.index("low"), order
