"""The responses of TGI's routes: handlers build them, and OpenAPI shows them."""

from __future__ import annotations

from typing_extensions import NotRequired, TypedDict


class SimpleToken(TypedDict):
    """A token and its character offsets in the text."""

    id: int
    text: str
    start: int
    stop: int


class ChatTokens(TypedDict):
    """The prompt that the chat template makes of messages, and its tokens."""

    tokenize_response: list[SimpleToken]
    templated_text: str


class PromptToken(TypedDict):
    """A token of the prompt; the first one has no log-probability."""

    id: int
    text: str
    logprob: float | None


class GeneratedToken(TypedDict):
    """A token of the answer."""

    id: int
    text: str
    logprob: float
    special: bool


class SequenceDetails(TypedDict):
    """The tokens of an answer, and why it ended."""

    finish_reason: str
    generated_tokens: int
    seed: int | None
    prefill: list[PromptToken]
    tokens: list[GeneratedToken]
    top_tokens: NotRequired[list[list[GeneratedToken]]]


class Sequence(SequenceDetails):
    """One of the other answers of ``best_of``."""

    generated_text: str


class Details(SequenceDetails):
    """The details of the best answer."""

    best_of_sequences: NotRequired[list[Sequence]]


class Generated(TypedDict):
    """A complete answer."""

    generated_text: str
    details: NotRequired[Details]


class StreamDetails(TypedDict):
    """Why a streamed answer ended, and its token counts."""

    finish_reason: str
    generated_tokens: int
    seed: int | None
    input_length: int


class GeneratedEvent(TypedDict):
    """One token; the event of the last one has the whole text and the details."""

    index: int
    token: GeneratedToken
    top_tokens: NotRequired[list[GeneratedToken]]
    generated_text: str | None
    details: StreamDetails | None
