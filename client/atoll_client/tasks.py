"""Builds the requests and reads the answers of what scores texts or generates them, for the
clients and the gateway."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from atoll_client import kserve, scores
from atoll_client.errors import ValidationError
from atoll_client.kserve import Message, Parameters
from atoll_client.scores import Scores
from atoll_client.types import (
    Chunk,
    Floats,
    Generation,
    Label,
    ModelInfo,
    Rank,
)

# Tasks of models that do not generate text.
ENCODER_TASKS = ("embed", "sparse", "rerank", "classify", "token_classify", "multi_vector")
ANY_TASK = (*ENCODER_TASKS, "generate", "transcribe")
# Tasks of models that score texts for a query.
RANKING_TASKS = ("rerank", "multi_vector")


def rerank(
    model: str, query: str | Sequence[str], texts: Sequence[str], parameters: Parameters
) -> Message:
    """A query and texts to a score for each text; several queries: one for each text."""
    message = kserve.request(model, parameters, kserve.unique())
    queries = [query] if isinstance(query, str) else query
    kserve.add_texts(message, "query", queries, [len(queries), 1])
    kserve.add_texts(message, "text_input", texts, [len(texts), 1])
    return message


def rank(
    model: ModelInfo, query: str | Sequence[str], texts: Sequence[str], parameters: Parameters
) -> Message:
    """``rerank``, by a reranker's logits or by late interaction, which has no others.

    Raises:
        ValidationError: an instruction for late interaction.
    """
    if model.task == "rerank":
        return rerank(model.name, query, texts, {**parameters, "raw_scores": True})
    instruction = parameters.get("instruction")
    if instruction is not None:
        raise ValidationError.of(
            "instruction",
            f"is {instruction!r:.80}; {model.name!r} compares vectors of tokens, and takes none: "
            "its prompts for queries and documents are those of its checkpoint",
        )  # fmt: skip
    message = rerank(model.name, query, texts, parameters)
    for name in ("score", "num_input_tokens"):  # not the vectors, which are much larger
        message.outputs.add(name=name)
    return message


def classify(
    model: str, texts: Sequence[str], pairs: Sequence[str] | None, parameters: Parameters
) -> Message:
    """Texts, or pairs of texts, to one score for each label."""
    message = kserve.request(model, parameters, kserve.unique())
    kserve.add_texts(message, "text_input", texts, [len(texts), 1])
    if pairs is not None:
        kserve.add_texts(message, "text_pair", pairs, [len(pairs), 1])
    return message


def read_scores(response: Message) -> tuple[Floats, Any]:
    """Logits of a reranker or classifier, (texts, labels), and token counts.

    The request was ``rank``'s, or had ``raw_scores``: the model's own scores are float32, in which
    many may be equal.
    """
    found = kserve.outputs(response)
    return found["score"], found["num_input_tokens"].reshape(-1)


@dataclass(frozen=True)
class Prompt:
    """A generator's prompt: a text, chat messages (JSON values), or token ids."""

    text: str | None = None
    messages: Sequence[Mapping[str, Any]] | None = None
    tools: Sequence[Mapping[str, Any]] | None = None
    input_ids: Sequence[int] | None = None


@dataclass(frozen=True)
class Wanted:
    """What an answer contains besides text, finish reason and token counts."""

    logprobs: bool = False
    prompt_logprobs: bool = False
    cumulative_logprob: bool = False
    token_ids: bool = False
    num_cached_tokens: bool = False
    num_accepted_tokens: bool = False


def generate(
    model: str,
    prompt: Prompt,
    sampling: Mapping[str, Any],
    *,
    stream: bool,
    wanted: Wanted | None = None,
    request_id: str = "",
    session: str | None = None,
) -> Message:
    """A generation. ``sampling``: the model's options; ``max_tokens`` None is unlimited."""
    message = kserve.request(model, request_id=kserve.unique(request_id))
    if session is not None:
        message.parameters["sequence_id"].string_param = session
    if prompt.messages is not None:
        kserve.add_texts(message, "messages", [_json(prompt.messages)], [1])
        if prompt.tools:
            kserve.add_texts(message, "tools", [_json(prompt.tools)], [1])
    elif prompt.input_ids is not None:
        kserve.add_integers(message, "input_ids", prompt.input_ids)
    else:
        kserve.add_texts(message, "text_input", [prompt.text or ""], [1])
    kserve.add_texts(message, "sampling_parameters", [_json(sampling)], [1])
    kserve.add_flag(message, "stream", stream)
    for name in ("finish_reason", "num_input_tokens", "num_output_tokens"):
        kserve.add_flag(message, f"return_{name}", True)
    wanted = wanted or Wanted()
    for field in fields(wanted):
        if getattr(wanted, field.name):
            kserve.add_flag(message, f"return_{field.name}", True)
    return message


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def prompt_of(prompt: Any) -> Prompt:
    """The prompt given as a text, as token ids, or as chat messages."""
    if isinstance(prompt, str):
        return Prompt(text=prompt)
    if len(prompt) and isinstance(prompt[0], Mapping):
        return Prompt(messages=prompt)
    return Prompt(input_ids=prompt)


