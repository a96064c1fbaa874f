"""NVIDIA's perf_analyzer, unmodified, drives an encoder and a generator."""

from __future__ import annotations

import json

import pytest

from atoll.errors import ConfigError
from atoll.launcher import ServerProcess
from atoll.launcher.perf_analyzer import PerfAnalyzer


@pytest.fixture(scope="module")
def analyzer() -> PerfAnalyzer:
    try:
        return PerfAnalyzer.find()
    except ConfigError as error:
        pytest.skip(str(error))


def test_encoder(embedded_server: ServerProcess, analyzer: PerfAnalyzer) -> None:
    rows = [{"text_input": [text]} for text in ("An atoll is a ring", "of coral")]
    load = analyzer.run(
        embedded_server.grpc_url, "all-minilm-l6-v2", rows, concurrency=4, requests=40
    )
    assert len(load.latencies_s) == load.responses >= 40
    assert 0 < load.p50_ms <= load.p99_ms
    assert load.requests_per_s > 0


def test_generator(embedded_server: ServerProcess, analyzer: PerfAnalyzer) -> None:
    sampling = json.dumps({"max_tokens": 24, "ignore_eos": True})
    row = {"text_input": ["An atoll is"], "stream": [True], "sampling_parameters": [sampling]}
    load = analyzer.run(
        embedded_server.grpc_url, "smollm2-135m-instruct", [row], concurrency=2, requests=8,
        streaming=True,
    )  # fmt: skip
    assert len(load.latencies_s) >= 8
    # Streamed: several responses a request, the first of them before the last. On a busy machine,
    # one response may have all tokens of a request.
    assert load.responses > len(load.latencies_s)
    assert any(f < e for f, e in zip(load.first_s, load.latencies_s, strict=True))


def test_unknown_model_says_what_perf_analyzer_said(
    embedded_server: ServerProcess, analyzer: PerfAnalyzer
) -> None:
    with pytest.raises(ConfigError, match="nonesuch"):
        analyzer.run(embedded_server.grpc_url, "nonesuch", [{"text_input": ["x"]}], requests=1)
