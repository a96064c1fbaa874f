"""``atoll bench`` and ``atoll profile`` of models that score, by the server and by the gateway."""

from __future__ import annotations

import json
from typing import Any

import pytest
from gateways import Served
from typer.testing import CliRunner

from atoll.cli.app import app
from atoll.serving.triton import latency_breakdown


def _asked(*arguments: str) -> Any:
    found = CliRunner().invoke(app, [*arguments, "--json"], catch_exceptions=False)
    assert found.exit_code == 0, found.output
    return json.loads(found.stdout)


@pytest.mark.parametrize("task", ["rerank", "classify", "sparse", "token_classify", "multi_vector"])
def test_bench_of_models_that_score(scoring: Served, task: str) -> None:
    """perf_analyzer ended with an error about shapes."""
    load = ("bench", f"tiny-{task}", "--concurrency", "2", "--requests", "10", "--url")
    for scheme in ("", "grpc://"):
        found = _asked(*load, f"{scheme}{scoring.server.grpc_url}")
        assert found["task"] == task and found["rows"][0]["requests_per_s"] > 0
    over_gateway = _asked(*load, scoring.url)
    assert over_gateway["tool"] == "atoll_client"
    assert over_gateway["rows"][0]["requests_per_s"] > 0


@pytest.mark.parametrize("task", ["rerank", "classify", "sparse"])
def test_profile_by_the_gateway(scoring: Served, task: str) -> None:
    """Its own page of metrics has the models'."""
    found = _asked("profile", f"tiny-{task}", "--requests", "8", "--url", scoring.url)
    assert found["requests"] == 8
    assert list(found["parts_ms"]) == [*latency_breakdown.ENCODER, "outside"]
    assert sum(found["parts_ms"].values()) == pytest.approx(found["mean_ms"], rel=0.05)
    assert found["parts_ms"]["compute"] > 0
