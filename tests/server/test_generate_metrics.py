"""What a generator's requests leave on /metrics."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from typing import Any

import pytest
from measured import Page, settled

from atoll.launcher import ServerProcess
from atoll.serving.triton import latency_breakdown

MODEL = "smollm2-135m-instruct"


def generate(server: ServerProcess, **body: Any) -> dict[str, Any]:
    """The answer to a request without sampling."""
    url = f"{server.http_url}/v2/models/{MODEL}/generate"
    asked = {"temperature": 0, "ignore_eos": True, **body}
    request = urllib.request.Request(url, json.dumps(asked).encode())
    with urllib.request.urlopen(request, timeout=60) as response:
        found: dict[str, Any] = json.loads(response.read())
    return found


def grown(before: Page, after: Page) -> Page:
    """What has changed since, seconds left out."""
    found = {name: value - before.get(name, 0.0) for name, value in after.items()}
    return {k: v for k, v in found.items() if v and not k.endswith("_seconds_sum")}


def test_every_request_and_token_is_counted_once(embedded_server: ServerProcess) -> None:
    generate(embedded_server, text_input="So that every metric is there", max_tokens=2)
    before = settled(embedded_server, MODEL)
    returned = {"return_num_input_tokens": True, "return_finish_reason": True}
    answers = [
        generate(embedded_server, text_input=text, max_tokens=5, **returned)
        for text in ("An atoll", "A ring of coral around a lagoon")
    ]
    assert [answer["finish_reason"] for answer in answers] == ["length"] * 2
    num_prompt_tokens = sum(answer["num_input_tokens"] for answer in answers)
    after = settled(embedded_server, MODEL)
    spent = [
        after[name] - before[name]
        for name in map(latency_breakdown.counter, latency_breakdown.GENERATE)
    ]
    assert min(spent) > 0
    # To the last token, which is all but the last part.
    request = after["atoll_request_seconds_sum"] - before["atoll_request_seconds_sum"]
    assert sum(spent[:-1]) == pytest.approx(request, rel=0.05)
    found = grown(before, after)
    expected = {
        "atoll_requests_succeeded_total": 2,
        "atoll_prompt_tokens_total": num_prompt_tokens,
        "atoll_output_tokens_total": 10,
        "atoll_input_tokens_sum": num_prompt_tokens,
        "atoll_input_tokens_count": 2,
        "atoll_generated_tokens_sum": 10,
        "atoll_generated_tokens_count": 2,
        "atoll_request_seconds_count": 2,
        "atoll_queue_seconds_count": 2,
        "atoll_time_to_first_token_seconds_count": 2,
        "atoll_time_per_output_token_seconds_count": 2,
        # One after the other; the last token of an answer is not computed on.
        "atoll_engine_steps_total": 2 * 5,
        "atoll_engine_tokens_total": num_prompt_tokens + 2 * 4,
        "atoll_prefix_queried_tokens_total": num_prompt_tokens,
    }
    assert {name: found.get(name) for name in expected} == expected
    assert not any("failed" in name or "cancelled" in name for name in found)


def test_a_refused_request_counts_by_its_kind(embedded_server: ServerProcess) -> None:
    before = settled(embedded_server, MODEL)
    with pytest.raises(urllib.error.HTTPError):
        generate(embedded_server, text_input="a", max_tokens=100_000)
    found = grown(before, settled(embedded_server, MODEL))
    assert found["atoll_requests_failed_validation_total"] == 1
    assert "atoll_requests_succeeded_total" not in found
