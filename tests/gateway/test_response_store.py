"""Stored responses: the store's bounds, failures, and deletion."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import orjson
import pytest
from fake_triton import FakeTriton, chunk
from scripted import run

from atoll_client.gateway.responses.store import Store

MODELS = {"words": {"task": "generate", "max_total_tokens": 64, "reasoning_parser": "qwen3"}}


def _stored(store: Store, name: str, previous: Any = None, size: int = 0) -> Any:
    response: Any = {"id": name, "output": [{"id": f"o-{name}", "text": "x" * size}]}
    store.add("me", response, [{"id": f"i-{name}"}], previous)
    return store.get("me", name)


def test_the_store_is_bounded() -> None:
    now = 0.0
    store = Store(3, 2000, 10.0, lambda: now)
    first = _stored(store, "a")
    assert store.get("you", "a") is store.item("you", "o-a") is None
    assert store.item("me", "o-a") == first.response["output"][0]
    second = _stored(store, "b", first)
    own = store.num_bytes
    assert [one["id"] for one in second.conversation()] == ["i-a", "o-a", "i-b", "o-b"]
    # Deleted, but needed by the one that follows.
    assert store.drop("me", "a") and not store.drop("me", "a") and not store.drop("you", "b")
    assert store.num_bytes == own and store.item("me", "o-a") is None
    assert store.drop("me", "b") and store.num_bytes == len(store) == 0
    # What was freed while its successor was written is held again; what replaces holds it, too.
    for _ in range(2):
        third = _stored(store, "c", second)
    assert [one["id"] for one in third.conversation()][:2] == ["i-a", "o-a"]
    assert store.num_bytes == first.num_bytes + second.num_bytes + third.num_bytes
    assert store.drop("me", "c") and store.num_bytes == 0
    # By number, by bytes, by time.
    for name in "cdef":
        _stored(store, name)
    assert store.get("me", "c") is None and len(store) == 3
    assert _stored(store, "g", size=1900) is not None and store.get("me", "f") is None
    assert store.num_bytes <= 2000
    assert _stored(store, "h", size=2000) is None and store.num_bytes == len(store) == 0
    _stored(store, "i")
    now = 10.0
    assert store.get("me", "i") is store.item("me", "o-i") is None and store.num_bytes == 0


def test_a_response_that_fails_is_stored_as_such() -> None:
    """Its stream ends with an event that says so; while it runs, it is in progress."""
    seen: list[Any] = []

    async def scenario(triton: FakeTriton, http: httpx.AsyncClient) -> None:
        stored = http._transport.app.context.stored  # type: ignore[attr-defined]

        async def breaks(message: Any) -> Any:
            yield chunk("<think>one")
            while not stored._table:
                await asyncio.sleep(0.01)
            seen.extend(one.response["status"] for one in stored._table.values())
            raise RuntimeError("broken")

        triton.generate = breaks
        answer = await http.post("/v1/responses", json={"input": "a", "stream": True})
        events = [orjson.loads(line[6:]) for line in answer.text.splitlines() if "data: " in line]
        names = [line[7:] for line in answer.text.splitlines() if "event: " in line]
        assert names == [event["type"] for event in events] and names[-1] == "response.failed"
        response = events[-1]["response"]
        assert response["status"] == "failed" and response["error"]["code"] == "server_error"
        again = (await http.get(f"/v1/responses/{response['id']}")).json()
        assert again == response and seen == ["in_progress"]

    run(scenario, MODELS)


@pytest.mark.parametrize("ends_well", [True, False])
def test_what_is_deleted_while_it_runs_stays_deleted(ends_well: bool) -> None:
    async def scenario(triton: FakeTriton, http: httpx.AsyncClient) -> None:
        stored = http._transport.app.context.stored  # type: ignore[attr-defined]
        answers: list[Any] = []

        async def words(message: Any) -> Any:
            yield chunk("one")
            while not stored._table:
                await asyncio.sleep(0.01)
            (name,) = stored._table
            answers.append((await http.delete(f"/v1/responses/{name}")).json())
            if not ends_well:
                raise RuntimeError("broken")
            yield chunk(" two", "stop")

        triton.generate = words
        answer = await http.post("/v1/responses", json={"input": "a", "stream": True})
        kind = "response.completed" if ends_well else "response.failed"
        assert kind in answer.text and answers[0]["deleted"] is True
        assert (await http.get(f"/v1/responses/{answers[0]['id']}")).status_code == 404
        assert len(stored) == stored.num_bytes == 0 and not stored._items

    run(scenario, MODELS)
