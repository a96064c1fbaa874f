"""Generation for every dialect: prompts and sampling options in, chunks out."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from atoll_client import kserve, tasks
from atoll_client.errors import AtollError, ValidationError
from atoll_client.gateway.core.affinity import Origin
from atoll_client.gateway.core.context import Context
from atoll_client.gateway.core.web import Request
from atoll_client.tasks import Prompt, Wanted
from atoll_client.types import Chunk, ModelInfo


class Incomplete(AtollError):
    """A generation that the model ended without a finish reason."""

    error_type = "incomplete_generation"


@dataclass(frozen=True)
class Job:
    """One answer to generate. ``sampling``: options with the model's names."""

    model: ModelInfo
    prompt: Prompt
    sampling: Mapping[str, Any]
    wanted: Wanted = Wanted()

    def seeded(self, index: int) -> Job:
        """The job of another of ``n`` answers: it gets another seed, if there is one."""
        seed = self.sampling.get("seed")
        if seed is None or index == 0:
            return self
        return replace(self, sampling={**self.sampling, "seed": (int(seed) + index) % 2**63})


async def stream(
    request: Request, context: Context, job: Job, *, is_stream: bool = True
) -> AsyncGenerator[Chunk, None]:
    """Chunks of one answer; the last one has a finish reason.

    is_stream: whether the model sends chunks as they are generated, or one for a complete answer.

    Raises:
        Incomplete: no chunk has a finish reason.
    """
    message = tasks.generate(
        job.model.name, job.prompt, job.sampling, stream=is_stream, wanted=job.wanted,
        request_id=request.request_id,
    )  # fmt: skip
    kserve.prioritize(message, request.priority)
    ended = False
    origin = Origin(request.session_name, lambda: job.prompt)
    responses = context.pool.stream(message, request.metadata, origin)
    async with contextlib.aclosing(responses):
        async for response in responses:
            for chunk in kserve.read_chunks(response):
                ended = ended or bool(chunk.finish_reason)
                _note(request, chunk)
                yield chunk
    if not ended:
        raise Incomplete("the answer ended before it was complete")


def _note(request: Request, chunk: Chunk) -> None:
    """Adds a chunk to what the request has taken. The counts are in each answer's last chunk."""
    usage = request.usage
    if usage.first_s is None:
        usage.first_s = time.perf_counter() - request.started
    if chunk.finish_reason:
        usage.num_input_tokens += chunk.num_input_tokens
        usage.num_output_tokens += chunk.num_output_tokens
        usage.finish_reasons.append(chunk.finish_reason)


async def complete(request: Request, context: Context, job: Job) -> list[Chunk]:
    """A complete answer, or ``n`` of them if the job's sampling says so."""
    async with contextlib.aclosing(stream(request, context, job, is_stream=False)) as chunks:
        found = [chunk async for chunk in chunks]
    return found[: int(job.sampling.get("n", 1))]


async def complete_all(request: Request, context: Context, jobs: Sequence[Job]) -> list[Chunk]:
    """The answers of each job, concurrently. If one fails, the others are cancelled."""
    if len(jobs) == 1:
        return await complete(request, context, jobs[0])
    with context.admission.admitted(request.client_name, len(jobs) - 1):
        work = [asyncio.create_task(complete(request, context, job)) for job in jobs]
        try:
            return [chunk for chunks in await asyncio.gather(*work) for chunk in chunks]
        finally:
            await _ended(work)


async def stream_all(
    request: Request, context: Context, jobs: Sequence[Job]
) -> AsyncGenerator[tuple[int, Chunk], None]:
    """Chunks of several answers, with the index of the answer."""
    if len(jobs) == 1:
        async with contextlib.aclosing(stream(request, context, jobs[0])) as chunks:
            async for chunk in chunks:
                yield 0, chunk
        return
    with context.admission.admitted(request.client_name, len(jobs) - 1):
        async with contextlib.aclosing(_joined(request, context, jobs)) as joined:
            async for pair in joined:
                yield pair


async def _joined(
    request: Request, context: Context, jobs: Sequence[Job]
) -> AsyncGenerator[tuple[int, Chunk], None]:
    queue: asyncio.Queue[tuple[int, Chunk | None] | BaseException] = asyncio.Queue()
    work = [
        asyncio.create_task(_pump(request, context, i, job, queue)) for i, job in enumerate(jobs)
    ]
    try:
        num_open = len(work)
        while num_open:
            item = await queue.get()
            if isinstance(item, BaseException):
                raise item
            index, found = item
            if found is None:
                num_open -= 1
            else:
                yield index, found
    finally:
        await _ended(work)


async def _ended(work: Sequence[asyncio.Task[Any]]) -> None:
    """Cancels the tasks and waits for them, so that servers stop working on a failed request."""
    for task in work:
        task.cancel()
    await asyncio.gather(*work, return_exceptions=True)


async def _pump(
    request: Request, context: Context, index: int, job: Job, queue: asyncio.Queue[Any]
) -> None:
    try:
        async with contextlib.aclosing(stream(request, context, job)) as chunks:
            async for chunk in chunks:
                queue.put_nowait((index, chunk))
        queue.put_nowait((index, None))
    except Exception as error:
        queue.put_nowait(error)


def check_answers(
    context: Context, model: ModelInfo, num_prompts: int, num_answers: int, field: str = "n"
) -> None:
    """Raises ValidationError: a request asks for too many answers. num_answers: per prompt, as
    ``field`` says."""
    held = int(model.facts.get("max_concurrent_requests") or num_prompts * num_answers)
    limit, name = context.settings.max_answers, "max_answers"
    if held < limit:
        limit, name = held, "the model's max_concurrent_requests"
    if num_prompts * num_answers > limit:
        raise ValidationError.of(
            field,
            f"is {num_answers}, for {num_prompts} prompts: {num_prompts * num_answers} answers "
            f"in one request; {name} is {limit}",
        )


def mean_logprob(chunk: Chunk) -> float:
    """The mean log-probability, by which OpenAI and TGI choose the best of several answers."""
    return (chunk.cumulative_logprob or 0.0) / max(chunk.num_output_tokens, 1)


def adapter_of(request: Request, named: str | None, model: ModelInfo) -> str | None:
    """The LoRA adapter that the path or the field ``model`` names, if it is one."""
    return next((name for name in (request.model, named) if name in model.adapters), None)


def given(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """The options that are set."""
    return {name: value for name, value in pairs if value is not None}
