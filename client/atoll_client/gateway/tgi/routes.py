"""Text Generation Inference's routes, with its responses, messages and event streams."""

from __future__ import annotations

import re
import time
from collections.abc import AsyncIterator
from typing import Any

from atoll_client.errors import AtollError, ValidationError
from atoll_client.gateway.core import tokens
from atoll_client.gateway.core.context import Context
from atoll_client.gateway.core.error_formats import TeiError, typed_error
from atoll_client.gateway.core.generation import Job, complete_all, mean_logprob, stream
from atoll_client.gateway.core.rewording import Reworded
from atoll_client.gateway.core.sse import Events
from atoll_client.gateway.core.web import Reply, Request, reply
from atoll_client.gateway.openai.messages import TemplateFields, check_messages
from atoll_client.gateway.tgi import answers
from atoll_client.gateway.tgi.schemas import GenerateBody, Parameters, check, does_sample, sampling
from atoll_client.tasks import Prompt, Wanted
from atoll_client.types import Chunk, ModelInfo, Token


class ChatTokenizeBody(TemplateFields):
    """POST /chat_tokenize."""

    model: str | None = None


async def generate(
    request: Request, context: Context, body: GenerateBody
) -> Reply[answers.Generated]:
    """POST /generate: one object."""
    found, headers = await _generate(request, context, body)
    return reply(found, headers)


async def generate_stream(
    request: Request, context: Context, body: GenerateBody
) -> Events[answers.GeneratedEvent | TeiError]:
    """POST /generate_stream: an event for each token."""
    model = _find(request, context, body)
    check(body, model, is_stream=True)
    job = Job(model, Prompt(text=body.inputs), sampling(body.parameters), Wanted(logprobs=True))
    return Events(_events(request, context, job, body), _failure, {"x-compute-type": "triton"})


async def compatible(
    request: Request, context: Context, body: GenerateBody
) -> Reply[list[answers.Generated]] | Events[answers.GeneratedEvent | TeiError]:
    """POST / and /invocations: a list of one object, or events if ``stream`` is set."""
    if body.stream:
        return await generate_stream(request, context, body)
    found, headers = await _generate(request, context, body)
    return reply([found], headers)


async def tokenize(
    request: Request, context: Context, body: GenerateBody
) -> Reply[list[answers.SimpleToken]]:
    """POST /tokenize: a flat list of tokens, with character offsets."""
    model = _find(request, context, body)
    texts = [body.inputs]
    (row,) = await tokens.tokenize(context, model, texts)

    def found() -> Reply[list[answers.SimpleToken]]:
        return reply([_simple(token) for token in row])

    return await tokens.run_in_thread(texts, found)


async def chat_tokenize(
    request: Request, context: Context, body: ChatTokenizeBody
) -> Reply[answers.ChatTokens]:
    """POST /chat_tokenize: the prompt that the chat template makes of messages."""
    model = context.find(request, body.model, ("generate",))
    check_messages(body.messages)
    messages = [message.given() for message in body.messages]
    tools = [tool.given() for tool in body.tools or ()]
    question = {
        "op": "chat", "messages": messages, "tools": tools or None,
        "options": body.template_options(),
    }  # fmt: skip
    answer = await context.pool.ask(model.name, question)
    text, row = answer["text"], answer["tokens"]

    def found() -> Reply[answers.ChatTokens]:
        simple = [_simple(token) for token in row]
        return reply({"tokenize_response": simple, "templated_text": text})

    return await tokens.run_in_thread([text], found)


async def _generate(
    request: Request, context: Context, body: GenerateBody
) -> tuple[answers.Generated, dict[str, str]]:
    model = _find(request, context, body)
    p = body.parameters
    check(body, model, is_stream=False)
    has_details = p.details or p.decoder_input_details
    best_of = p.best_of or 1
    wanted = Wanted(
        logprobs=has_details or best_of > 1,
        prompt_logprobs=p.decoder_input_details,
        cumulative_logprob=best_of > 1,
    )
    jobs = [Job(model, Prompt(text=body.inputs), sampling(p), wanted) for _ in range(best_of)]
    began = time.perf_counter()
    with TgiMessages(model, p):
        chunks = await complete_all(request, context, jobs)
    ranked = sorted(zip(chunks, jobs, strict=True), key=lambda pair: -mean_logprob(pair[0]))
    (best, job), others = ranked[0], ranked[1:]
    found: answers.Generated = {"generated_text": _full(body, best.text)}
    if has_details:
        sequences: list[answers.Sequence] = [
            {"generated_text": _full(body, chunk.text), **_details(chunk, other, p)}
            for chunk, other in others
        ]
        details: answers.Details = {**_details(best, job, p), "best_of_sequences": sequences}
        if not sequences:
            del details["best_of_sequences"]
        found["details"] = details
    return found, _headers(request, body, best, began)


