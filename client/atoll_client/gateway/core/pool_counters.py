"""What the gateway's own metrics tell of the servers: readiness, load, circuits, retries."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from prometheus_client import CollectorRegistry, Counter
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from atoll_client.gateway.core.server import Server


class PoolCounters(Collector):
    """Counters in ``registry``, and gauges of ``servers()`` as they are when the page is read."""

    def __init__(
        self, registry: CollectorRegistry, servers: Callable[[], Sequence[Server]]
    ) -> None:
        self._servers = servers
        self._retries = Counter(
            "atoll_gateway_retries_total", "requests sent to another server, by the error before",
            ["error"], registry=registry,
        )  # fmt: skip
        self._refused = Counter(
            "atoll_gateway_retries_refused_total", "retries for which the budget had no room",
            registry=registry,
        )  # fmt: skip
        self._affinity = Counter(
            "atoll_gateway_affinity_total",
            "generations among several servers: on the server of their prefix (hit), on another "
            "one because that was busy (moved), or without a preference (none)",
            ["outcome"], registry=registry,
        )  # fmt: skip
        self._outcomes = {
            name: self._affinity.labels(name) for name in ("hit", "moved", "none")
        }  # fmt: skip
        registry.register(self)

    def retried(self, error: str, has_room: bool) -> None:
        """A request failed that another server may take; whether the budget had room for it."""
        if has_room:
            self._retries.labels(error).inc()
        else:
            self._refused.inc()

    def placed(self, outcome: str) -> None:
        """A generation got its server; see ``Affinity.order``."""
        self._outcomes[outcome].inc()

    def describe(self) -> Iterable[Metric]:
        """Nothing is read while it is registered."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """The gauges."""
        servers = self._servers()
        ready = GaugeMetricFamily(
            "atoll_gateway_server_ready", "1: the server answers and has models", labels=["server"]
        )
        held = GaugeMetricFamily(
            "atoll_gateway_server_requests", "requests of this gateway that the server holds",
            labels=["server"],
        )  # fmt: skip
        circuits = GaugeMetricFamily(
            "atoll_gateway_circuit_state",
            "of a model that has failed on a server: 0 closed, 1 half-open, 2 open (no requests)",
            labels=["server", "model"],
        )
        for server in servers:
            ready.add_metric([server.address], float(server.is_ready))
            held.add_metric([server.address], server.num_outstanding)
            for model, circuit in server.circuits.items():
                circuits.add_metric([server.address, model], circuit.state)
        yield from (ready, held, circuits)
        yield from _of_generators(servers)


def _of_generators(servers: Sequence[Server]) -> Iterator[Metric]:
    """What llm-d's endpoint picker reads, with vLLM's names: it expects one generator in a pod."""
    has_several = len(servers) > 1
    cache: Metric = GaugeMetricFamily("vllm:cache_config_info", "the KV cache of a generator")
    adapters: Metric = GaugeMetricFamily(
        "vllm:lora_requests_info", "adapters of requests; the value is the time"
    )
    for server in servers:
        for name, found in server.models.items() if server.is_ready else ():
            facts = {**found.info.facts, **server.current.get(name, {})}
            labels = {"model_name": name}
            if has_several:
                labels["server"] = server.address
            if "num_blocks" in facts:
                size = {"block_size": facts["block_size"], "num_gpu_blocks": facts["num_blocks"]}
                cache.add_sample(cache.name, _texts(labels | size), 1.0)
            if facts.get("adapters"):
                used = {
                    "max_lora": facts.get("max_loras", len(facts["adapters"])),
                    "running_lora_adapters": ",".join(facts.get("running_adapters", ())),
                    "waiting_lora_adapters": ",".join(facts.get("waiting_adapters", ())),
                }
                adapters.add_sample(adapters.name, _texts(labels | used), time.time())
    yield from (cache, adapters)


def _texts(labels: Mapping[str, Any]) -> dict[str, str]:
    return {name: str(value) for name, value in labels.items()}
