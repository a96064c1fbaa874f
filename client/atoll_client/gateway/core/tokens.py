"""Tokens of texts and texts of tokens, by a model's own tokenizer.

A text may have a million tokens: what is done for each of them is done on a thread, in one pass, so
that the gateway goes on answering others.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from typing import Any, ParamSpec, TypeVar, cast

from atoll_client.errors import TooMuch
from atoll_client.gateway.core.context import Context
from atoll_client.gateway.core.web import dump
from atoll_client.types import ModelInfo, TextToken

T = TypeVar("T")
P = ParamSpec("P")
# TEI's limit: characters of a text for each token that the model takes.
CHARACTERS_PER_TOKEN = 250
# What takes less time than the way to a thread.
_FEW_CHARACTERS = 4096
# Characters of the texts that are asked about at once: memory and pauses are those of a part.
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
    """Tokens of texts, as the model gives them; start and stop count characters."""
    question = {
        "op": "tokenize", "inputs": list(texts), "add_special_tokens": add_special_tokens,
    }  # fmt: skip
    return cast(list[list[dict[str, Any]]], await context.pool.ask(model.name, question))


async def tokenized(
    context: Context, model: ModelInfo, texts: Sequence[str], add_special_tokens: bool
) -> bytes:
    """JSON of each text's tokens, whose places count bytes; made part by part."""
    found: list[bytes] = []
    for part in _parts(texts):
        rows = await tokenize(context, model, part, add_special_tokens)
        # Without the brackets of the list.
        found.append((await apart(part, lambda p, r: dump(in_bytes(p, r)), part, rows))[1:-1])
    return b"[" + b",".join(found) + b"]"


def _parts(texts: Sequence[str]) -> Iterator[list[str]]:
    """Texts, as many in each part as have few enough characters together."""
    part: list[str] = []
    size = 0
    for text in texts:
        if part and size + len(text) > _PART_CHARACTERS:
            yield part
            part, size = [], 0
        part.append(text)
        size += len(text)
    yield part


def check_length(model: ModelInfo, texts: Sequence[str]) -> None:
    """Raises TooMuch: a text is longer than TEI tokenizes."""
    limit = CHARACTERS_PER_TOKEN * model.max_input_tokens
    for text in texts:
        if len(text) > limit:
            raise TooMuch(f"`inputs` must have less than {limit} characters. Given: {len(text)}")


async def apart(texts: Sequence[str], work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """The result of ``work``, on a thread if the texts are long."""
    if sum(map(len, texts)) <= _FEW_CHARACTERS:
        return work(*args, **kwargs)
    return await asyncio.to_thread(work, *args, **kwargs)


def in_bytes(
    texts: Sequence[str], rows: Sequence[Sequence[dict[str, Any]]]
) -> list[list[dict[str, Any]]]:
    """The tokens of each text with their places in bytes instead of characters."""
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


def text_tokens(rows: Sequence[Sequence[dict[str, Any]]]) -> list[list[TextToken]]:
    """Tokens as values."""
    return [[TextToken(**token) for token in row] for row in rows]
