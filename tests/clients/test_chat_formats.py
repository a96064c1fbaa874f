"""Tool calls and reasoning in three formats, by the openai package against a real server.

The models are taught to give the answers (``echo``): what is tested is all that comes after a
model's tokens, special ones included.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import openai
import pytest
from echo import told
from gateways import WEATHER, Served
from openai.types.chat import ChatCompletion

from atoll_client import Client

ROME = '{"city": "Rome"}'
CALL = f'{{"name": "get_weather", "arguments": {ROME}}}'


class Case(NamedTuple):
    """What a model writes, and what is told of it. behind: what the template adds."""

    model: str
    answer: str
    behind: str
    content: str | None
    reasoning: str = ""
    is_called: bool = False
    more: dict[str, Any] = {}  # noqa: RUF012


ANALYSIS = "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant"
OPEN, CLOSED = "<think>\n", "<think>\n\n</think>\n\n"
OFF = {"extra_body": {"chat_template_kwargs": {"enable_thinking": False}}}
CASES = [
    Case("hermes", f"Hm.\n</think>\n\nI look.\n<tool_call>\n{CALL}\n</tool_call>", OPEN,
         "I look.", "Hm.", True),
    Case("hermes", "Yes. <b>", CLOSED, "Yes. <b>", more=OFF),
    Case("hermes", "Hm.", OPEN, "", "Hm."),
    Case("hermes", "Hm.</think>Yes", OPEN, "Yes",
         more={"extra_body": {"include_reasoning": False}}),
    # The grammar of a forced call, and of a format, begins behind the reasoning.
    Case("hermes", f"Hm.\n</think>{CALL}", OPEN, None, "Hm.", True, {"tool_choice": "required"}),
    Case("hermes", "Hm.</think>{}", OPEN, "{}", "Hm.",
         more={"response_format": {"type": "json_object"}, "tool_choice": "none"}),
    Case("harmony", f"{ANALYSIS}<|channel|>final<|message|>Yes.", "<|start|>assistant", "Yes.",
         "Hm."),
    Case("harmony", f"{ANALYSIS}<|channel|>commentary to=functions.get_weather <|constrain|>json"
         f"<|message|>{ROME}<|call|>", "<|start|>assistant", None, "Hm.", True),
    Case("harmony", f"{ANALYSIS}<|channel|>final<|message|>{CALL}", "<|start|>assistant", None,
         "Hm.", True, {"tool_choice": "required"}),
    Case("xml", "I look.\n<tool_call>\n<function=get_weather>\n<parameter=city>\nRome\n"
         "</parameter>\n</function>\n</tool_call>", "", "I look.", is_called=True),
]  # fmt: skip


@pytest.fixture(scope="module")
def client(echoes: Served) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{echoes.url}/v1", api_key="unused", max_retries=0) as client:
        yield client


def _asked(checkpoints: dict[str, Path], case: Case) -> dict[str, Any]:
    content = told(checkpoints[case.model], case.answer, case.behind)
    return {
        "model": case.model, "temperature": 0, "tools": [WEATHER],
        "messages": [{"role": "user", "content": content}], **case.more,
    }  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.model}-{case.answer[:20]}")
def test_whole_and_streamed(
    client: openai.OpenAI, checkpoints: dict[str, Path], case: Case
) -> None:
    asked = _asked(checkpoints, case)
    raw = client.chat.completions.with_raw_response.create(**asked).text
    answer = ChatCompletion.model_validate_json(raw, strict=True)
    choice = answer.choices[0]
    extra = choice.message.model_extra or {}
    assert choice.message.content == case.content
    assert extra.get("reasoning_content", "") == extra.get("reasoning", "") == case.reasoning
    calls = [(c.function.name, c.function.arguments) for c in choice.message.tool_calls or ()]
    assert [(n, json.loads(a)) for n, a in calls] == [("get_weather", {"city": "Rome"})] * (
        case.is_called
    )
    assert choice.finish_reason == ("tool_calls" if case.is_called else "stop")
    said, thought, written, reason = "", "", "", None
    usage = {"include_usage": True, "continuous_usage_stats": True}
    *chunks, last = client.chat.completions.create(**asked, stream=True, stream_options=usage)
    # It was absent.
    assert answer.usage is not None and last.usage is not None
    num_reasoning = [
        u.completion_tokens_details.reasoning_tokens for u in (answer.usage, last.usage)
    ]
    assert num_reasoning == [_num_reasoning(case)] * 2
    running = [chunk.usage.completion_tokens for chunk in chunks]
    assert running == sorted(running) and running[-1] == answer.usage.completion_tokens
    for chunk in chunks:
        delta, reason = chunk.choices[0].delta, chunk.choices[0].finish_reason
        said += delta.content or ""
        thought += (delta.model_extra or {}).get("reasoning_content", "")
        written += "".join(call.function.arguments for call in delta.tool_calls or ())
    assert (said, thought) == (case.content or "", case.reasoning)
    assert (written, reason) == ("".join(a for _, a in calls), choice.finish_reason)


def _num_reasoning(case: Case) -> int:
    """Tokens of the reasoning with its tags: a character is one, and so is a special token."""
    if not case.reasoning:
        # Reasoning that is left out is counted.
        return len("Hm.</think>") if "</think>" in case.answer else 0
    if case.model == "harmony":
        return len("analysis") + len("Hm.") + 3
    return len(case.answer.partition("</think>")[0]) + len("</think>") * ("</think>" in case.answer)


def test_several_calls(client: openai.OpenAI, checkpoints: dict[str, Path]) -> None:
    """Each has an index and an id of its own, in every answer; the helper reads them."""
    tags = [f"<tool_call>{CALL.replace('Rome', city)}</tool_call>" for city in ("Rome", "Oslo")]
    case = Case("hermes", f"Hm.</think>{''.join(tags)}", OPEN, None, more={"n": 2})
    asked = _asked(checkpoints, case)
    tool = {**WEATHER, "function": {**WEATHER["function"], "strict": True}}
    with client.chat.completions.stream(
        **{**asked, "tools": [tool]}, stream_options={"include_usage": True}
    ) as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_completion()
    assert kinds.count("tool_calls.function.arguments.done") == 4
    whole = client.chat.completions.create(**asked)
    ids = set()
    for answer in (final, whole):
        assert [choice.index for choice in answer.choices] == [0, 1]
        for choice in answer.choices:
            assert choice.finish_reason == "tool_calls"
            calls = choice.message.tool_calls or ()
            cities = [json.loads(call.function.arguments)["city"] for call in calls]
            assert cities == ["Rome", "Oslo"]
            ids |= {call.id for call in calls}
    assert len(ids) == 8 and final.usage is not None and whole.usage is not None
    assert final.usage.completion_tokens == whole.usage.completion_tokens
    one = client.chat.completions.create(**asked, parallel_tool_calls=False)
    assert [len(choice.message.tool_calls or ()) for choice in one.choices] == [1, 1]


# A response has its reasoning always.
WITH_REASONING = [case for case in CASES if "include_reasoning" not in str(case.more)]
# What a request for a response calls the options of a chat.
RESPONSE_MORE: dict[str, dict[str, Any]] = {
    "response_format": {"text": {"format": {"type": "json_object"}}},
}


@pytest.mark.parametrize(
    "case", WITH_REASONING, ids=lambda case: f"{case.model}-{case.answer[:20]}"
)
def test_responses_whole_and_streamed(
    client: openai.OpenAI, checkpoints: dict[str, Path], case: Case
) -> None:
    """The same answers as items, in the order that the package's own accumulator wants."""
    asked: dict[str, Any] = {
        "model": case.model, "temperature": 0,
        "tools": [{"type": "function", **WEATHER["function"]}],
        "input": told(checkpoints[case.model], case.answer, case.behind),
        "reasoning": {"summary": "auto"}, "include": ["message.output_text.logprobs"],
    }  # fmt: skip
    for name, value in case.more.items():
        asked |= RESPONSE_MORE.get(name, {name: value})
    whole = client.responses.create(**asked)
    kinds = [item.type for item in whole.output]
    wanted = ["reasoning"] * bool(case.reasoning) + ["message"] * bool(case.content)
    assert kinds == wanted + ["function_call"] * case.is_called
    assert whole.output_text == (case.content or "") and whole.status == "completed"
    usage = whole.usage
    assert usage is not None
    num_reasoning = usage.output_tokens_details.reasoning_tokens
    assert (num_reasoning > 0) == bool(case.reasoning) and num_reasoning <= usage.output_tokens
    with client.responses.stream(**asked) as stream:
        events = list(stream)
        final = stream.get_final_response()
    assert [event.sequence_number for event in events] == list(range(len(events)))
    for one, other in zip(whole.output, final.output, strict=True):
        found, again = one.to_dict(), other.to_dict()
        for item in (found, again):
            for part in item.get("content") or ():
                part.pop("parsed", None)  # type: ignore[attr-defined]
            for name in ("id", "call_id", "parsed_arguments"):
                item.pop(name, None)
        assert found == again
        if one.type == "reasoning":
            assert one.content is not None and one.content[0].text == case.reasoning
            assert one.summary[0].text == case.reasoning
        if one.type == "message":
            (part,) = one.content
            assert part.type == "output_text" and part.logprobs
            # One letter is a token here; the logprobs are those of the text, without reasoning.
            assert part.text in "".join(entry.token for entry in part.logprobs)
            assert case.reasoning == "" or case.reasoning not in "".join(
                entry.token for entry in part.logprobs
            )
        if one.type == "function_call":
            assert (one.name, json.loads(one.arguments)) == ("get_weather", {"city": "Rome"})


def test_the_models_name_their_formats(echoes: Served) -> None:
    found = {}
    with Client(echoes.server.grpc_url) as client:
        for model in client.models():
            found[model.name] = [model.facts[f"{n}_parser"] for n in ("tool_call", "reasoning")]
    assert found == {
        "hermes": ["hermes", "qwen3"], "harmony": ["openai", "openai_gptoss"],
        "xml": ["qwen3_coder", "none"],
    }  # fmt: skip


def test_variables_that_are_the_products_own(
    client: openai.OpenAI, checkpoints: dict[str, Path]
) -> None:
    asked = _asked(checkpoints, CASES[1])
    for name in ("messages", "tools", "add_generation_prompt", "eos_token", "raise_exception"):
        asked["extra_body"] = {"chat_template_kwargs": {name: 1}}
        with pytest.raises(openai.BadRequestError, match=f"chat_template_kwargs.{name}"):
            client.chat.completions.create(**asked)