def split_options(options: Mapping[str, Any]) -> tuple[dict[str, Any], Wanted, str | None]:
    """Splits options into sampling options, the contents of the answer, and its conversation."""
    sampling = dict(options)
    session = sampling.pop("session", None)
    has_logprobs = _is_asked(sampling.get("logprobs")) or bool(sampling.get("top_logprobs"))
    wanted = Wanted(
        logprobs=has_logprobs,
        prompt_logprobs=_is_asked(sampling.get("prompt_logprobs")),
        cumulative_logprob=has_logprobs,
        token_ids=bool(sampling.pop("token_ids", False)),
    )
    return sampling, wanted, session


def joined(chunks: Sequence[Chunk]) -> Generation:
    """The complete answer, from all of its chunks."""
    last = chunks[-1]
    return Generation(
        text="".join(chunk.text for chunk in chunks),
        tokens=tuple(token for chunk in chunks for token in chunk.tokens),
        finish_reason=last.finish_reason,
        stop_string=last.stop_string,
        num_input_tokens=last.num_input_tokens,
        num_output_tokens=last.num_output_tokens,
        cumulative_logprob=last.cumulative_logprob,
        prompt_tokens=next((c.prompt_tokens for c in chunks if c.prompt_tokens), ()),
    )


def check_one(options: Mapping[str, Any]) -> None:
    """Raises ValidationError: the options ask for several answers."""
    if options.get("n") not in (None, 1):
        is_search = options.get("num_beams") not in (None, 1) or options.get("use_beam_search")
        how = "that of a beam search is its best" if is_search else "ask again with another seed"
        raise ValidationError(f"n is {options['n']!r}; a generation is one answer: {how}")


def _is_asked(value: Any) -> bool:
    """Whether it is true, or vLLM's number of alternatives: 0 asks for the token itself."""
    return value is not None and value is not False


def paired(texts: Sequence[str], pairs: Sequence[str] | None) -> list[tuple[str, str | None]]:
    """Pairs each text with its second one, if there are any.

    Raises:
        ValidationError: their numbers differ.
    """
    others: Sequence[str | None] = [None] * len(texts) if pairs is None else pairs
    if len(others) != len(texts):
        raise ValidationError(f"there are {len(texts)} texts, and {len(others)} pairs")
    return list(zip(texts, others, strict=True))


def ranked(
    model: ModelInfo,
    parts: Sequence[tuple[Floats, Any]],
    texts: Sequence[str],
    is_raw: bool,
    top_n: int | None = None,
) -> list[Rank]:
    """Texts with a reranker's scores, the best first; ties in their original order.

    parts: the results of ``read_scores`` for each part of the texts.

    Raises:
        ValidationError: ``top_n`` is less than 1.
    """
    if top_n is not None and top_n < 1:
        raise ValidationError(f"top_n is {top_n}; the least allowed is 1")
    if not parts:
        return []
    logits = np.concatenate([part for part, _ in parts])
    found = scores.of_texts(logits, scores.activation_of(model, 1, is_raw))
    return [Rank(i, found.values[i], texts[i]) for i in found.order[:top_n]]


def classified(
    model: ModelInfo, parts: Sequence[tuple[Floats, Any]], is_raw: bool
) -> list[list[Label]]:
    """A classifier's labels for each text; parts: see ``ranked``."""
    if not parts:
        return []
    logits = np.concatenate([part for part, _ in parts])
    rows = scores.of_labels(logits, scores.activation_of(model, logits.shape[-1], is_raw))
    return [labelled(model, row) for row in rows]


def labelled(model: ModelInfo, found: Scores) -> list[Label]:
    """Labels with scores, the best first; ties in the model's order."""
    names = model.labels or tuple(f"LABEL_{i}" for i in range(len(found.values)))
    return [Label(names[i], found.values[i]) for i in found.order]
