"""Tokens of texts and texts of tokens, by the model's tokenizer.

A text may have a million tokens. Work on each of them is done on a thread, in one pass, so that
other requests are not delayed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from typing import Any, ParamSpec, TypeVar, cast

from atoll_client.errors import TooMuch
from atoll_client.gateway.core.context import Context
from atoll_client.gateway.core.web import dump
from atoll_client.types import ModelInfo

T = TypeVar("T")
P = ParamSpec("P")
# TEI's limit of a text's characters, per token of the model's limit.
CHARACTERS_PER_TOKEN = 250
# For shorter texts, a thread would take longer than the work.
_FEW_CHARACTERS = 4096
# The most characters in one request to the model: this limits memory and pauses.
_PART_CHARACTERS = 50_000


async def decode(
    context: Context, model: ModelInfo, ids: list[list[int]], *, skip_special_tokens: bool
) -> list[str]:
    """Texts of token ids."""
    question = {"op": "decode", "ids": ids, "skip_special_tokens": skip_special_tokens}
    return cast(list[str], await context.pool.ask(model.name, question))


async def tokenize(
    context: Context, model: ModelInfo, texts: Sequence[str], add_special_tokens: bool = True
) -> list[list[dict[str, Any]]]:
    """Tokens of texts, with character offsets."""
    question = {
        "op": "tokenize", "inputs": list(texts), "add_special_tokens": add_special_tokens,
    }  # fmt: skip
    return cast(list[list[dict[str, Any]]], await context.pool.ask(model.name, question))


async def tokenized(
    context: Context, model: ModelInfo, texts: Sequence[str], add_special_tokens: bool
) -> bytes:
    """The tokens of each text with byte offsets, as JSON."""
    found: list[bytes] = []
    for part in _parts(texts):
        rows = await tokenize(context, model, part, add_special_tokens)
        # Without the brackets of the list.
        found.append(
            (await run_in_thread(part, lambda p, r: dump(in_bytes(p, r)), part, rows))[1:-1]
        )
    return b"[" + b",".join(found) + b"]"


def _parts(texts: Sequence[str]) -> Iterator[list[str]]:
    """The texts in parts of limited size."""
    part: list[str] = []
    size = 0
    for text in texts:
        if part and size + len(text) > _PART_CHARACTERS:
            yield part
            part, size = [], 0
        part.append(text)
        size += len(text)
    yield part


def check_length(model: ModelInfo, texts: Sequence[str], field: str = "inputs") -> None:
    """Raises TooMuch: a text exceeds TEI's limit for tokenization."""
    limit = CHARACTERS_PER_TOKEN * model.max_input_tokens
    for text in texts:
        if len(text) > limit:
            raise TooMuch(f"`{field}` must have less than {limit} characters. Given: {len(text)}")


async def run_in_thread(
    texts: Sequence[str], work: Callable[P, T], *args: P.args, **kwargs: P.kwargs
) -> T:
    """The result of ``work``, on a thread if the texts are long."""
    if sum(map(len, texts)) <= _FEW_CHARACTERS:
        return work(*args, **kwargs)
    return await asyncio.to_thread(work, *args, **kwargs)


def in_bytes(
    texts: Sequence[str], rows: Sequence[Sequence[dict[str, Any]]]
) -> list[list[dict[str, Any]]]:
    """The tokens of each text with byte offsets instead of character offsets."""
    return [_in_bytes(text, row) for text, row in zip(texts, rows, strict=True)]


def _in_bytes(text: str, tokens: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    if text.isascii():
        return list(tokens)
    sizes = (len(character.encode("utf-8", "replace")) for character in text)
    before = list(accumulate(sizes, initial=0))
    return [
        token
        if token["start"] is None
        else {**token, "start": before[token["start"]], "stop": before[token["stop"]]}
        for token in tokens
    ]
