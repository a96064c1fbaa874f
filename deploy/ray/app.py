"""Atoll under Ray Serve: ``serve run config.yaml``, or a RayService, with ``app:build``.

Each replica starts ``atoll serve`` and passes HTTP through to its gateway, streams included; what
Ray is for is where replicas run and how many. A model over several machines is one replica whose
placement group has a bundle for each machine: the replica has the first, and an actor in each other
one runs ``atoll worker``. Needs ``ray[serve]``; ``program`` may be of another environment.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import quote

import aiohttp
import ray
from child import Child, free_ports
from pydantic import BaseModel, ConfigDict, Field, model_validator
from ray import serve
from ray.serve import Application
from ray.util import get_node_ip_address
from ray.util.placement_group import get_current_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from yarl import URL

# Of a connection, not of a message (RFC 9110), and what the next hop says by itself.
_OF_HOPS = {
    "connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "te", "trailer",
    "transfer-encoding", "upgrade", "host",
}  # fmt: skip
# Ray's proxy answers with it, too.
_RAYS = {"x-request-id"}
_KEY = "ATOLL_SHARD_KEY"


class Options(BaseModel):
    """What can be said in the application's ``args``.

    models: as for ``--model-id``. settings: of docs/settings.md. cpus, gpus: of each machine.
    nodes: machines that hold one model together. num_shard: 0 is all their GPUs.
    """

    model_config = ConfigDict(extra="forbid")

    models: list[str] = Field(min_length=1)
    settings: dict[str, str | int | float | bool] = {}
    environment: dict[str, str] = {}
    program: str = "atoll"
    server: str = ""
    cpus: float = Field(2, gt=0)
    gpus: int = Field(0, ge=0)
    nodes: int = Field(1, ge=1)
    num_shard: int = Field(0, ge=0)
    replicas: int = Field(1, ge=1)
    # In place of ``replicas``: Ray's own, such as {"min_replicas": 1, "max_replicas": 4}.
    autoscaling: dict[str, Any] | None = None
    # Ray's default of 5 would leave a batch of generated answers nearly empty.
    max_ongoing_requests: int = Field(512, ge=1)
    startup_timeout_s: float = Field(900, gt=0)
    exit_timeout_s: int = Field(30, ge=1)

    @model_validator(mode="after")
    def _check(self) -> Options:
        if self.nodes > 1 and (len(self.models) > 1 or self.shards % self.nodes):
            raise ValueError(
                f"nodes is {self.nodes}: it needs one model, and num_shard (now {self.shards}) "
                "must be a multiple"
            )
        return self

    @property
    def shards(self) -> int:
        """Ranks of a model."""
        return self.num_shard or max(1, self.gpus * self.nodes)

    @property
    def variables(self) -> dict[str, str]:
        """The child's, besides those of the replica."""
        settings = {
            f"ATOLL_{name.upper()}": str(value).lower() if isinstance(value, bool) else str(value)
            for name, value in self.settings.items()
        }
        return {**settings, **self.environment}

    @property
    def bundle(self) -> dict[str, float]:
        """What Ray reserves on each machine."""
        return {"CPU": self.cpus, **({"GPU": self.gpus} if self.gpus else {})}


def build(arguments: dict[str, Any]) -> Application:
    """The application, for ``serve run`` and for serveConfigV2 of a RayService: see ``Options``."""
    options = Options(**arguments)
    deployment = Replica.options(
        num_replicas=None if options.autoscaling else options.replicas,
        autoscaling_config=options.autoscaling,
        max_ongoing_requests=options.max_ongoing_requests,
        # The replica is in the first bundle, and its child with it.
        placement_group_bundles=[options.bundle] * options.nodes,
        placement_group_strategy="PACK",
        ray_actor_options={"num_cpus": options.cpus, "num_gpus": options.gpus},
        graceful_shutdown_timeout_s=2 * options.exit_timeout_s + 20,
        health_check_period_s=5,
        health_check_timeout_s=10,
    )
    return deployment.bind(options.model_dump())


@ray.remote
class Worker:
    """Runs the ranks of a further machine, until the replica that has it ends."""

    def __init__(self, command: list[str], environment: dict[str, str]) -> None:
        self._child = Child(command, environment)


