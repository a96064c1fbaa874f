"""OpenAI's completions of texts or token ids: ``n`` choices for each prompt."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from pydantic import Field

from atoll_client.errors import ValidationError
from atoll_client.gateway.core import encoders, tokens
from atoll_client.gateway.core.context import Context
from atoll_client.gateway.core.fields import refused
from atoll_client.gateway.core.generation import (
    Job,
    check_answers,
    complete_all,
    mean_logprob,
    stream_all,
)
from atoll_client.gateway.core.schemas import Inputs, batch
from atoll_client.gateway.core.sse import Events
from atoll_client.gateway.core.web import Reply, Request, reply
from atoll_client.gateway.openai import answers
from atoll_client.gateway.openai.constraints import constraint
from atoll_client.gateway.openai.errors import OpenAIMessages
from atoll_client.gateway.openai.sampling import (
    failure,
    identity,
    running_usage,
    sampling,
    usage,
    usage_wanted,
)
from atoll_client.gateway.openai.schemas import MAX_N, MAX_TOP_LOGPROBS, SamplingFields
from atoll_client.tasks import Prompt, Wanted
from atoll_client.types import Chunk, ModelInfo, Token

_DEFAULT_MAX_TOKENS = 16


class CompletionsBody(SamplingFields):
    """POST /v1/completions."""

    prompt: Inputs
    best_of: int | None = Field(None, ge=1, le=MAX_N)
    echo: bool = False
    logprobs: int | None = Field(None, ge=0, le=MAX_TOP_LOGPROBS)
    suffix: str | None = None

    prompt_embeds: Any = refused("prompts are texts or token ids")


async def completions(
    request: Request, context: Context, body: CompletionsBody
) -> Reply[answers.Completion] | Events[answers.Completion | answers.StreamError]:
    """``n`` choices for each prompt, the best of ``best_of`` that are generated."""
    request.labels["kind"] = "tgi"
    model = context.find(request, body.model, ("generate",))
    _check(body)
    items, _ = batch(body.prompt, "prompt")
    encoders.check_batch(request, context, len(items), model, "prompt")
    wanted = "n" if body.best_of is None else "best_of"
    check_answers(context, model, len(items), body.best_of or body.n, wanted)
    jobs = _jobs(request, body, model, items)
    echoes = await _echoes(request, context, body, model, items)
    head = identity(body.model or model.name, "cmpl")
    if body.stream:
        events = _events(request, context, body, jobs, echoes, head)
        return Events(events, failure, end=b"[DONE]")
    with OpenAIMessages(model, body, "prompt"):
        chunks = await complete_all(request, context, jobs)
    if _is_echo_only(body):
        chunks = [_without_output(chunk) for chunk in chunks]
    best = _best(chunks, body, len(chunks) // len(items))
    choices = [_Choice(body, i, echoes[i // body.n]).add(chunk) for i, chunk in enumerate(best)]
    counts = usage(chunks, len(items), has_prediction=body.prediction is not None)
    return reply(_completion(head, choices, counts))


def _completion(
    head: answers.Identity,
    choices: list[answers.CompletionChoice],
    counts: answers.RunningUsage | None,
) -> answers.Completion:
    return {**head, "object": "text_completion", "choices": choices, "usage": counts}


def _check(body: CompletionsBody) -> None:
    """Raises ValidationError: fields that contradict each other."""
    usage_wanted(body)
    if body.best_of is not None and body.best_of < body.n:
        raise ValidationError.of(
            "best_of", f"is {body.best_of}; the least allowed is `n`, {body.n}"
        )
    if body.stream and (body.best_of or body.n) > body.n:
        raise ValidationError.of(
            "best_of", f"is {body.best_of}; a stream has as many answers as `n`, {body.n}"
        )
    if body.max_tokens == 0 and not body.echo:
        raise ValidationError.of("max_tokens", "is 0; the least allowed without `echo` is 1")
    if body.echo and body.truncate_prompt_tokens is not None:
        raise ValidationError.of("truncate_prompt_tokens", "does not go with `echo`")
    if body.suffix:
        first = body.prompt if isinstance(body.prompt, str) else (body.prompt or [""])[0]
        if not isinstance(first, str):
            raise ValidationError.of("suffix", "goes with a text; `prompt` is token ids")
        if body.echo and body.logprobs is not None:
            raise ValidationError.of("suffix", "does not go with `echo` and `logprobs`")


def _is_echo_only(body: CompletionsBody) -> bool:
    return body.echo and body.max_tokens == 0


def _jobs(
    request: Request,
    body: CompletionsBody,
    model: ModelInfo,
    items: encoders.Items,
) -> list[Job]:
    """For each prompt, as many jobs as there are answers to choose from."""
    options = sampling(body, model, request, constraint(body))
    options["max_tokens"] = 1 if _is_echo_only(body) else body.max_tokens or _DEFAULT_MAX_TOKENS
    if body.suffix:
        options["suffix"] = body.suffix
    if body.logprobs:
        options["top_logprobs"] = body.logprobs
    wanted = Wanted(
        logprobs=body.logprobs is not None,
        prompt_logprobs=body.logprobs is not None and body.echo,
        cumulative_logprob=body.best_of is not None,
        num_cached_tokens=True,
        num_accepted_tokens=body.prediction is not None,
    )
    prompts = [
        Prompt(text=item) if isinstance(item, str) else Prompt(input_ids=item) for item in items
    ]
    return [
        Job(model, prompt, options, wanted).seeded(index)
        for prompt in prompts
        for index in range(1 if "n" in options else body.best_of or body.n)
    ]


def _best(chunks: list[Chunk], body: CompletionsBody, num_each: int) -> list[Chunk]:
    """The ``n`` most likely of ``num_each`` answers to each prompt, by mean log-probability, best
    first."""
    if num_each == body.n:
        return chunks
    groups = [chunks[i : i + num_each] for i in range(0, len(chunks), num_each)]
    return [
        chunk
        for group in groups
        for chunk in sorted(group, key=lambda one: -mean_logprob(one))[: body.n]
    ]


async def _echoes(
    request: Request,
    context: Context,
    body: CompletionsBody,
    model: ModelInfo,
    items: encoders.Items,
) -> list[str]:
    """The text before each prompt's answers."""
    if not body.echo:
        return [""] * len(items)
    if body.logprobs is not None and model.facts.get("decoder_start_token_id") is not None:
        reason = "the model reads its prompt apart from what it writes, without probabilities"
        raise ValidationError.of("echo", f"does not go with `logprobs`: {reason}")
    if isinstance(items[0], str):
        return [str(item) for item in items]
    return await tokens.decode(context, model, items, skip_special_tokens=False)


