"""What handlers share: settings, servers, models, counters. It is made once and never changed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from prometheus_client import CollectorRegistry

from atoll_client.gateway.batches.store import Batches
from atoll_client.gateway.core.admission import Admission
from atoll_client.gateway.core.client_limits import ClientLimits
from atoll_client.gateway.core.clients import Clients
from atoll_client.gateway.core.headers import Keys
from atoll_client.gateway.core.metrics import Metrics
from atoll_client.gateway.core.models import Models
from atoll_client.gateway.core.open_requests import OpenRequests
from atoll_client.gateway.core.pool import Pool
from atoll_client.gateway.core.request_log import RequestLog
from atoll_client.gateway.core.route import Route
from atoll_client.gateway.core.settings import GatewaySettings, listed
from atoll_client.gateway.core.sleepers import Sleepers
from atoll_client.gateway.core.tracing import Tracer
from atoll_client.gateway.core.web import Request
from atoll_client.gateway.kserve.upstream import Upstream
from atoll_client.gateway.responses.store import Store
from atoll_client.types import ModelInfo


@dataclass(frozen=True)
class Context:
    """What a handler needs besides its request.

    routes: all routes, for OpenAPI. pool: the servers, for Atoll's models. upstream: the servers,
    for models of any kind. stored: what /v1/responses stores. batches: files and batches.
    """

    settings: GatewaySettings
    routes: tuple[Route, ...]
    pool: Pool
    sleepers: Sleepers
    upstream: Upstream
    models: Models
    admission: Admission
    open_requests: OpenRequests
    keys: Keys
    clients: Clients
    client_limits: ClientLimits
    metrics: Metrics
    tracer: Tracer
    request_log: RequestLog
    stored: Store
    batches: Batches

    @classmethod
    def of(cls, settings: GatewaySettings, routes: tuple[Route, ...]) -> Context:
        """A context for these settings, which is not connected yet."""
        registry, keys = CollectorRegistry(), Keys(settings.api_key)
        pool = Pool(settings, registry)
        models = Models(pool, listed(settings.default_model))
        return cls(
            settings,
            routes,
            pool,
            Sleepers(pool, settings.admin_socket, settings.load_wait_s),
            Upstream(pool, settings.health_interval_s),
            models,
            Admission(settings, models),
            OpenRequests(),
            keys,
            Clients(keys, settings.trusted_proxies),
            ClientLimits(settings),
            Metrics(listed(settings.metrics_url), registry),
            Tracer(settings.otlp_endpoint, settings.otlp_service_name),
            RequestLog(settings.request_log_format),
            Store(
                settings.max_stored_responses, settings.max_stored_bytes, settings.stored_response_s
            ),
            Batches(settings),
        )

    def find(self, request: Request, named: str | None, kinds: Sequence[str]) -> ModelInfo:
        """The model of a request by path, ``model`` field or task.

        Raises:
            Asleep: it has to be loaded first. As ``Models.find``.
        """
        for name in (request.model, named):
            self.pool.check_awake(name)
        model = self.models.find((request.model, named), kinds)
        self.pool.check_awake(model.name)
        request.labels["model"] = model.name
        return model

    async def close(self) -> None:
        """Closes the connections to the servers and to the trace collector."""
        await self.pool.stop()
        await self.metrics.close()
        await self.tracer.close()
