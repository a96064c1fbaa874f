"""Conversations of the clients: turn by turn to the session entry, or with everything each turn.

What is sent is read from a scripted server's requests; that it is answered as the whole text is,
from a real one.
"""

from __future__ import annotations

import asyncio
import gc
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import fake_triton
import grpc
import pytest
import tritonclient.grpc as tritonclient
from fake_triton import FakeTriton, Refusal
from gateways import GENERATOR, Served

from atoll_client import AsyncClient, AsyncConversation, Client, kserve
from atoll_client.errors import NotReady, UnsupportedModel, ValidationError

MODELS: dict[str, dict[str, Any]] = {
    "g": {"task": "generate", "adapters": ["pirate"]}, "g-session": {"task": "session"},
}  # fmt: skip
LOST = Refusal(grpc.StatusCode.INVALID_ARGUMENT, "sequence 1 must specify the START flag")
TOOLS = [{"type": "function", "function": {"name": "look"}}]


def said(message: Any) -> tuple[str, str, list[str]]:
    """(model, flags, contents of the messages) of a request."""
    flags = "".join(
        letter for name, letter in (("sequence_start", "S"), ("sequence_end", "E"))
        if message.parameters[name].bool_param
    )  # fmt: skip
    chat = texts(message).get("messages", "[]")
    return message.model_name, flags, [one["content"] for one in json.loads(chat)]


def texts(message: Any) -> dict[str, str]:
    """A request's first texts by tensor."""
    parts = zip(message.inputs, message.raw_input_contents, strict=True)
    return {t.name: kserve.values("BYTES", raw)[0] for t, raw in parts if t.datatype == "BYTES"}


def run(
    scenario: Callable[[FakeTriton, AsyncClient, list[Any]], Awaitable[None]],
    models: dict[str, dict[str, Any]] = MODELS,
) -> None:
    """With a scripted server, a client, and the requests as they come."""

    async def whole() -> None:
        async with FakeTriton(models) as triton, AsyncClient(triton.address) as client:
            asked: list[Any] = []
            script(triton, asked)
            await scenario(triton, client, asked)

    asyncio.run(whole())


def script(triton: FakeTriton, asked: list[Any], *refusals: Refusal | None) -> None:
    """Answers "one two", after what is refused in this order (None: answered)."""
    left = list(refusals)

    async def generate(message: Any) -> AsyncIterator[Any]:
        asked.append(message)
        refusal = left.pop(0) if left else None
        if refusal is not None:
            raise refusal
        async for response in fake_triton.words(message):
            yield response

    triton.generate = generate


def test_a_turn_sends_its_new_text_only() -> None:
    async def scenario(triton: FakeTriton, client: AsyncClient, asked: list[Any]) -> None:
        async with client.conversation(system="Be brief.") as talk:
            assert talk.uses_session is None
            assert await talk.say("Hello.", tools=TOOLS) == "one two"
            await talk.say("Again.", temperature=0.5)
            assert talk.uses_session
        assert [said(message) for message in asked] == [
            ("g-session", "S", ["Be brief.", "Hello."]),
            ("g-session", "", ["Again."]),
            ("g-session", "E", []),
        ]
        assert len({message.parameters["sequence_id"].string_param for message in asked}) == 1
        assert "look" in texts(asked[0])["tools"] and "tools" not in texts(asked[1])
        assert json.loads(texts(asked[1])["sampling_parameters"])["temperature"] == 0.5
        contents = [message["content"] for message in talk.messages]
        assert contents == ["Be brief.", "Hello.", "one two", "Again.", "one two"]
        # After its end it begins anew, with everything.
        await talk.say("More.")
        assert said(asked[-1]) == ("g-session", "S", [*contents, "More."])

    run(scenario)


def test_everything_is_sent_where_no_session_is() -> None:
    async def scenario(triton: FakeTriton, client: AsyncClient, asked: list[Any]) -> None:
        talk = client.conversation("pirate", session=False)
        await talk.say("Hello.", tools=TOOLS)
        await talk.say("Again.")
        assert talk.uses_session is False
        assert [said(message) for message in asked] == [
            ("g", "", ["Hello."]),
            ("g", "", ["Hello.", "one two", "Again."]),
        ]
        assert "look" in texts(asked[1])["tools"]
        # An adapter's name is its base model with an option.
        assert json.loads(texts(asked[1])["sampling_parameters"])["adapter_id"] == "pirate"
        assert "sequence_id" not in asked[0].parameters

    async def without(triton: FakeTriton, client: AsyncClient, asked: list[Any]) -> None:
        with pytest.raises(UnsupportedModel, match="session entry"):
            await client.conversation(session=True).say("Hello.")
        talk = client.conversation()
        await talk.say("Hello.")
        assert said(asked[0])[0] == "g" and talk.uses_session is False

    run(scenario)
    run(without, {"g": MODELS["g"]})