async def _events(
    request: Request,
    context: Context,
    body: CompletionsBody,
    jobs: list[Job],
    echoes: list[str],
    head: answers.Identity,
) -> AsyncIterator[answers.Completion]:
    ends: dict[int, Chunk] = {}
    choices = [_Choice(body, index, echoes[index // body.n]) for index in range(len(jobs))]
    has_usage = usage_wanted(body)
    with OpenAIMessages(jobs[0].model, body, "prompt"):
        async for index, chunk in stream_all(request, context, jobs):
            if _is_echo_only(body):
                chunk = _without_output(chunk)
            if chunk.finish_reason:
                ends[index] = chunk
            if choices[index].is_ready(chunk):
                counted = running_usage(body, chunk)
                found = _completion(head, [choices[index].add(chunk)], counted)
                if not has_usage:
                    del found["usage"]
                yield found
    if has_usage:
        last, num_prompts = [ends[i] for i in sorted(ends)], len(jobs) // body.n
        counts = usage(last, num_prompts, has_prediction=body.prediction is not None)
        yield _completion(head, [], counts)


class _Choice:
    """One answer, complete or in chunks, after its prompt if that is echoed."""

    def __init__(self, body: CompletionsBody, index: int, echo: str) -> None:
        self._body, self._index, self._echo = body, index, echo
        self._length = 0

    def is_ready(self, chunk: Chunk) -> bool:
        """False while the prompt has to be echoed first and its tokens have not arrived."""
        is_prompt_due = bool(self._echo) and self._body.logprobs is not None
        return not is_prompt_due or bool(chunk.prompt_tokens or chunk.finish_reason)

    def add(self, chunk: Chunk) -> answers.CompletionChoice:
        """The choice with what the chunk adds to it."""
        echo, self._echo = self._echo, ""
        logprobs = None
        if self._body.logprobs is not None:
            # The prompt as its tokens spell it: their offsets count from there.
            echo = "".join(token.text for token in chunk.prompt_tokens)
            tokens = [*chunk.prompt_tokens, *chunk.tokens]
            logprobs = _logprobs(tokens, self._body.logprobs, self._length)
        text = echo + chunk.text
        self._length += len(text)
        return {
            "index": self._index,
            "text": text,
            "logprobs": logprobs,
            "finish_reason": chunk.finish_reason or None,
        }


def _logprobs(tokens: list[Token], count: int, offset: int) -> answers.CompletionLogprobs:
    offsets = []
    for token in tokens:
        offsets.append(offset)
        offset += len(token.text)
    return {
        "tokens": [token.text for token in tokens],
        "token_logprobs": [token.logprob for token in tokens],
        "top_logprobs": [_top(token, count) for token in tokens],
        "text_offset": offsets,
    }


def _top(token: Token, count: int) -> dict[str, float] | None:
    """The most likely tokens and the token itself, by their texts, as OpenAI returns them.

    If two tokens have the same text, the second one is named by its id.
    """
    own = next((one.text for one in token.top if one.id == token.id), None)
    found: dict[str, float] = {}
    for index, one in enumerate(token.top):
        if index < count or one.id == token.id:
            is_taken = one.text in found or (one.text == own and one.id != token.id)
            found[f"token_id:{one.id}" if is_taken else one.text] = one.logprob
    return found or None


def _without_output(chunk: Chunk) -> Chunk:
    """The chunk without its text: ``max_tokens`` is 0, and the model generates at least one."""
    return Chunk(
        "", (), "length" if chunk.finish_reason else "", num_input_tokens=chunk.num_input_tokens,
        num_cached_tokens=chunk.num_cached_tokens, prompt_tokens=chunk.prompt_tokens,
    )  # fmt: skip