async def _events(
    request: Request, context: Context, job: Job, body: GenerateBody
) -> AsyncIterator[answers.GeneratedEvent]:
    index, text, last = 0, "", Token(0, "", 0.0, True)
    with TgiMessages(job.model, body.parameters):
        async for chunk in stream(request, context, job):
            tokens = list(chunk.tokens)
            text += chunk.text
            if chunk.finish_reason and not tokens:
                # The last token was sent before it was known to be the last: sent again, empty.
                tokens = [last._replace(text="", name="", special=True)]
                index -= 1
            for at, token in enumerate(tokens):
                index += 1
                is_last = bool(chunk.finish_reason) and at == len(tokens) - 1
                event: answers.GeneratedEvent = {
                    "index": index,
                    "token": _token(token),
                    "generated_text": _full(body, text) if is_last else None,
                    "details": _end(chunk, job) if is_last else None,
                }
                if job.sampling.get("top_logprobs"):
                    event["top_tokens"] = _top(token, int(job.sampling["top_logprobs"]))
                yield event
                last = token


def _find(request: Request, context: Context, body: GenerateBody) -> ModelInfo:
    request.labels["kind"] = "tgi"
    model = context.find(request, body.model, ("generate",))
    for name in (request.model, body.model):
        if name in model.adapters and body.parameters.adapter_id is None:
            body.parameters.adapter_id = name
    return model


def _full(body: GenerateBody, text: str) -> str:
    return body.inputs + text if body.parameters.return_full_text else text


def _details(chunk: Chunk, job: Job, p: Parameters) -> answers.SequenceDetails:
    found: answers.SequenceDetails = {
        "finish_reason": reason(chunk),
        "generated_tokens": chunk.num_output_tokens,
        "seed": job.sampling.get("seed") if does_sample(p) else None,
        "prefill": [
            {"id": t.id, "text": _text(t), "logprob": t.logprob} for t in chunk.prompt_tokens
        ],
        "tokens": [_token(token) for token in chunk.tokens],
    }
    if p.top_n_tokens:
        found["top_tokens"] = [_top(token, p.top_n_tokens) for token in chunk.tokens]
    return found


def _end(chunk: Chunk, job: Job) -> answers.StreamDetails:
    return {
        "finish_reason": reason(chunk),
        "generated_tokens": chunk.num_output_tokens,
        "seed": job.sampling.get("seed") if job.sampling.get("do_sample") else None,
        "input_length": chunk.num_input_tokens,
    }


def reason(chunk: Chunk) -> str:
    """TGI's name of the reason why an answer ended."""
    if chunk.finish_reason == "length":
        return "length"
    return "stop_sequence" if chunk.stop_string else "eos_token"


def _text(token: Token) -> str:
    """The text of a token; a special one, which adds none, is shown by its name."""
    return token.name if token.special else token.text


def _token(token: Token) -> answers.GeneratedToken:
    return {
        "id": token.id,
        "text": _text(token),
        "logprob": token.logprob if token.logprob is not None else 0.0,
        "special": token.special,
    }


def _top(token: Token, count: int) -> list[answers.GeneratedToken]:
    return [
        {"id": t.id, "text": t.text, "logprob": t.logprob, "special": t.special}
        for t in token.top[:count]
    ]


def _simple(token: dict[str, Any]) -> answers.SimpleToken:
    return {
        "id": token["id"], "text": token["text"],
        "start": token["start"] or 0, "stop": token["stop"] or 0,
    }  # fmt: skip


def _failure(error: AtollError) -> TeiError:
    return typed_error("tgi", error)


def _headers(request: Request, body: GenerateBody, chunk: Chunk, began: float) -> dict[str, str]:
    """TGI's headers, in milliseconds. Times inside the server are in /metrics, not here."""
    now = time.perf_counter()
    total, inference = 1000 * (now - request.started), 1000 * (now - began)
    return {
        "x-compute-type": "triton",
        "x-compute-time": f"{total / 1000:.3f}",
        "x-compute-characters": str(len(body.inputs)),
        "x-total-time": f"{total:.0f}",
        "x-validation-time": f"{total - inference:.0f}",
        "x-inference-time": f"{inference:.0f}",
        "x-time-per-token": f"{inference / max(chunk.num_output_tokens, 1):.0f}",
        "x-prompt-tokens": str(chunk.num_input_tokens),
        "x-generated-tokens": str(chunk.num_output_tokens),
    }


class TgiMessages(Reworded):
    """``with``: "too long" in TGI's words, with the numbers of the model's message."""

    def __init__(self, model: ModelInfo, p: Parameters) -> None:
        self._model, self._asked = model, sampling(p)["max_tokens"]

    def words(self, error: ValidationError) -> ValidationError | None:
        found = re.search(r"has (\d+) tokens", str(error))
        if not found:
            return None
        if "max_total_tokens" in str(error):
            total = self._model.facts.get("max_total_tokens")
            return ValidationError(
                f"`inputs` tokens + `max_new_tokens` must be <= {total}. Given: {found[1]} "
                f"`inputs` tokens and {self._asked} `max_new_tokens`"
            )
        return ValidationError(
            f"`inputs` must have less than {self._model.max_input_tokens} tokens. Given: {found[1]}"
        )
