"""Commands that ask a running server, against a real one."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from atoll.cli.app import app
from atoll.errors import ConfigError
from atoll.launcher import ServerProcess
from atoll.serving.triton import latency_breakdown

EMBEDDER, GENERATOR = "all-minilm-l6-v2", "smollm2-135m-instruct"
PROMPT = "The capital of France is"


def atoll(server: ServerProcess, *arguments: str, typed: str | None = None) -> str:
    """What the command prints; raises what it raises."""
    environment = {"ATOLL_URL": server.grpc_url, "COLUMNS": "160"}
    found = CliRunner().invoke(app, arguments, typed, catch_exceptions=False, env=environment)
    assert found.exit_code == 0, found.output
    return found.stdout


def as_json(server: ServerProcess, *arguments: str, typed: str | None = None) -> Any:
    return json.loads(atoll(server, *arguments, "--json", typed=typed))


def test_infer_embeds_and_generates(embedded_server: ServerProcess) -> None:
    found = as_json(embedded_server, "infer", EMBEDDER, typed="one text\nanother\n")
    assert [row["text"] for row in found["results"]] == ["one text", "another"]
    vector = found["results"][0]["embedding"]
    assert len(vector) == 384 and sum(v * v for v in vector) == pytest.approx(1.0, abs=1e-3)
    shown = atoll(embedded_server, "infer", EMBEDDER, "--text", "one text")
    assert f"{vector[0]:.4f}" in shown and "384 numbers" in shown
    asked = ("infer", GENERATOR, "--text", PROMPT, "--max-tokens", "2")
    answer = as_json(embedded_server, *asked)["results"][0]["answer"]
    assert answer.startswith(" Paris")
    assert atoll(embedded_server, *asked) == answer + "\n"
    over_http = as_json(embedded_server, *asked, "--url", embedded_server.http_url)
    assert over_http["results"][0]["answer"] == answer


def test_chat_remembers(embedded_server: ServerProcess) -> None:
    asked = ("chat", GENERATOR, "--max-tokens", "8", "--system", "Be brief.")
    found = as_json(embedded_server, *asked, typed="Say hello.\n\nAgain.\n")
    roles = [message["role"] for message in found]
    assert roles == ["system", "user", "assistant", "user", "assistant"]
    assert found[1]["content"] == "Say hello." and found[2]["content"]
    assert atoll(embedded_server, *asked, typed="Say hello.\n") == found[2]["content"] + "\n"
    with pytest.raises(ConfigError, match="no generator"):
        atoll(embedded_server, "chat", EMBEDDER, typed="Hello\n")


@pytest.mark.parametrize("model", [EMBEDDER, GENERATOR])
def test_bench_over_http(embedded_server: ServerProcess, model: str) -> None:
    """An http:// address was taken for the name of a host."""
    for url in (embedded_server.http_url, embedded_server.http_url.upper() + "/"):
        found = as_json(
            embedded_server, "bench", model, "--url", url, "--concurrency", "2",
            "--requests", "4", "--max-tokens", "4",
        )  # fmt: skip
        assert found["tool"] == "atoll_client" and found["rows"][0]["requests_per_s"] > 0


@pytest.mark.parametrize("model", [EMBEDDER, GENERATOR])
def test_bench_with_our_own_load(embedded_server: ServerProcess, model: str) -> None:
    found = as_json(
        embedded_server, "bench", model, "--own-load", "--concurrency", "1,3",
        "--requests", "6", "--max-tokens", "4",
    )  # fmt: skip
    assert found["tool"] == "atoll_client"
    assert [row["concurrency"] for row in found["rows"]] == [1, 3]
    for row in found["rows"]:
        assert 0 < row["p50_ms"] <= row["p99_ms"] and row["requests_per_s"] > 0
        if model == GENERATOR:
            assert row["tokens_per_s"] == pytest.approx(4 * row["requests_per_s"])
            assert 0 < row["first_p50_ms"] <= row["p50_ms"]


def test_bench_prints_a_table_and_draws(embedded_server: ServerProcess, tmp_path: Path) -> None:
    if importlib.util.find_spec("matplotlib") is None:
        pytest.skip("matplotlib is not installed")
    plot = tmp_path / "plot.svg"
    # perf_analyzer where it is there, and Atoll's client where it is not.
    shown = atoll(
        embedded_server, "bench", EMBEDDER, "--concurrency", "2", "--requests", "20",
        "--plot", str(plot),
    )  # fmt: skip
    assert "requests/s" in shown and "p99 ms" in shown and EMBEDDER in shown
    assert plot.read_text().lstrip().startswith("<?xml") and "</svg>" in plot.read_text()


@pytest.mark.parametrize("model", [EMBEDDER, GENERATOR])
def test_profile_says_where_the_time_goes(embedded_server: ServerProcess, model: str) -> None:
    """By Triton's durations, which end when the model has taken a request, all was the network."""
    asked = (
        "profile", model, "--requests", "12", "--max-tokens", "6",
        "--metrics-url", embedded_server.metrics_url,
    )  # fmt: skip
    found = as_json(embedded_server, *asked)
    assert found["requests"] == 12 and found["batches"] >= 1
    spent = found["parts_ms"]
    table = latency_breakdown.GENERATE if model == GENERATOR else latency_breakdown.ENCODER
    assert list(spent) == [*table, "outside"]
    assert all(ms >= 0 for ms in spent.values())
    assert sum(spent.values()) == pytest.approx(found["mean_ms"], rel=0.05)
    # Answers are computed, and that takes longer than to hand them over.
    computed = spent["first_token"] + spent["decode"] if model == GENERATOR else spent["compute"]
    assert computed > spent["send"] > 0
    shown = atoll(embedded_server, *asked, "--url", embedded_server.http_url)
    assert "tokenize" in shown and "outside" in shown and "12 requests in" in shown


def test_profile_says_where_it_looked(embedded_server: ServerProcess) -> None:
    with pytest.raises(ConfigError, match="--metrics-url has to say"):
        atoll(embedded_server, "profile", EMBEDDER, "--metrics-url", "http://127.0.0.1:1/metrics")


def test_unknown_model_names_the_served(embedded_server: ServerProcess) -> None:
    for verb in ("bench", "profile"):
        with pytest.raises(ConfigError, match=EMBEDDER):
            atoll(embedded_server, verb, "nonesuch")
