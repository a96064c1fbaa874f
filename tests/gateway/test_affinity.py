"""Which of several servers gets a generation."""

from __future__ import annotations

import asyncio
from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest
from fake_triton import FakeTriton
from scripted import MODELS, gateway

from atoll_client import kserve
from atoll_client.gateway.core.affinity import Affinity, Origin, beginning, prompt_of
from atoll_client.tasks import Prompt


def _servers(*loads: int) -> list[Any]:
    return [
        SimpleNamespace(address=f"10.0.0.{at}:8001", num_outstanding=load)
        for at, load in enumerate(loads)
    ]


def _key(affinity: Affinity, session: str, model: str = "m") -> bytes | None:
    return affinity.key(model, Origin(session, lambda: Prompt(text="a")))


def test_keys_are_spread_and_only_a_lost_servers_keys_move() -> None:
    affinity, servers = Affinity("prompt", 1.25), _servers(0, 0, 0, 0)

    def places(some: list[Any]) -> list[str]:
        keys = (_key(affinity, str(session)) for session in range(2000))
        return [affinity.order(key, some)[0][0].address for key in keys]

    before, after = places(servers), places(servers[:3])
    assert all(430 < count < 570 for count in Counter(before).values()), Counter(before)
    lost = servers[3].address
    moved = [old for old, new in zip(before, after, strict=True) if old != new]
    assert set(moved) == {lost} and len(moved) == before.count(lost)
    assert places(list(reversed(servers))) == before


def test_a_busy_server_gets_no_more_and_the_key_stays_where_it_went() -> None:
    affinity, servers = Affinity("prompt", 1.25), _servers(4, 4, 4, 4)
    key = _key(affinity, "one")
    (first, *_), outcome = affinity.order(key, servers)
    assert outcome == "hit"
    first.num_outstanding = 7  # 1.25 times 4.75, plus 1, is less
    (second, *rest), outcome = affinity.order(key, servers)
    assert outcome == "moved" and second is not first and first in rest and len(rest) == 3
    first.num_outstanding = 4
    assert affinity.order(key, servers)[0][0] is second
    assert affinity.order(key, [one for one in servers if one is not second])[0][0] is first
    # A sequence goes to its server in any case.
    (pinned, *_) = affinity.pinned("m 1", servers)
    pinned.num_outstanding = 100
    assert affinity.pinned("m 1", [*servers, *_servers(0, 0, 0, 0, 0, 0)[4:]])[0] is pinned


def test_what_makes_a_key() -> None:
    affinity = Affinity("prompt", 1.25)
    assert _key(affinity, "a") == _key(affinity, "a") != _key(affinity, "a", "other")
    assert _key(affinity, "") == _key(Affinity("prompt", 2.0), "") is not None
    assert _key(Affinity("session", 1.25), "") is None is _key(Affinity("none", 1.25), "a")
    assert affinity.order(None, _servers(2, 0, 1))[0][0].num_outstanding == 0


def test_a_conversations_turns_begin_alike() -> None:
    system = {"role": "system", "content": "s" * 5000}
    question = {"role": "user", "content": [{"type": "text", "text": "q"}]}
    more = [{"role": "assistant", "content": "a"}, {"role": "user", "content": "b"}]
    first, later = ([system, question], [system, question, *more])
    assert beginning(Prompt(messages=first)) == beginning(Prompt(messages=later))
    other = [system, {"role": "user", "content": "another"}]
    assert beginning(Prompt(messages=first)) != beginning(Prompt(messages=other))
    assert beginning(Prompt(text="x" * 2000)) == beginning(Prompt(text="x" * 1024 + "y"))
    assert beginning(Prompt(input_ids=range(300))) == beginning(Prompt(input_ids=range(256)))


QUESTION = {"role": "user", "content": 1}


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("text_input", "a text", Prompt(text="a text")),
        ("messages", '[{"role": "user", "content": 1}, 2]', Prompt(messages=[QUESTION])),
        ("messages", "no json", Prompt(text="no json")),
        ("other", "a", Prompt()),
    ],
)  # fmt: skip
def test_prompts_of_tensors(name: str, text: str, expected: Prompt) -> None:
    message = kserve.request("m")
    kserve.add_flag(message, "stream", True)
    kserve.add_texts(message, name, [text], [1])
    assert prompt_of(message) == expected
    assert isinstance(beginning(expected), bytes)


def test_sessions_of_every_route_stay_at_one_server() -> None:
    async def scenario() -> None:
        models = {"words": MODELS["words"]}
        async with (
            FakeTriton(models) as one,
            FakeTriton(models) as two,
            FakeTriton(models) as three,
            gateway(one.address, two.address, three.address) as http,
        ):

            def asked() -> list[int]:
                counts = [len(triton.calls) for triton in (one, two, three)]
                for triton in (one, two, three):
                    triton.calls.clear()
                return counts

            chat = {"messages": [{"role": "user", "content": "a"}]}
            named = {"x-session-id": "s1"}
            for _ in range(2):
                for path, body in (
                    ("/v1/chat/completions", chat), ("/generate", {"inputs": "b"}),
                    ("/v1/completions", {"prompt": "c"}), ("/v1/responses", {"input": "d"}),
                    ("/v2/models/words/generate_stream", {"text_input": "e"}),
                ):  # fmt: skip
                    answer = await http.post(path, json=body, headers=named)
                    assert answer.status_code == 200, answer.text
            assert sorted(asked()) == [0, 0, 10]
            # Fields of the body, the header before them, and prompts with the same beginning.
            for field in ("prompt_cache_key", "user"):
                for text in "abcdef":
                    body = {"messages": [{"role": "user", "content": text}], field: "k"}
                    assert (await http.post("/v1/chat/completions", json=body)).status_code == 200
                assert sorted(asked()) == [0, 0, 6]
            for number in range(12):
                body = {**chat, "user": "k"}
                await http.post(
                    "/v1/chat/completions", json=body, headers={"x-session-id": str(number)}
                )
            assert min(asked()) > 0
            for _ in range(6):
                await http.post("/v1/chat/completions", json=chat)
            assert sorted(asked()) == [0, 0, 6]
            # A response goes on where the one before was.
            first = (await http.post("/v1/responses", json={"input": "x", "user": "u"})).json()
            for _ in range(4):
                body = {"input": "y", "instructions": "z", "previous_response_id": first["id"]}
                first = (await http.post("/v1/responses", json=body)).json()
            assert sorted(asked()) == [0, 0, 5]
            page = (await http.get("/metrics")).text
            assert 'atoll_gateway_affinity_total{outcome="hit"} 45' in page, page

    asyncio.run(scenario())
