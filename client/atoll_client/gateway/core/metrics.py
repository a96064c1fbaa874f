"""``/metrics``: the gateway's metrics, and those of the servers behind it.

The gateway's: TEI's ``te_*``, TGI's ``tgi_*``, and ``atoll_gateway_*`` for every route. The
servers' gauges and histograms are repeated with the names that vLLM, TGI and TEI have for them.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Container, Iterable, Sequence
from typing import Any

import httpx
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest

from atoll_client.gateway.core.names import PageName, Resolve, look_up
from atoll_client.gateway.core.web import Request

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
# TEI's: from 15 microseconds, each 1.5 times the one before, with six digits.
BUCKETS = tuple(float(f"{1.5e-5 * 1.5**step:.6g}") for step in range(35))
# A server's metric -> its other names.
ALIASES = {
    "atoll_requests_running": ("vllm:num_requests_running", "tgi_batch_current_size"),
    "atoll_requests_waiting": ("vllm:num_requests_waiting", "tgi_queue_size"),
    "atoll_kv_usage": ("vllm:kv_cache_usage_perc",),
    "atoll_prompt_tokens_total": ("vllm:prompt_tokens_total",),
    "atoll_output_tokens_total": ("vllm:generation_tokens_total",),
    "atoll_time_to_first_token_seconds": ("vllm:time_to_first_token_seconds",),
    "atoll_time_per_output_token_seconds": (
        "vllm:time_per_output_token_seconds", "tgi_request_mean_time_per_token_duration",
    ),
    "atoll_request_seconds": ("vllm:e2e_request_latency_seconds",),
    "atoll_queue_seconds": (
        "tgi_request_queue_duration", "te_request_queue_duration",
        "vllm:request_queue_time_seconds",
    ),
    "atoll_input_tokens": ("tgi_request_input_length",),
    "atoll_generated_tokens": ("tgi_request_generated_tokens",),
    "atoll_inference_seconds": ("te_request_inference_duration",),
    "atoll_batch_tokens": ("te_batch_next_tokens",),
}  # fmt: skip
_NAME = re.compile(r"(?:# (?:HELP|TYPE) )?([\w:]+)")
# Pages may be read every 50 ms; names change less often.
_KEPT_S = 2.0
_PREFIX = {"tei": "te", "tgi": "tgi"}
_HELP = {
    "atoll_gateway_requests_total": "requests that have ended",
    "atoll_gateway_request_seconds": "seconds from a request to the end of its answer",
    "request_count": "requests",
    "request_success": "requests that were answered",
    "request_failure": "requests that were not",
    "request_duration": "seconds of requests that were answered",
}
# TEI's and TGI's counters have no suffix, which prometheus_client gives to all.
_NAMELESS = ("te_request_", "tgi_request_")
_SUFFIX = re.compile(r"^((?:# (?:HELP|TYPE) )?[a-z_]+)_total(?=[ {])")
# Error types that TEI's and TGI's counters call differently.
_REASONS = {
    "te": {"empty": "validation", "backend": "model_type", "generation": "inference"},
    "tgi": {"empty": "validation", "backend": "generation", "incomplete_generation": "incomplete"},
}


_Parts = tuple[list[Callable[[], None]], list[Callable[[float], None]]]


class Metrics:
    """Metrics of one gateway process. ``urls``: the servers' metrics pages, whose names are looked
    up as ``resolve`` does.

    Counters and histograms are in ``registry``. Those of one kind of request are looked up once:
    prometheus_client takes longer to find them than to count.
    """

    def __init__(
        self, urls: Sequence[str], registry: CollectorRegistry, resolve: Resolve = look_up
    ) -> None:
        self._pages, self._registry = [PageName(url, _KEPT_S) for url in urls], registry
        self.resolve = resolve
        self._client: httpx.AsyncClient | None = None
        self._metrics: dict[str, Any] = {}
        self._parts: dict[tuple[str, int, str, str, str], _Parts] = {}
        # Each gives lines of its own for the page.
        self.sources: list[Callable[[], Iterable[str]]] = []

    def finished(self, request: Request, status: int) -> None:
        """Counts a request that has ended; status 499: its client has disconnected."""
        path, labels = request.route, request.labels
        if not path or request.is_public:
            return
        seconds = time.perf_counter() - request.started
        prefix, reason = _PREFIX.get(labels.get("kind", request.dialect), ""), ""
        if prefix and (status != 200 or "error" in labels):
            reason = "dropped" if status == 499 else _reason(request, prefix)
        key = (path, status, prefix, labels.get("method", "single"), reason)
        parts = self._parts.get(key)
        if parts is None:
            parts = self._parts[key] = self._parts_of(*key)
        counts, times = parts
        for count in counts:
            count()
        for observe in times:
            observe(seconds)

    async def page(self) -> bytes:
        """The page in Prometheus' text format."""
        found = await asyncio.gather(*(page.urls(self.resolve) for page in self._pages))
        urls = [url for some in found for url in some]
        pages = await asyncio.gather(*(self._fetch(url) for url in urls))
        lines = self._own()
        for url, page in zip(urls, pages, strict=True):
            lines += _merged(page, url if len(urls) > 1 else None)
        return ("\n".join(_grouped(lines)) + "\n").encode()

    async def close(self) -> None:
        """Ends the connections to the servers."""
        if self._client is not None:
            await self._client.aclose()

    def _parts_of(self, path: str, status: int, prefix: str, method: str, reason: str) -> _Parts:
        """What counts requests of one kind. reason: why they failed; "": they did not."""
        counts = [
            self._metric(Counter, "atoll_gateway_requests_total", path=path, status=str(status))
        ]
        times = [self._metric(Histogram, "atoll_gateway_request_seconds", path=path)]
        if prefix:
            counts.append(self._metric(Counter, f"{prefix}_request_count", method=method))
        if reason:
            counts.append(self._metric(Counter, f"{prefix}_request_failure", err=reason))
        elif prefix:
            counts.append(self._metric(Counter, f"{prefix}_request_success", method=method))
            times.append(self._metric(Histogram, f"{prefix}_request_duration"))
        return [one.inc for one in counts], [one.observe for one in times]

    def _metric(self, kind: Any, name: str, **labels: str) -> Any:
        found = self._metrics.get(name)
        if found is None:
            text = _HELP[name if name in _HELP else name.partition("_")[2]]
            rest = {"buckets": BUCKETS} if kind is Histogram else {}
            found = kind(name, text, tuple(labels), registry=self._registry, **rest)
            self._metrics[name] = found
        return found.labels(**labels) if labels else found

    def _own(self) -> list[str]:
        found = []
        for line in generate_latest(self._registry).decode().splitlines():
            match = _NAME.match(line)
            # When a counter began is no metric of TEI, TGI or vLLM, but a series for each.
            if match is not None and not match[1].endswith("_created"):
                found.append(_SUFFIX.sub(r"\1", line) if match[1].startswith(_NAMELESS) else line)
        return found + [line for source in self.sources for line in source()]

    async def _fetch(self, url: str) -> str:
        if self._client is None:
            self._client = httpx.AsyncClient(timeout=2.0)
        try:
            response = await self._client.get(url)
            return response.text if response.status_code == 200 else ""
        except httpx.HTTPError:
            # The gateway's own metrics are shown even if a server is down.
            return ""


