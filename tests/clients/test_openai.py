"""The openai package, unmodified, against the gateway: synchronous, asynchronous, streamed."""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any

import httpx
import jsonschema
import numpy as np
import openai
import pytest
from gateways import EMBEDDER, GENERATOR, WEATHER, Served

CAPITAL: Any = [{"role": "user", "content": "What is the capital of France?"}]
GREEDY: Any = {"model": GENERATOR, "temperature": 0, "max_tokens": 8}


def test_models(client: openai.OpenAI) -> None:
    assert {model.id for model in client.models.list()} == {EMBEDDER, GENERATOR}
    assert client.models.retrieve(EMBEDDER).id == EMBEDDER
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("nix")


def test_chat(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(messages=CAPITAL, **GREEDY)
    choice = answer.choices[0]
    assert "Paris" in (choice.message.content or "") and choice.message.role == "assistant"
    assert answer.usage is not None and answer.usage.completion_tokens <= 8
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert answer.object == "chat.completion" and answer.model == GENERATOR


def test_streamed_chat_adds_up_to_the_whole_one(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(messages=CAPITAL, **GREEDY)
    chunks = list(
        client.chat.completions.create(
            messages=CAPITAL, stream=True, stream_options={"include_usage": True}, **GREEDY
        )
    )
    texts = [c.choices[0].delta.content or "" for c in chunks if c.choices]
    assert "".join(texts) == whole.choices[0].message.content and len(texts) > 3
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == (
        whole.choices[0].finish_reason
    )
    assert chunks[-1].usage == whole.usage and not chunks[-1].choices
    assert len({c.id for c in chunks}) == 1


@pytest.mark.parametrize("count", [2, 20])
def test_logprobs(client: openai.OpenAI, count: int) -> None:
    """Up to OpenAI's 20, though TGI's routes allow 5 by default."""
    answer = client.chat.completions.create(
        messages=CAPITAL, logprobs=True, top_logprobs=count, **GREEDY
    )
    found = answer.choices[0].logprobs
    assert found is not None and found.content is not None
    assert "".join(t.token for t in found.content) == answer.choices[0].message.content
    # Greedy: the chosen token is the likeliest.
    assert all(t.logprob == t.top_logprobs[0].logprob <= 0 for t in found.content)
    assert all(len(t.top_logprobs) == count for t in found.content)
    with pytest.raises(openai.BadRequestError, match="`top_logprobs`.* 20"):
        client.chat.completions.create(messages=CAPITAL, logprobs=True, top_logprobs=21, **GREEDY)


def test_n_answers_differ_and_a_seed_repeats_them(client: openai.OpenAI) -> None:
    options: Any = {**GREEDY, "temperature": 1.0, "n": 3, "seed": 5}
    first = client.chat.completions.create(messages=CAPITAL, **options)
    texts = [choice.message.content for choice in first.choices]
    assert [choice.index for choice in first.choices] == [0, 1, 2] and len(set(texts)) > 1
    again = client.chat.completions.create(messages=CAPITAL, **options)
    assert [choice.message.content for choice in again.choices] == texts
    streamed = ["", "", ""]
    for chunk in client.chat.completions.create(messages=CAPITAL, stream=True, **options):
        streamed[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
    assert streamed == texts


def test_stop(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(messages=CAPITAL, stop=[" France"], **GREEDY)
    assert answer.choices[0].finish_reason == "stop"
    assert " France" not in (answer.choices[0].message.content or "")


def bound_to(client: openai.OpenAI, schema: dict[str, Any], **options: Any) -> Any:
    """The value that a greedy answer bound to the schema holds."""
    answer = client.chat.completions.create(
        messages=CAPITAL, model=GENERATOR, temperature=0,
        response_format={"type": "json_schema", "json_schema": {"name": "c", "schema": schema}},
        **options,
    )  # fmt: skip
    return json.loads(answer.choices[0].message.content or "")


def test_json_schema(client: openai.OpenAI) -> None:
    schema = {
        "type": "object",
        "properties": {"city": {"type": "string", "maxLength": 8}, "big": {"type": "boolean"}},
        "required": ["city", "big"],
        "additionalProperties": False,
    }
    jsonschema.validate(bound_to(client, schema, max_completion_tokens=40), schema)


@pytest.mark.parametrize(
    ("extra", "expected"),
    [
        ({"guided_regex": "(Rome|Oslo), [0-9]{2}"}, "(Rome|Oslo), [0-9]{2}"),
        ({"guided_choice": ['a "quoted" one', "naïve\n\\d 😀"]}, 'a "quoted" one|naïve\n\\\\d 😀'),
        ({"guided_grammar": 'root ::= "x" [0-3] "y"'}, "x[0-3]y"),
        ({"guided_json": {"enum": ["Rome", 7, None]}}, '"Rome"|7|null'),
    ],
)
def test_constraints_as_vllm_names_them(
    extra: dict[str, Any], expected: str, client: openai.OpenAI
) -> None:
    """They were ignored, as fields that nobody knows are."""
    options = {**GREEDY, "max_tokens": 24, "extra_body": extra}
    chat = client.chat.completions.create(messages=CAPITAL, **options)
    assert re.fullmatch(expected, chat.choices[0].message.content or "")
    text = client.completions.create(prompt="The capital of Italy is", **options).choices[0].text
    assert re.fullmatch(expected, text)
    with pytest.raises(openai.BadRequestError, match="only one of"):
        form: Any = {"type": "json_object"}
        client.chat.completions.create(messages=CAPITAL, response_format=form, **options)


def test_nulls_in_a_schema_are_kept(client: openai.OpenAI, http: httpx.Client) -> None:
    """Nulls were taken out of the whole body, so that ``const`` null allowed anything."""
    schema: Any = {
        "type": "object",
        "properties": {"a": {"const": None}, "b": {"enum": [{"c": None}]}},
        "required": ["a", "b"],
        "additionalProperties": False,
    }
    assert bound_to(client, schema, max_tokens=60) == {"a": None, "b": {"c": None}}
    parameters = {"grammar": {"type": "json", "value": schema}, "max_new_tokens": 60, "seed": None}
    found = http.post("/generate", json={"inputs": "JSON:", "parameters": parameters}).json()
    assert json.loads(found["generated_text"]) == {"a": None, "b": {"c": None}}


def test_nulls_elsewhere_are_absent(client: openai.OpenAI) -> None:
    hello: Any = {"role": "user", "content": "Hi"}
    bare = client.chat.completions.create(messages=[hello], tools=[WEATHER], **GREEDY)
    tool: Any = {**WEATHER, "function": {**WEATHER["function"], "strict": None}, "x": None}
    messages: Any = [{**hello, "name": None, "tool_calls": None}]
    full = client.chat.completions.create(messages=messages, tools=[tool], seed=None, **GREEDY)
    assert bare.usage and full.usage and bare.usage.prompt_tokens == full.usage.prompt_tokens
    assert bare.choices[0].message.content == full.choices[0].message.content


def test_completions(client: openai.OpenAI) -> None:
    found = client.completions.create(
        model=GENERATOR, prompt=["The capital of France is", "One, two,"], temperature=0,
        max_tokens=3, echo=True, logprobs=1,
    )  # fmt: skip
    assert [choice.index for choice in found.choices] == [0, 1]
    assert found.choices[0].text.startswith("The capital of France is Paris")
    logprobs = found.choices[0].logprobs
    assert logprobs is not None and "".join(logprobs.tokens or []) == found.choices[0].text
    assert found.usage is not None and found.usage.completion_tokens == 6
    streamed = client.completions.create(
        model=GENERATOR, prompt="The capital of France is", temperature=0, max_tokens=3, stream=True
    )
    text = "".join(chunk.choices[0].text for chunk in streamed)
    assert "The capital of France is" + text == found.choices[0].text


def test_a_stop_string_cuts_the_texts_of_its_tokens(client: openai.OpenAI) -> None:
    """All were blank but the last, which had the whole text."""
    asked: Any = {
        "model": GENERATOR, "prompt": "Count: 1 2 3", "temperature": 0, "stop": ["5"],
        "logprobs": 1,
    }  # fmt: skip
    whole = client.completions.create(**asked).choices[0]
    assert whole.text == " 4 " and whole.finish_reason == "stop"
    chunks = [
        chunk.choices[0].logprobs for chunk in client.completions.create(**asked, stream=True)
    ]
    for found in ([whole.logprobs], [one for one in chunks if one is not None]):
        assert [t for one in found if one for t in one.tokens or ()] == [" ", "4", " ", ""]
        assert [at for one in found if one for at in one.text_offset or ()] == [0, 1, 2, 3]


def test_embeddings_in_every_form(client: openai.OpenAI, http: httpx.Client) -> None:
    # The client asks for base64 by itself and decodes it.
    packed = client.embeddings.create(model=EMBEDDER, input=["What is deep learning?", "toto"])
    plain = client.embeddings.create(
        model=EMBEDDER, input=["What is deep learning?", "toto"], encoding_format="float"
    )
    vectors = [one.embedding for one in packed.data]
    np.testing.assert_array_equal(
        np.array(vectors, np.float32),
        np.array([one.embedding for one in plain.data], np.float32),
    )
    assert np.shape(vectors) == (2, 384) and packed.usage.prompt_tokens == 11
    (tokens,) = http.post("/tokenize", json={"inputs": "toto"}).json()
    for ids in ([t["id"] for t in tokens], [[t["id"] for t in tokens]]):
        by_ids = client.embeddings.create(model=EMBEDDER, input=ids)
        np.testing.assert_allclose(by_ids.data[0].embedding, vectors[1], atol=1e-5)
    short = client.embeddings.create(model=EMBEDDER, input="toto", dimensions=16)
    assert len(short.data[0].embedding) == 16


def test_asynchronous_calls_at_once(served: Served) -> None:
    async def ask() -> tuple[list[str], int]:
        async with openai.AsyncOpenAI(base_url=f"{served.url}/v1", api_key="unused") as client:

            async def one() -> str:
                chunks = await client.chat.completions.create(
                    messages=CAPITAL, stream=True, **GREEDY
                )
                return "".join([c.choices[0].delta.content or "" async for c in chunks])

            embedding = client.embeddings.create(model=EMBEDDER, input="a")
            *texts, vector = await asyncio.gather(one(), one(), one(), embedding)
            return texts, len(vector.data[0].embedding)

    texts, width = asyncio.run(ask())
    assert len(set(texts)) == 1 and "Paris" in texts[0] and width == 384


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        ({"messages": []}, openai.BadRequestError, "`messages` cannot be empty"),
        ({"messages": [{"content": "a"}]}, openai.BadRequestError, "role"),
        ({"temperature": -1}, openai.BadRequestError, "`temperature`"),
        ({"top_p": 1.5}, openai.BadRequestError, "`top_p`"),
        ({"n": 0}, openai.BadRequestError, "`n`"),
        ({"top_logprobs": 2}, openai.BadRequestError, "`logprobs`"),
        ({"response_format": {"type": "x"}}, openai.BadRequestError, "expected 'text'"),
        ({"tool_choice": "x", "tools": [WEATHER]}, openai.BadRequestError, "get_weather"),
        ({"model": "nix"}, openai.NotFoundError, "model 'nix' is not served"),
        ({"max_tokens": 9000}, openai.BadRequestError, "8192"),
    ],
)
def test_errors(
    client: openai.OpenAI, arguments: dict[str, Any], kind: type[openai.APIStatusError],
    message: str,
) -> None:  # fmt: skip
    for stream in (False, True):
        with pytest.raises(kind) as caught:
            client.chat.completions.create(
                **{"messages": CAPITAL, **GREEDY, **arguments, "stream": stream}
            )
        assert message in caught.value.message
        assert isinstance(caught.value.body, dict) and caught.value.body["type"]
