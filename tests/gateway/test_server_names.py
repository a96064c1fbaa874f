"""Names of servers, which are looked up again and again."""

from __future__ import annotations

import asyncio
import socket

import fake_triton
from fake_triton import FakeTriton
from scripted import EMBED, GENERATE, MODELS, gateway, post

from atoll_client.gateway.core.names import Name, PageName, look_up


def test_servers_behind_a_name_join_and_leave() -> None:
    """A headless service: the address of a pod that ends vanishes, its requests are answered."""

    async def scenario() -> None:
        found = ["127.0.0.1"]

        async def resolve(host: str, port: int) -> list[str]:
            assert host == "triton.test"
            if not found:
                raise socket.gaierror("nobody answers")
            return list(found)

        async with FakeTriton(MODELS) as one, FakeTriton(MODELS, f"127.0.0.2:{one.port}") as two:
            name = f"triton.test:{one.port}"
            async with gateway(name, resolve=resolve, health_interval_s=0.05) as http:
                pool = http._transport.app.context.pool  # type: ignore[attr-defined]
                assert (await post(http, EMBED)).status_code == 200 and not two.calls
                found.append("127.0.0.2")
                await two.looked_at()
                assert [server.address for server in pool.servers] == [one.address, two.address]
                # One that is asked now leaves with its answer.
                release = asyncio.Event()

                async def slow(message: object) -> object:
                    await release.wait()
                    return await fake_triton.vectors(message)

                one.embed = two.embed = slow
                held = [asyncio.create_task(post(http, EMBED)) for _ in range(2)]
                while not (one.calls[1:] and two.calls):
                    await asyncio.sleep(0.01)
                found.remove("127.0.0.1")
                while [server.address for server in pool.leaving] != [one.address]:
                    await asyncio.sleep(0.01)
                one.calls.clear()
                assert (await post(http, GENERATE)).status_code == 200
                assert not one.calls and two.calls[-1] == "words"
                # Without an answer of the resolver, the servers stay.
                found.clear()
                await two.looked_at()
                release.set()
                answers = await asyncio.gather(*held)
                assert [answer.status_code for answer in answers] == [200, 200]
                while pool.leaving:
                    await asyncio.sleep(0.01)
                assert [server.address for server in pool.servers] == [two.address]

    asyncio.run(scenario())


def test_the_systems_resolver() -> None:
    async def scenario() -> None:
        assert "127.0.0.1" in await look_up("localhost", 80)
        async with FakeTriton(MODELS) as triton, gateway(f"localhost:{triton.port}") as http:
            assert (await post(http, EMBED)).status_code == 200

    asyncio.run(scenario())


def test_addresses_of_both_kinds() -> None:
    """Those of IPv6 are mostly the same servers again."""

    async def scenario() -> None:
        addresses = ["::2", "10.0.0.1", "::1", "10.0.0.2", "10.0.0.1"]

        async def resolve(host: str, port: int) -> list[str]:
            return addresses

        name = Name("triton:8001")
        assert name.targets(lambda _: True) == ()
        await name.look(resolve)
        fours, sixes = ("10.0.0.1:8001", "10.0.0.2:8001"), ("[::2]:8001", "[::1]:8001")
        assert name.targets(lambda address: address == "10.0.0.2:8001") == fours
        assert name.targets(lambda address: address == "[::1]:8001") == fours + sixes
        addresses[:] = ["::1"]
        await name.look(resolve)
        assert name.targets(lambda _: False) == ("[::1]:8001",)
        for target in ("10.0.0.1:8001", "[::1]:8001", "dns:///triton:8001", "unix:/run/a.sock"):
            literal = Name(target)
            await literal.look(resolve)
            assert literal.targets(lambda _: False) == (target,)

    asyncio.run(scenario())


def test_every_server_behind_a_name_has_a_metrics_page() -> None:
    async def scenario() -> None:
        addresses = ["10.0.0.1", "10.0.0.2", "::1"]

        async def resolve(host: str, port: int) -> list[str]:
            assert (host, port) == ("triton", 8002)
            return addresses

        url = "http://triton:8002/metrics?a=b"
        found = await PageName(url, 0.0).urls(resolve)
        assert found == [f"http://10.0.0.{n}:8002/metrics?a=b" for n in (1, 2)]
        addresses[1:] = []
        assert await PageName(url, 0.0).urls(resolve) == [url]
        for other in ("https://triton/metrics", "http://10.0.0.1/metrics", "http://[::1]:1/m"):
            assert await PageName(other, 0.0).urls(resolve) == [other]

    asyncio.run(scenario())
