"""What dashboards, alerts and autoscalers ask for is on the page of a real server."""

from __future__ import annotations

import re

import httpx
import pytest
from watching import expressions, labels_of, metrics_of

# What Prometheus adds to each series.
_OF_SCRAPES = {"job", "instance"}
# What the endpoint picker of llm-d's router reads by default, and the chart's ScaledObject and HPA.
_OF_ROUTERS = {
    "vllm:num_requests_waiting", "vllm:num_requests_running", "vllm:kv_cache_usage_perc",
    "atoll_gateway_requests_total",
}  # fmt: skip


@pytest.fixture(scope="module")
def series(http: httpx.Client) -> dict[str, set[str]]:
    """Labels by name of the series, after each kind of request."""
    http.post("/embed", json={"inputs": "a"})
    http.post("/generate", json={"inputs": "a", "parameters": {"max_new_tokens": 2}})
    found: dict[str, set[str]] = {}
    for line in http.get("/metrics").text.splitlines():
        if not line.startswith("#"):
            name, labels = re.match(r"([\w:]+)(\{.*\})?", line).groups()  # type: ignore[union-attr]
            found.setdefault(name, set()).update(re.findall(r'(\w+)="', labels or ""))
    return found


@pytest.mark.parametrize("place", expressions())
def test_dashboard_and_alerts_name_what_exists(place: str, series: dict[str, set[str]]) -> None:
    expression = expressions()[place]
    names = metrics_of(expression)
    assert names or expression.startswith("up{")
    assert names <= set(series), names - set(series)
    known = _OF_SCRAPES.union(*(series[name] for name in names))
    assert labels_of(expression) <= known, labels_of(expression) - known


def test_routers_and_autoscalers_find_what_they_read(series: dict[str, set[str]]) -> None:
    assert set(series) >= _OF_ROUTERS
