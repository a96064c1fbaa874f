"""Libraries of agents, unmodified. requirements/clients.txt installs them; a test whose library is
missing says so and is skipped.
"""

from __future__ import annotations

import asyncio
from typing import Any, Literal

import openai
import pytest
from gateways import GENERATOR, Served
from pydantic import BaseModel

QUESTION = "What is the capital of France?"


def _need(name: str) -> Any:
    return pytest.importorskip(
        name, reason=f"{name} is not installed: see requirements/clients.txt"
    )


def test_langchain_openai_on_responses(served: Served) -> None:
    package, tools = _need("langchain_openai"), _need("langchain_core.tools")
    where = {
        "base_url": f"{served.url}/v1", "api_key": "unused", "model": GENERATOR, "temperature": 0,
        "use_responses_api": True,
    }  # fmt: skip
    chat = package.ChatOpenAI(max_tokens=8, use_previous_response_id=True, **where)
    answer = chat.invoke(QUESTION)
    assert "Paris" in answer.text and answer.usage_metadata["output_tokens"] <= 8
    assert "".join(chunk.text for chunk in chat.stream(QUESTION)) == answer.text
    assert chat.invoke([("user", QUESTION), answer, ("user", "And Italy?")]).text
    tool = tools.tool(_weather)
    calling = package.ChatOpenAI(max_tokens=60, **where)
    called = calling.bind_tools([tool], tool_choice="_weather", strict=True).invoke("Weather?")
    (call,) = called.tool_calls
    assert call["name"] == "_weather" and call["args"]["city"] in ("Rome", "Oslo")
    told = {"role": "tool", "tool_call_id": call["id"], "content": "sunny"}
    assert calling.invoke([("user", "Weather?"), called, told]).text
    found = calling.with_structured_output(Fact, method="json_schema").invoke(QUESTION)
    assert isinstance(found, Fact)


def _weather(city: Literal["Rome", "Oslo"]) -> str:
    """The weather in a city."""
    return f"sunny in {city}"


class Fact(BaseModel):
    """What an answer is parsed as."""

    yes: bool


def test_openai_agents(served: Served) -> None:
    """Its default class of models: tools, handoffs, types of output, streams, stored turns."""
    package = _need("agents")
    model = package.OpenAIResponsesModel(
        GENERATOR, openai.AsyncOpenAI(base_url=f"{served.url}/v1", api_key="unused")
    )

    def agent(name: str, tool_choice: str | None = None, **more: Any) -> Any:
        # An answer that is cut off is an error there.
        options = package.ModelSettings(
            temperature=0, max_tokens=100, tool_choice=tool_choice, extra_body={"stop": ["."]}
        )
        return package.Agent(name=name, model=model, model_settings=options, **more)

    async def ask() -> None:
        run, no_trace = package.Runner.run, package.RunConfig(tracing_disabled=True)
        plain = agent("plain")
        found = await run(plain, QUESTION, run_config=no_trace)
        assert "Paris" in found.final_output
        turns = [*found.to_input_list(), {"role": "user", "content": QUESTION}]
        assert (await run(plain, turns, run_config=no_trace)).final_output
        stored = {"run_config": no_trace, "previous_response_id": found.last_response_id}
        assert (await run(plain, QUESTION, **stored)).final_output
        tool = package.function_tool(_weather)
        calling = agent("calling", "required", tools=[tool], tool_use_behavior="stop_on_first_tool")
        assert "sunny in" in (await run(calling, "Weather?", run_config=no_trace)).final_output
        streamed = package.Runner.run_streamed(calling, "Weather?", run_config=no_trace)
        kinds = [event.type async for event in streamed.stream_events()]
        assert "run_item_stream_event" in kinds and "sunny in" in streamed.final_output
        typed = await run(agent("typed", output_type=Fact), QUESTION, run_config=no_trace)
        assert isinstance(typed.final_output, Fact)
        first = agent("first", "required", handoffs=[plain])
        assert (await run(first, QUESTION, run_config=no_trace)).last_agent.name == "plain"

    asyncio.run(ask())


def test_pydantic_ai(served: Served) -> None:
    package, models = _need("pydantic_ai"), _need("pydantic_ai.models.openai")
    provider = _need("pydantic_ai.providers.openai").OpenAIProvider(
        base_url=f"{served.url}/v1", api_key="unused"
    )
    model = models.OpenAIResponsesModel(GENERATOR, provider=provider)
    options = {"temperature": 0, "max_tokens": 100}
    answer = package.Agent(model).run_sync(QUESTION, model_settings=options)
    assert "Paris" in answer.output
    typed = package.Agent(model, output_type=Fact).run_sync(QUESTION, model_settings=options)
    assert isinstance(typed.output, Fact)

    async def streamed() -> str:
        async with package.Agent(model).run_stream(QUESTION, model_settings=options) as stream:
            return "".join([text async for text in stream.stream_text(delta=True)])

    assert asyncio.run(streamed()) == answer.output
