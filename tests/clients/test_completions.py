"""OpenAI's completions before a scripted server: what reaches the model, and how much of it."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import AsyncIterator
from typing import Any

import grpc
import httpx
import pytest
from fake_triton import FakeTriton, Refusal, chunk, words
from scripted import run

from atoll_client import kserve


def test_a_suffix_is_for_the_model_to_judge() -> None:
    """Code models write what stands before it; it was refused for all of them."""
    asked: list[dict[str, Any]] = []

    async def generate(message: Any) -> AsyncIterator[Any]:
        names = [tensor.name for tensor in message.inputs]
        raw = message.raw_input_contents[names.index("sampling_parameters")]
        asked.append(json.loads(kserve.values("BYTES", raw)[0]))
        async for response in words(message):
            yield response

    async def scenario(triton: FakeTriton, http: httpx.AsyncClient) -> None:
        triton.generate = generate
        body = {"prompt": "def one():\n", "suffix": "\n    return x", "max_tokens": 4}
        assert (await http.post("/v1/completions", json=body)).status_code == 200
        assert asked[0]["suffix"] == body["suffix"]
        await http.post("/v1/completions", json={**body, "suffix": ""})
        assert "suffix" not in asked[1]
        refused = await http.post("/v1/completions", json={**body, "prompt": [1, 2]})
        assert refused.status_code == 400 and "`suffix`" in refused.json()["error"]["message"]

    run(scenario)


def test_what_does_not_go_together_is_refused_by_name() -> None:
    async def scenario(triton: FakeTriton, http: httpx.AsyncClient) -> None:
        for fields, param in (
            ({"best_of": 1, "n": 2}, "best_of"),
            ({"best_of": 2, "stream": True}, "best_of"),
            ({"max_tokens": 0}, "max_tokens"),
            ({"echo": True, "truncate_prompt_tokens": 3}, "truncate_prompt_tokens"),
            ({"echo": True, "suffix": "b", "logprobs": 1}, "suffix"),
            ({"stream_options": {"include_usage": True}}, "stream_options"),
            ({"prompt": ["a"] * 33}, "prompt"),
        ):
            answer = await http.post("/v1/completions", json={"prompt": "a", **fields})
            assert answer.status_code == 400 and answer.json()["error"]["param"] == param
        assert triton.calls == []

    run(scenario)


def test_the_likeliest_of_several_answers() -> None:
    """``best_of`` had to equal ``n``. A prompt counts once, and all that was written."""
    chances = itertools.cycle([-3.0, -1.0, -2.0])

    async def generate(message: Any) -> AsyncIterator[Any]:
        chance = next(chances)
        yield chunk(f"{chance}", "stop", cumulative_logprob=chance)

    async def scenario(triton: FakeTriton, http: httpx.AsyncClient) -> None:
        triton.generate = generate
        body = {"prompt": ["a", "b"], "best_of": 3, "n": 2, "temperature": 1}
        found = (await http.post("/v1/completions", json=body)).json()
        assert [one["text"] for one in found["choices"]] == ["-1.0", "-2.0"] * 2
        assert [one["index"] for one in found["choices"]] == [0, 1, 2, 3]
        assert found["usage"] == {
            "prompt_tokens": 4, "completion_tokens": 6, "total_tokens": 10,
            "prompt_tokens_details": {"cached_tokens": 0},
        }  # fmt: skip

    run(scenario)


@pytest.mark.parametrize(
    ("fields", "num_answers"),
    [({"n": 128}, 4096), ({"n": 5}, 160), ({"best_of": 8, "n": 1}, 256)],
)
def test_a_request_counts_as_many_answers_as_it_asks_for(fields: Any, num_answers: int) -> None:
    """32 prompts with ``n`` 128 took every place of the model, and all others were refused."""

    async def scenario(triton: FakeTriton, http: httpx.AsyncClient) -> None:
        for stream in (False, True):
            body = {"prompt": ["a"] * 32, **fields, "stream": stream}
            answer = await http.post("/v1/completions", json=body)
            error = answer.json()["error"]
            if "best_of" not in fields or not stream:
                named = "best_of" if "best_of" in fields else "n"
                assert answer.status_code == 400 and error["param"] == named
                assert f"{num_answers} answers" in error["message"]
                assert "max_answers is 128" in error["message"]
        assert triton.calls == []

    run(scenario)


def test_answers_are_counted_among_all_requests() -> None:
    """A request of many answers was one request to ``max_concurrent_requests``."""

    async def scenario(triton: FakeTriton, http: httpx.AsyncClient) -> None:
        for stream in (False, True):
            body = {"prompt": ["a"] * 3, "n": 4, "stream": stream}
            answer = await http.post("/v1/completions", json=body)
            assert answer.status_code == 429 and "max_concurrent_requests is 11" in answer.text
        assert triton.calls == []
        for stream in (False, True):
            body = {"prompt": ["a"] * 3, "n": 3, "stream": stream}
            assert (await http.post("/v1/completions", json=body)).status_code == 200

    run(scenario, max_concurrent_requests=11)


@pytest.mark.parametrize("stream", [False, True])
def test_parts_that_were_accepted_are_free_again(stream: bool) -> None:
    """The model took some of a request's answers and refused the others."""
    opened = itertools.count()

    async def generate(message: Any) -> AsyncIterator[Any]:
        if next(opened) >= 3:
            raise Refusal(grpc.StatusCode.UNAVAILABLE, "3 requests are held")
        taken.append(message.id)
        await asyncio.wait_for(ended.wait(), 30)
        yield chunk("", "stop")

    async def scenario(triton: FakeTriton, http: httpx.AsyncClient) -> None:
        triton.generate = generate
        body = {"prompt": ["a"] * 4, "n": 2, "stream": stream}
        assert (await http.post("/v1/completions", json=body)).status_code == 429
        # All that was taken is cancelled: the test ends only then.
        while not set(taken) <= {q["request_id"] for q in triton.questions if q["op"] == "cancel"}:
            await asyncio.sleep(0.01)
        ended.set()
        assert len(taken) == 3

    taken: list[str] = []
    ended = asyncio.Event()
    run(scenario)
