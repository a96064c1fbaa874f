"""``/metrics``: the gateway's metrics, and those of the servers behind it.

The gateway's: TEI's ``te_*``, TGI's ``tgi_*``, and ``atoll_gateway_*`` for every route. The
servers' gauges and histograms are repeated with the names that vLLM, TGI and TEI have for them.
"""

from __future__ import annotations

import asyncio
import bisect
import re
import time
from collections.abc import Container, Sequence
from typing import Any

import httpx

from atoll_client.gateway.core.web import Request

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
# TEI's: from 15 microseconds, each 1.5 times the one before.
BUCKETS = tuple(1.5e-5 * 1.5**step for step in range(35))
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
_PREFIX = {"tei": "te", "tgi": "tgi"}
# Error types that TEI's and TGI's counters call differently.
_REASONS = {
    "te": {"empty": "validation", "backend": "model_type", "generation": "inference"},
    "tgi": {"empty": "validation", "backend": "generation", "incomplete_generation": "incomplete"},
}


class _Histogram:
    def __init__(self) -> None:
        self.counts = [0] * (len(BUCKETS) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect.bisect_left(BUCKETS, value)] += 1
        self.total += value

    def lines(self, name: str, labels: str) -> list[str]:
        found, running = [], 0
        for bound, count in zip((*BUCKETS, float("inf")), self.counts, strict=True):
            running += count
            limit = "+Inf" if bound == float("inf") else f"{bound:.6g}"
            found.append(f'{name}_bucket{{{labels}{"," if labels else ""}le="{limit}"}} {running}')
        braces = f"{{{labels}}}" if labels else ""
        return [*found, f"{name}_sum{braces} {self.total}", f"{name}_count{braces} {running}"]


class Metrics:
    """Metrics of one gateway process. ``urls``: the servers' metrics pages."""

    def __init__(self, urls: Sequence[str]) -> None:
        self._urls = urls
        self._counts: dict[tuple[str, str], int] = {}
        self._seconds: dict[tuple[str, str], _Histogram] = {}
        self._client: httpx.AsyncClient | None = None

    def finished(self, request: Request, status: int) -> None:
        """Counts a request that has ended; status 499: its client has disconnected."""
        if not request.route or request.is_public:
            return
        seconds = time.perf_counter() - request.started
        path = f'path="{request.route}"'
        self._count("atoll_gateway_requests_total", f'{path},status="{status}"')
        self._observe("atoll_gateway_request_seconds", path, seconds)
        prefix = _PREFIX.get(request.labels.get("kind", request.dialect))
        if prefix is None:
            return
        method = f'method="{request.labels.get("method", "single")}"'
        self._count(f"{prefix}_request_count", method)
        if status == 200 and "error" not in request.labels:
            self._count(f"{prefix}_request_success", method)
            self._observe(f"{prefix}_request_duration", "", seconds)
        else:
            reason = "dropped" if status == 499 else _reason(request, prefix)
            self._count(f"{prefix}_request_failure", f'err="{reason}"')

    async def page(self) -> bytes:
        """The page in Prometheus' text format."""
        pages = await asyncio.gather(*(self._fetch(url) for url in self._urls))
        lines = self._own()
        for url, page in zip(self._urls, pages, strict=True):
            lines += _merged(page, url if len(self._urls) > 1 else None)
        return ("\n".join(_grouped(lines)) + "\n").encode()

    async def close(self) -> None:
        """Ends the connections to the servers."""
        if self._client is not None:
            await self._client.aclose()

    def _count(self, name: str, labels: str) -> None:
        key = (name, labels)
        self._counts[key] = self._counts.get(key, 0) + 1

    def _observe(self, name: str, labels: str, value: float) -> None:
        key = (name, labels)
        histogram = self._seconds.get(key)
        if histogram is None:
            histogram = self._seconds[key] = _Histogram()
        histogram.observe(value)

    def _own(self) -> list[str]:
        lines = []
        for (name, labels), value in self._counts.items():
            lines += [f"# TYPE {name} counter", f"{name}{{{labels}}} {value}"]
        for (name, labels), histogram in self._seconds.items():
            lines += [f"# TYPE {name} histogram", *histogram.lines(name, labels)]
        return lines

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
