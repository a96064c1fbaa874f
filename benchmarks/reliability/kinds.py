"""The kinds of requests of the load: bodies, by dialect, of few different ones each, so that their
answers can be compared with the first of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from random import Random
from typing import Any

import answers

Body = dict[str, Any]
Say = Callable[[list[dict[str, Any]]], Any]
PROMPTS = (
    "The capital of France is", "Water boils at", "Name three fruits.", "What is a lagoon?",
    "Count to ten.", "Write a line about the sea.", "Who wrote Hamlet?", "Say hello in Spanish.",
)  # fmt: skip
TEXTS = (
    "What is deep learning?", "A reef in the tide.", "cheese", "The sun sets behind the palms.",
    "lagoon " * 60, "Deep learning is a branch of machine learning.",
)  # fmt: skip


@dataclass(frozen=True)
class Models:
    """Names of served models; "": none of this kind. passing: those that come and go, embedders
    and (``passing_chats``) generators and adapters."""

    embedder: str = "all-minilm-l6-v2"
    generator: str = "smollm2-135m-instruct"
    reranker: str = ""
    classifier: str = ""
    passing: tuple[str, ...] = ()
    passing_chats: tuple[str, ...] = ()


@dataclass(frozen=True)
class Kind:
    """weight: how often, compared with others. say: what of an answer must be the same each time.

    is_bad: it must be refused. may_be_absent: 404 is right while the model is not loaded.
    """

    name: str
    path: str
    weight: float
    body: Callable[[Random], Body | bytes]
    say: Say = answers.text
    is_bad: bool = False
    may_be_absent: bool = False


def kinds(models: Models) -> list[Kind]:
    """All that these models can be asked over the gateway's HTTP."""
    found = [*_chats(models.generator), *_embeddings(models.embedder), *_bad(models)]
    found += _scores(models.reranker) if models.reranker else []
    if models.classifier:
        found.append(Kind("classification", "/predict", 1, _with("inputs", models.classifier), _n))
    for name in models.passing:
        found.append(Kind(f"embedding by {name}", "/v1/embeddings", 1,
                          _with("input", name), _n, may_be_absent=True))  # fmt: skip
    for name in models.passing_chats:
        found.append(Kind(f"chat with {name}", "/v1/chat/completions", 0.5,
                          _chat(name, "max_tokens"), may_be_absent=True))  # fmt: skip
    return found


def messages(prompt: str) -> list[Body]:
    """A chat of one message."""
    return [{"role": "user", "content": prompt}]


_n: Say = answers.numbers


def _none(found: list[dict[str, Any]]) -> None:
    """For answers that are drawn at random."""


def _tokens(found: list[dict[str, Any]]) -> Any:
    return found[0]["tokens"]


def _with(field: str, model: str, choices: Sequence[str] = TEXTS) -> Callable[[Random], Body]:
    return lambda random: {"model": model, field: random.choice(choices)}


def _length(random: Random) -> int:
    return random.choice([1, 8, 8, 16, 48])


def _chat(model: str, limit: str, **options: Any) -> Callable[[Random], Body]:
    def body(random: Random) -> Body:
        asked = messages(random.choice(PROMPTS))
        return {"model": model, "messages": asked, limit: _length(random),
                "temperature": 0, **options}  # fmt: skip

    return body


def _sampled(model: str) -> Callable[[Random], Body]:
    chat = _chat(model, "max_tokens", stream=True, n=2)
    return lambda random: chat(random) | {"temperature": 1.0}


def _prompted(
    model: str, field: str, limit: str, inside: str = "", **options: Any
) -> Callable[[Random], Body]:
    """inside: the field that holds limit and options, if they have one of their own."""

    def body(random: Random) -> Body:
        said = {limit: _length(random), **options}
        return {
            "model": model,
            field: random.choice(PROMPTS),
            **({inside: said} if inside else said),
        }

    return body


def _ollama(model: str, stream: bool) -> Callable[[Random], Body]:
    def body(random: Random) -> Body:
        return {"model": model, "messages": messages(random.choice(PROMPTS)), "stream": stream,
                "options": {"num_predict": _length(random), "temperature": 0}}  # fmt: skip

    return body


def _chats(model: str) -> list[Kind]:
    chat = "/v1/chat/completions"
    found = [
        Kind("chat, drawn, two at once", chat, 0.5, _sampled(model), _none),
        Kind("tokenization", "/tokenize", 1, _with("prompt", model), _tokens),
        Kind("TGI, streamed", "/generate_stream", 1,
             _prompted(model, "inputs", "max_new_tokens", "parameters")),
    ]  # fmt: skip
    for stream in (False, True):
        end = ", streamed" if stream else ""
        also: Body = {"stream": True} if stream else {}
        found += [
            Kind(f"chat{end}", chat, 2, _chat(model, "max_tokens", **also)),
            Kind(f"completion{end}", "/v1/completions", 1,
                 _prompted(model, "prompt", "max_tokens", temperature=0, **also)),
            Kind(f"response{end}", "/v1/responses", 1,
                 _prompted(model, "input", "max_output_tokens", temperature=0, **also)),
            Kind(f"Anthropic message{end}", "/v1/messages", 1, _chat(model, "max_tokens", **also)),
            Kind(f"Ollama chat{end}", "/api/chat", 1, _ollama(model, stream)),
        ]  # fmt: skip
    return found


def _embeddings(model: str) -> list[Kind]:
    def several(random: Random) -> Body:
        return {"model": model, "input": list(TEXTS[: random.randint(2, len(TEXTS))])}

    return [
        Kind("embedding", "/v1/embeddings", 3, _with("input", model), _n),
        Kind("embeddings of several texts", "/v1/embeddings", 1, several, _n),
        Kind("embedding (TEI)", "/embed", 1, _with("inputs", model), _n),
        Kind("embedding (Ollama)", "/api/embed", 1, _with("input", model), _n),
    ]


def _scores(model: str) -> list[Kind]:
    def rerank(random: Random) -> Body:
        return {"model": model, "query": random.choice(TEXTS[:3]), "documents": list(TEXTS[3:])}

    def score(random: Random) -> Body:
        return {"model": model, "text_1": random.choice(TEXTS[:3]), "text_2": list(TEXTS[3:])}

    return [
        Kind("rerank", "/v1/rerank", 1, rerank, _n),
        Kind("score", "/v1/score", 1, score, _n),
    ]


def _bad(models: Models) -> list[Kind]:
    chat = {"model": models.generator, "messages": messages(PROMPTS[0])}
    wrong: list[tuple[str, Body | bytes]] = [
        ("/v1/chat/completions", chat | {"temperature": "hot"}),
        ("/v1/chat/completions", chat | {"max_tokens": 10**9}),
        ("/v1/chat/completions", chat | {"model": "nobody"}),
        ("/v1/chat/completions", b'{"model": '),
        ("/v1/completions", {"model": models.generator, "prompt": "x", "no_such_option": 1}),
        ("/v1/embeddings", {"model": models.embedder, "input": ""}),
        ("/v1/embeddings", {"model": models.embedder, "input": [["x"], {}]}),
        ("/v1/messages", {"model": models.generator, "messages": []}),
        ("/v1/responses", {"model": models.generator, "input": 7}),
        ("/api/chat", {"model": models.generator, "messages": "hello"}),
        ("/tokenize", {"model": models.generator}),
    ]
    return [
        Kind("bad request", path, 0.2, partial(_always, body), _none, is_bad=True)
        for path, body in wrong
    ]


def _always(body: Body | bytes, random: Random) -> Body | bytes:
    return body
