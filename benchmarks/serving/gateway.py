"""What the gateway costs: added latency of a short embedding, requests per core, streamed tokens.

``python benchmarks/serving/gateway.py --out docs/benchmarks`` starts a server with the two embedded
models and a gateway, and writes ``gateway.json`` and ``gateway.md``. Rates are per second of
processor time of the measured process, so they depend neither on other processes nor on the model.
The gateway's parts are also measured alone: the ASGI server with a route that does nothing, and the
gRPC call; the rest is the gateway's own code.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[1]))

import psutil
from gateway_load import (
    EMBED,
    EMBEDDER,
    NUM_TOKENS,
    TEXT,
    grpc_call,
    latencies,
    requests_per_core,
    streams,
)
from harness.apart import Apart
from harness.measure import machine, versions

from atoll.launcher import ServerProcess, free_ports
from atoll.launcher.gateway import GatewayOptions, GatewayProcess

ROUNDS = 3


async def own_microseconds() -> float:
    """Processor time of the gateway's own code for one request, without sockets and a server.

    The minimum of many rounds.
    """
    from tritonclient.grpc import service_pb2 as pb

    from atoll_client.discovery import Found
    from atoll_client.gateway.core.app import Gateway
    from atoll_client.gateway.core.server import Server
    from atoll_client.gateway.core.settings import GatewaySettings
    from atoll_client.gateway.routes import ROUTES
    from atoll_client.types import ModelInfo

    answer = pb.ModelInferResponse()
    for name, datatype, size, data in (
        ("embedding", "FP32", 384, b"\0\0\0\x3d" * 384),
        ("num_input_tokens", "INT32", 1, b"\7\0\0\0"),
    ):
        answer.outputs.add(name=name, datatype=datatype, shape=[1, size])
        answer.raw_output_contents.append(data)

    class Instant(Server):
        async def unary(self, *given: Any) -> Any:
            return answer

    async def receive() -> Any:
        return {"type": "http.request", "body": EMBED, "more_body": False}

    async def send(message: Any) -> None:
        assert message.get("status", 200) == 200

    gateway, server = Gateway(GatewaySettings(), ROUTES), Instant("127.0.0.1:1")
    server.is_ready = True
    server.models = {
        EMBEDDER: Found(ModelInfo(EMBEDDER, "embed", {"dimensions": 384}), False, True)
    }
    gateway.context.pool.servers = [server]
    headers = [(b"host", b"localhost:8080"), (b"content-type", b"application/json")]
    scope = {"type": "http", "method": "POST", "path": "/embed", "headers": headers}
    spent = []
    for _ in range(50):
        before = time.process_time()
        for _ in range(100):
            await gateway(scope, receive, send)
        spent.append(1e4 * (time.process_time() - before))
    await server.close()
    return min(spent)


def serve_nothing(port: int) -> None:
    """The ASGI server as the gateway runs it, with a route that reads the body and responds."""
    import uvicorn

    answer = b"[" + b"0.0123456789," * 383 + b"0.0]"
    head = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(answer))]

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": head})
        await send({"type": "http.response.body", "body": answer})

    uvicorn.run(app, port=port, log_level="error", access_log=False, lifespan="off",
                server_header=False, date_header=False)  # fmt: skip


def grpc_calls(address: str, workers: int) -> Callable[[int], float]:
    """For a process of its own: calls per second of processor time, of a number of gRPC calls."""
    import uvloop

    async def work(count: int) -> float:
        call = await grpc_call(address)
        await asyncio.gather(*(call() for _ in range(workers)))

        async def some() -> None:
            for _ in range(count // workers):
                await call()

        before = time.process_time()
        await asyncio.gather(*(some() for _ in range(workers)))
        return count / (time.process_time() - before)

    return lambda count: uvloop.run(work(count))


@contextmanager
def nothing_served() -> Iterator[tuple[int, int]]:
    """Process and port of ``serve_nothing``."""
    port = free_ports(1)[0]
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=serve_nothing, args=(port,), daemon=True)
    process.start()
    try:
        while not any(c.laddr.port == port for c in _listening(process.pid)):
            time.sleep(0.1)
        yield process.pid, port
    finally:
        process.terminate()


async def measure(server: ServerProcess, port: int, pid: int, count: int) -> dict[str, Any]:
    """All figures."""
    address, workers = server.grpc_url, 16
    rates: dict[str, list[float]] = {"gateway, /embed": [], "ASGI server": [], "gRPC call": []}
    await requests_per_core(pid, port, "/embed", 200, workers)
    calls = Apart("gRPC call", grpc_calls, address, workers)
    with nothing_served() as (nothing, nothing_port), calls:
        for _ in range(ROUNDS):
            whole = await requests_per_core(pid, port, "/embed", count, workers)
            alone = await requests_per_core(nothing, nothing_port, "/", count, workers)
            call = await asyncio.to_thread(calls, count)
            for name, rate in zip(rates, (whole, alone, call), strict=True):
                rates[name].append(rate)
    found: dict[str, Any] = {"rates": rates, "own_us": await own_microseconds()}
    found["load"] = os.getloadavg()[0]
    found["latencies"] = await latencies(port, address, count // 4)
    found["streams"] = {n: await streams(port, address, n, ROUNDS) for n in (1, 8)}
    return found


def report(found: dict[str, Any]) -> str:
    """The page. Of each rate, the best round, which was disturbed the least."""
    rates = {name: max(rounds) for name, rounds in found["rates"].items()}
    limit = 1 / sum(1 / rate for name, rate in rates.items() if not name.startswith("gateway"))
    quarters = {n: statistics.quantiles(values, n=4) for n, values in found["latencies"].items()}
    lines = [
        "# The gateway's cost", "",
        f"{machine()}; {versions(['uvicorn', 'uvloop', 'grpcio', 'orjson', 'pydantic'])}",
        f"Load average while measuring: {found['load']:.0f}.",
        "", "`python benchmarks/serving/gateway.py --out docs/benchmarks`", "",
        f"## One short text (`{TEXT}`, 384 values), per second of processor time", "",
        "| | requests | microseconds each |", "|-|-|-|",
        *(f"| {name} | {rate:,.0f} | {1e6 / rate:,.0f} |" for name, rate in rates.items()),
        f"| gateway's own code, alone | {1e6 / found['own_us']:,.0f} | {found['own_us']:,.0f} |",
        "", f"ASGI server and gRPC call, each alone, add up to {limit:,.0f} requests per core:",
        "what the frameworks would allow a gateway that does nothing.", "",
        "## Latency, one at a time, in turns (ms)", "",
        "| | p25 | p50 | p75 |", "|-|-|-|-|",
        *(f"| {n} | {q[0]:.2f} | {q[1]:.2f} | {q[2]:.2f} |" for n, q in quarters.items()),
        f"| added | | {quarters['gateway'][1] - quarters['gRPC'][1]:.2f} | |", "",
        f"## Streamed tokens per second, {NUM_TOKENS} tokens each", "",
        "| streams at once | gRPC | gateway |", "|-|-|-|",
        *(f"| {n} | {r['gRPC']:.0f} | {r['gateway']:.0f} |" for n, r in found["streams"].items()),
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def _listening(pid: int) -> list[Any]:
    return [c for c in psutil.Process(pid).net_connections() if c.status == psutil.CONN_LISTEN]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, help="folder of gateway.json and gateway.md")
    parser.add_argument("--count", type=int, default=4000, help="requests of each measurement")
    given = parser.parse_args()
    with ServerProcess.embedded(watch_interval_s=0.0) as server:
        port = free_ports(1)[0]
        gateway = GatewayProcess(GatewayOptions(server.grpc_url, server.metrics_url, port=port))
        gateway.start()
        try:
            gateway.wait_ready()
            found = asyncio.run(measure(server, port, gateway.pid, given.count))
        finally:
            gateway.stop()
    text = report(found)
    print(text)
    if given.out:
        given.out.mkdir(parents=True, exist_ok=True)
        (given.out / "gateway.md").write_text(text)
        data = {"machine": machine(), **found}
        (given.out / "gateway.json").write_text(json.dumps(data, indent=1) + "\n")


if __name__ == "__main__":
    main()
