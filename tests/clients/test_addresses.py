"""How requests find their route, key and end: what clients send that no route of ours names."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from fake_triton import FakeTriton, chunk
from scripted import CHAT, EMBED, GENERATE, MODELS, gateway, run

from atoll_client.gateway.core.settings import GatewaySettings
from atoll_client.gateway.main import application


def test_a_model_is_found_below_the_path_of_another() -> None:
    """``/{model}/v1/models/{id}`` was no route: openai's ``models.retrieve`` failed for clients
    whose base URL names a model."""

    async def scenario(triton: FakeTriton, http: httpx.AsyncClient) -> None:
        for path in ("/v1/models/words", "/words/v1/models/words", "/vectors/v1/models/words"):
            assert (await http.get(path)).json()["id"] == "words", path
        assert (await http.get("/words/v1/models/none")).status_code == 404

    run(scenario)


def test_an_unknown_route_is_no_missing_model() -> None:
    """openai's clients of routes that are not there were told ``model_not_found``."""

    async def scenario(triton: FakeTriton, http: httpx.AsyncClient) -> None:
        answer = await http.post("/v1/images/edits", json={"model": "words", "prompt": "a"})
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "unknown_url")
        answer = await http.post(CHAT[0], json={**CHAT[1], "model": "none"})
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "model_not_found")

    run(scenario)


def test_the_scheme_of_a_key_may_be_written_in_any_case() -> None:
    async def scenario(triton: FakeTriton, http: httpx.AsyncClient) -> None:
        for key, status in (("Bearer k", 200), ("bearer k", 200), ("Bearer x", 401), ("", 401)):
            answer = await http.post(EMBED[0], json=EMBED[1], headers={"Authorization": key})
            assert answer.status_code == status, key

    run(scenario, api_key="k")


@pytest.mark.parametrize("body", ["[]", "3", "null", '"a"'])
def test_a_body_that_is_no_object(body: str) -> None:
    """The message named a class of ours."""

    async def scenario(triton: FakeTriton, http: httpx.AsyncClient) -> None:
        for path in (EMBED[0], CHAT[0], GENERATE[0], "/v1/embeddings"):
            answer = await http.post(path, content=body)
            assert answer.status_code == (400 if "/v1/" in path else 422)
            assert "the body must be a JSON object" in answer.text

    run(scenario)


@pytest.mark.parametrize("stream", [True, False])
def test_who_waits_when_the_gateway_ends_is_told_so(stream: bool) -> None:
    """Requests that outlast the time given to a gateway that ends are cancelled by its server.
    Streams were broken off in the middle of a chunk, and a traceback was logged for each."""

    async def scenario() -> None:
        begun = asyncio.Event()

        async def generate(message: Any) -> AsyncIterator[Any]:
            if stream:
                yield chunk("one")
            begun.set()
            await asyncio.sleep(60)

        sent: list[dict[str, Any]] = []
        inbox: asyncio.Queue[Any] = asyncio.Queue()

        async def send(message: Any) -> None:
            sent.append(message)

        async with FakeTriton(MODELS) as triton:
            triton.generate = generate
            app = application(GatewaySettings(server=triton.address))
            life = asyncio.create_task(app({"type": "lifespan"}, inbox.get, send))
            await inbox.put({"type": "lifespan.startup"})
            while not sent:
                await asyncio.sleep(0.01)
            sent.clear()
            body = json.dumps({**CHAT[1], "stream": stream}).encode()
            requests: asyncio.Queue[Any] = asyncio.Queue()
            await requests.put({"type": "http.request", "body": body})
            scope = {"type": "http", "method": "POST", "path": CHAT[0], "headers": []}
            task = asyncio.create_task(app(scope, requests.get, send))
            await begun.wait()
            while stream and len(sent) < 2:  # the head and the first event
                await asyncio.sleep(0.01)
            task.cancel("timeout graceful shutdown exceeded")
            await asyncio.wait_for(task, 30)
            await inbox.put({"type": "lifespan.shutdown"})
            await life
        assert sent[0]["status"] == (200 if stream else 503)
        whole = b"".join(message.get("body", b"") for message in sent[1:])
        assert b"the gateway is shutting down" in whole
        ends = [m for m in sent if m["type"] == "http.response.body" and not m.get("more_body")]
        assert len(ends) == 1

    asyncio.run(scenario())


def test_an_adapter_is_shown_with_its_parent() -> None:
    """Its own card had none, while the list of models told it."""

    async def scenario() -> None:
        models = {"words": {"task": "generate", "adapters": ["pirate"]}}
        async with FakeTriton(models) as triton, gateway(triton.address) as http:
            listed = {card["id"]: card for card in (await http.get("/v1/models")).json()["data"]}
            for name, parent in (("pirate", "words"), ("words", None)):
                card = (await http.get(f"/v1/models/{name}")).json()
                assert card == listed[name] and card["parent"] == parent

    asyncio.run(scenario())