def _reason(request: Request, prefix: str) -> str:
    """Why a request failed. TEI counts batches that are too large separately."""
    if prefix == "te" and "failure" in request.labels:
        return request.labels["failure"]
    kind = request.labels.get("error", "generation")
    return _REASONS[prefix].get(kind, kind)


def _merged(page: str, server: str | None) -> list[str]:
    """A server's lines, repeated with their other names; ``server`` becomes a label."""
    lines = []
    for line in page.splitlines():
        if not line:
            continue
        if server is not None and not line.startswith("#"):
            line = _labelled(line, server)
        lines.append(line)
        name = _metric(line, ALIASES)
        lines += [_renamed(line, name, other) for other in ALIASES.get(name, ())]
    return lines


def _metric(line: str, known: Container[str]) -> str:
    """The metric of a line, a histogram's without its suffix; "" if it is not a known one."""
    match = _NAME.match(line)
    name = match[1] if match else ""
    names = (name, *(name.removesuffix(end) for end in ("_bucket", "_sum", "_count")))
    return next((one for one in names if one in known), "")


def _renamed(line: str, name: str, other: str) -> str:
    """vLLM's metrics call the label model_name."""
    renamed = line.replace(name, other, 1)
    return renamed.replace('{model="', '{model_name="') if other.startswith("vllm") else renamed


def _labelled(line: str, server: str) -> str:
    name, _, rest = line.partition("{")
    if rest:
        return f'{name}{{server="{server}",{rest}'
    name, _, value = line.partition(" ")
    return f'{name}{{server="{server}"}} {value}'


def _grouped(lines: Sequence[str]) -> list[str]:
    """The lines of each metric together, with one header, as the format demands."""
    groups: dict[str, list[Any]] = {}
    current = ""
    for line in lines:
        if line.startswith("# "):
            current = line.split(" ", 3)[2]
            group = groups.setdefault(current, [])
            if line.startswith("# HELP") and line not in group:
                group.insert(0, line)
            elif line.startswith("# TYPE") and line not in group:
                group.append(line)
            continue
        groups.setdefault(_metric(line, groups) or current, []).append(line)
    return [line for group in groups.values() for line in group]