@serve.deployment
class Replica:
    """One ``atoll serve``."""

    def __init__(self, options: dict[str, Any]) -> None:
        self._options = Options(**options)
        self._session: aiohttp.ClientSession | None = None
        port, http, grpc, metrics, shards = free_ports(5)
        self._url = f"http://127.0.0.1:{port}"
        found = self._options
        flags: dict[str, Any] = {
            "port": port, "gateway-grpc-port": 0, "http-port": http, "grpc-port": grpc,
            "metrics-port": metrics, "exit-timeout": found.exit_timeout_s,
            "startup-timeout": found.startup_timeout_s,
        }  # fmt: skip
        if found.server:
            flags["server"] = found.server
        if found.shards > 1:
            flags |= {
                "num-shard": found.shards, "num-nodes": found.nodes, "shard-port": shards,
            }  # fmt: skip
        command = [found.program, "serve", *(f"--model-id={model}" for model in found.models)]
        command += [f"--{name}={value}" for name, value in flags.items()]
        # Only this replica's ranks have to know it.
        environment = {**found.variables, _KEY: secrets.token_hex(16)}
        self._workers = [
            self._worker(index, shards, environment) for index in range(1, found.nodes)
        ]
        self._child = Child(command, environment)
        self._child.wait_ready(f"{self._url}/health", found.startup_timeout_s)

    async def __call__(self, request: Request) -> Response:
        """Passes a request on, and its answer back as it comes.

        If the client goes, Ray cancels this, the connection to the gateway ends, and Atoll ends the
        request.
        """
        headers = [(k, v) for k, v in request.headers.items() if k.lower() not in _OF_HOPS]
        try:
            answer = await self._client().request(
                request.method, self._target(request), headers=headers,
                data=await request.body(), allow_redirects=False,
            )  # fmt: skip
        except aiohttp.ClientConnectionError as error:
            return Response(str(error), 503, {"retry-after": "1"})
        passed = StreamingResponse(_pieces(answer), answer.status)
        passed.raw_headers = [
            (name.lower(), value)
            for name, value in answer.raw_headers
            if name.decode("latin-1").lower() not in _OF_HOPS | _RAYS
        ]
        return passed

    async def check_health(self) -> None:
        """Raises if the server is not ready; Ray then replaces the replica."""
        timeout = aiohttp.ClientTimeout(total=8)
        async with self._client().get(f"{self._url}/health", timeout=timeout) as answer:
            answer.raise_for_status()

    async def __del__(self) -> None:
        """Ray has let the requests end."""
        if self._session is not None:
            await self._session.close()
        self._child.stop(2 * self._options.exit_timeout_s + 15)

    def _target(self, request: Request) -> URL:
        """The address at the gateway: as it came, without the application's route prefix."""
        scope = request.scope
        path = scope.get("raw_path") or quote(scope["path"]).encode()
        prefix = quote(scope.get("root_path", "")).encode()
        query = b"?" + scope["query_string"] if scope["query_string"] else b""
        return URL(self._url + (path.removeprefix(prefix) + query).decode("ascii"), encoded=True)

    def _client(self) -> aiohttp.ClientSession:
        # Made in the event loop of the requests.
        if self._session is None:
            self._session = aiohttp.ClientSession(
                auto_decompress=False,
                timeout=aiohttp.ClientTimeout(total=None),
                connector=aiohttp.TCPConnector(limit=0),
            )
        return self._session

    def _worker(self, index: int, port: int, environment: dict[str, str]) -> Any:
        found = self._options
        command = [
            found.program, "worker", f"--leader={get_node_ip_address()}:{port}",
            f"--num-shard={found.shards}", f"--num-nodes={found.nodes}",
            f"--rank={index * found.shards // found.nodes}",
        ]  # fmt: skip
        place = PlacementGroupSchedulingStrategy(
            get_current_placement_group(), placement_group_bundle_index=index
        )
        return Worker.options(
            num_cpus=found.cpus, num_gpus=found.gpus, scheduling_strategy=place
        ).remote(command, environment)


async def _pieces(answer: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    try:
        async for piece in answer.content.iter_any():
            yield piece
    finally:
        answer.close()