@pytest.mark.parametrize("chosen", [None, True])
def test_a_lost_conversation_is_begun_again_once(chosen: bool | None) -> None:
    async def scenario(triton: FakeTriton, client: AsyncClient, asked: list[Any]) -> None:
        talk = client.conversation(session=chosen)
        await talk.say("Hello.")
        script(triton, asked, LOST)
        assert await talk.say("Again.") == "one two" and talk.uses_session
        whole = ["Hello.", "one two", "Again."]
        assert [said(message) for message in asked[1:]] == [
            ("g-session", "", ["Again."]),
            ("g-session", "S", whole),
        ]
        await talk.say("More.")
        assert said(asked[-1]) == ("g-session", "", ["More."])
        # What the turn itself did wrong is not tried again.
        script(triton, asked, Refusal(grpc.StatusCode.INVALID_ARGUMENT, "top_p is 7"))
        before, chat = len(asked), list(talk.messages)
        with pytest.raises(ValidationError, match="top_p"):
            await talk.say("Last.", top_p=7)
        assert len(asked) == before + 1 and talk.messages == chat

    run(scenario)


def test_a_broken_session_entry_is_gone_around() -> None:
    gone = Refusal(grpc.StatusCode.UNAVAILABLE, "model not ready: 'g-session'")

    async def scenario(triton: FakeTriton, client: AsyncClient, asked: list[Any]) -> None:
        talk = client.conversation()
        await talk.say("Hello.")
        script(triton, asked, gone, gone)
        await talk.say("Again.")
        whole = ["Hello.", "one two", "Again."]
        assert said(asked[-1]) == ("g", "", whole) and talk.uses_session is False
        # Back again: it is told everything.
        await talk.say("More.")
        assert said(asked[-1]) == ("g-session", "S", [*whole, "one two", "More."])
        insisting = client.conversation(session=True)
        script(triton, asked, gone)
        with pytest.raises(NotReady):
            await insisting.say("Hello.")

    run(scenario)


def test_after_a_turn_that_was_left_everything_is_sent() -> None:
    """The server may have taken the turn or not; edits of what was said are seen, too."""

    async def scenario(triton: FakeTriton, client: AsyncClient, asked: list[Any]) -> None:
        talk = client.conversation()
        async for piece in (stream := talk.stream("Hello.")):
            assert piece == "one"
            break
        await stream.aclose()
        await talk.say("Again.")
        assert said(asked[-1]) == ("g-session", "S", ["Hello.", "one", "Again."])
        talk.messages[0] = {"role": "user", "content": "Good day."}
        await talk.say("More.")
        assert said(asked[-1])[1:] == ("S", ["Good day.", "one", "Again.", "one two", "More."])
        talk.messages.append({"role": "tool", "content": "42"})
        await talk.say("Well?")
        assert said(asked[-1])[1:] == ("", ["42", "Well?"])

    run(scenario)


def test_conversations_that_nobody_holds_are_ended() -> None:
    """A server takes a bounded number of sequences: each that is dropped would hold one."""

    async def scenario(triton: FakeTriton, client: AsyncClient, asked: list[Any]) -> None:
        talk: AsyncConversation | None = client.conversation()
        assert talk is not None
        await talk.say("Hello.")
        talk = None
        gc.collect()
        await client.conversation().say("Hello.")
        assert [said(message)[1] for message in asked] == ["S", "E", "S"]
        gc.collect()
        await client.close()
        assert [said(message)[1] for message in asked] == ["S", "E", "S", "E"]

    run(scenario)


def test_a_real_server_answers_turns_as_it_answers_the_whole(served: Served) -> None:
    """And goes on when the sequence was ended behind the conversation's back."""
    address = served.server.grpc_url
    with Client(address) as client, client.conversation(GENERATOR, "Be brief.") as talk:
        for text in ("Name a colour.", "And another.", "And a third."):
            if talk.messages:
                whole = client.chat(
                    [*talk.messages, {"role": "user", "content": text}], max_tokens=8
                )
                if text == "And a third.":
                    _end(address, talk._talk._key)
                assert talk.say(text, max_tokens=8) == whole.text
            talk.say(text, max_tokens=8)
            assert talk.uses_session and talk._talk._kept == talk.messages
    with Client(served.server.http_url) as client:
        other = client.conversation(GENERATOR, "Be brief.")
        for text in ("Name a colour.", "And another."):
            other.say(text, max_tokens=8)
        assert other.uses_session is False


def _end(address: str, key: Any) -> None:
    with tritonclient.InferenceServerClient(address) as other:
        other.start_stream(lambda result, error: None)
        other.async_stream_infer(f"{GENERATOR}-session", [], sequence_id=key, sequence_end=True)
        other.stop_stream()
