"""A gateway in front of several servers, or of none that is ready."""

from __future__ import annotations

import asyncio

import fake_triton
import grpc
from fake_triton import FakeTriton
from scripted import CHAT, CODE, EMBED, GENERATE, MODELS, gateway, post, refuse, refuse_stream


def test_no_server_is_ready() -> None:
    async def scenario() -> None:
        async with gateway("127.0.0.1:9") as http:
            for path, body in (EMBED, GENERATE, CHAT):
                answer = await http.post(path, json=body)
                assert answer.status_code == 503 and "no server is ready" in answer.text
            health = await http.get("/health")
            assert (health.status_code, health.json()["error_type"]) == (503, "Unhealthy")
            assert (await http.get("/v1/health/live")).status_code == 200
            assert (await http.get("/v1/models")).json()["data"] == []

    asyncio.run(scenario())


def test_a_request_whose_connection_is_lost_is_tried_once_more() -> None:
    """It may have been what ended the first server: a third is not tried."""

    async def scenario() -> None:
        async with (
            FakeTriton(MODELS) as one,
            FakeTriton(MODELS) as two,
            FakeTriton(MODELS) as three,
            gateway(one.address, two.address, three.address, health_interval_s=0.1) as http,
        ):
            servers = (one, two, three)
            for text in ("Stream removed (Socket closed)", "recvmsg:Connection reset by peer"):
                for path, body in (EMBED, GENERATE, CHAT):
                    for triton in servers:
                        triton.calls.clear()
                        triton.embed = refuse(CODE.UNAVAILABLE, text)
                        triton.generate = refuse_stream(CODE.UNAVAILABLE, text)
                    answer = await http.post(path, json=body)
                    assert answer.status_code == 503 and text in answer.text
                    first, second = one.calls + two.calls + three.calls
                    assert f"the process of model '{first}' is unavailable" in answer.text
                    # A server that was lost gets requests again once it has been looked at.
                    await asyncio.gather(*(triton.looked_at() for triton in servers))

    asyncio.run(scenario())


def test_several_servers_of_which_one_goes_away_and_comes_back() -> None:
    async def scenario() -> None:
        async with FakeTriton(MODELS) as one, FakeTriton(MODELS) as two:
            addresses = (one.address, "127.0.0.1:9", two.address)
            async with gateway(*addresses, health_interval_s=0.1) as http:
                # The least busy gets the next.
                one.embed = two.embed = fake_triton.never
                held = [asyncio.create_task(post(http, EMBED)) for _ in range(4)]
                while len(one.calls) + len(two.calls) < 4:
                    await asyncio.sleep(0.01)
                assert (len(one.calls), len(two.calls)) == (2, 2)
                for task in held:
                    task.cancel()
                await asyncio.gather(*held, return_exceptions=True)
                one.embed = two.embed = fake_triton.vectors
                await one.stop()
                # The connection has ended (what is sent into a dying one may have been taken, and
                # is not retried), nobody has tried it yet, and still every request is answered.
                app = http._transport.app  # type: ignore[attr-defined]
                channel = app.context.pool.servers[0]._channel
                while channel.get_state() is grpc.ChannelConnectivity.READY:
                    await asyncio.sleep(0.01)
                for path, body in (EMBED, GENERATE, CHAT):
                    assert (await http.post(path, json=body)).status_code == 200
                assert (await http.get("/health")).status_code == 200
                two.models = {}
                await two.looked_at()
                assert (await http.get("/health")).status_code == 503
                two.models = MODELS
                await two.looked_at()
                assert (await post(http, EMBED)).status_code == 200

    asyncio.run(scenario())


def test_servers_with_different_models() -> None:
    async def scenario() -> None:
        one, two = {"a": MODELS["vectors"]}, {"b": MODELS["words"]}
        async with (
            FakeTriton(one) as first,
            FakeTriton(two) as second,
            gateway(first.address, second.address) as http,
        ):
            models = (await http.get("/v1/models")).json()["data"]
            assert [model["id"] for model in models] == ["a", "b"]
            assert (await post(http, EMBED)).status_code == 200
            assert (await http.post("/b/generate", json=GENERATE[1])).status_code == 200
            assert (first.calls, second.calls) == (["a"], ["b"])

    asyncio.run(scenario())


def test_a_named_default_wins_over_the_alphabet() -> None:
    async def scenario() -> None:
        models = {"a": MODELS["vectors"], "b": MODELS["vectors"]}
        async with (
            FakeTriton(models) as triton,
            gateway(triton.address, default_model="b") as http,
        ):
            await post(http, EMBED)
            await http.post("/embed", json={**EMBED[1], "model": "a"})
            await http.post("/a/embed", json=EMBED[1])
        assert triton.calls == ["b", "a", "a"]

    asyncio.run(scenario())
