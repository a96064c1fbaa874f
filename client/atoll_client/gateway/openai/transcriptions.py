"""OpenAI's routes for sounds: what is said, in its language or in English."""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from typing import Literal

from atoll_client import speech
from atoll_client.errors import ValidationError
from atoll_client.gateway.core.context import Context
from atoll_client.gateway.core.rewording import Reworded
from atoll_client.gateway.core.sse import Events
from atoll_client.gateway.core.web import Reply, Request, Text, reply
from atoll_client.gateway.openai.answers import StreamError
from atoll_client.gateway.openai.sampling import failure
from atoll_client.gateway.openai.transcriptions_schemas import (
    AudioUsage,
    TranscriptDelta,
    TranscriptDone,
    Transcription,
    TranscriptionBody,
    TranscriptSegment,
    TranslationBody,
    VerboseTranscription,
)
from atoll_client.kserve import prioritize
from atoll_client.speech import Segment, Transcript
from atoll_client.types import ModelInfo

Task = Literal["transcribe", "translate"]
Answer = (
    Reply[Transcription | VerboseTranscription]
    | Text
    | Events[TranscriptDelta | TranscriptDone | StreamError]
)
_NAMED = re.compile(r"^(audio|text_input|[a-z_]+)\b")
# The models' names of fields.
_FIELDS = {"audio": "file", "text_input": "prompt"}


async def transcriptions(
    request: Request, context: Context, body: TranscriptionBody
) -> (
    Reply[Transcription | VerboseTranscription]
    | Text
    | Events[TranscriptDelta | TranscriptDone | StreamError]
):
    """What is said, in the language that it is said in."""
    return await _answer(request, context, body, "transcribe")


async def translations(
    request: Request, context: Context, body: TranslationBody
) -> (
    Reply[Transcription | VerboseTranscription]
    | Text
    | Events[TranscriptDelta | TranscriptDone | StreamError]
):
    """What is said, in English; ``language`` is the one that it is said in."""
    return await _answer(request, context, body, "translate")


class _Messages(Reworded):
    """A model's errors about a request by the route's names of fields."""

    def words(self, error: ValidationError) -> ValidationError:
        message = str(error)
        found = _NAMED.match(message)
        name = None if found is None else _FIELDS.get(found[1], found[1])
        if found is None or name not in TranslationBody.model_fields:
            return ValidationError(message)
        return ValidationError(f"{name}{message[found.end() :]}", param=name)


async def _answer(request: Request, context: Context, body: TranslationBody, task: Task) -> Answer:
    model = context.find(request, body.model, (task,))
    if body.stream:
        if body.response_format not in ("json", "text"):
            raise ValidationError.of(
                "response_format", f"is {body.response_format!r}; a stream has json or text"
            )
        return Events(_events(request, context, body, model, task), failure)
    with _Messages():
        (found,) = [one async for one in _transcripts(request, context, body, model, task)]
    if body.response_format in _WRITERS:
        return Text(_WRITERS[body.response_format](found).encode())
    usage: AudioUsage = {"type": "duration", "seconds": math.ceil(found.duration)}
    if body.response_format == "json":
        return reply({"text": found.text, "usage": usage})
    verbose: VerboseTranscription = {
        "task": task,
        "language": _named(model, found.language),
        "duration": found.duration,
        "text": found.text,
        "segments": list(map(_segment, found.segments)),
        "usage": usage,
    }
    return reply(verbose)


async def _transcripts(
    request: Request, context: Context, body: TranslationBody, model: ModelInfo, task: Task
) -> AsyncGenerator[Transcript, None]:
    """The whole transcript, or a stream's parts."""
    parameters = {
        "task": task, "language": body.language, "temperature": body.temperature,
        "seed": body.seed, "stream": body.stream,
    }  # fmt: skip
    message = speech.transcribe(model.name, body.file, body.prompt, parameters, request.request_id)
    prioritize(message, request.priority)
    responses = context.pool.stream(message, request.metadata)
    async with contextlib.aclosing(responses):
        async for response in responses:
            if response.outputs:
                yield speech.read(response)


async def _events(
    request: Request, context: Context, body: TranslationBody, model: ModelInfo, task: Task
) -> AsyncIterator[TranscriptDelta | TranscriptDone]:
    """A delta for each segment that says something; together they are the text at the end."""
    text = ""
    with _Messages():
        async with contextlib.aclosing(_transcripts(request, context, body, model, task)) as parts:
            async for part in parts:
                for segment in part.segments:
                    delta = segment.text if text else segment.text.lstrip()
                    text += delta
                    if delta:
                        yield {"type": "transcript.text.delta", "delta": delta}
    yield {"type": "transcript.text.done", "text": text}


def _named(model: ModelInfo, code: str) -> str:
    """What English calls a language, as OpenAI does."""
    names: Mapping[str, str] = model.facts.get("language_names") or {}
    return names.get(code, code)


def _segment(one: Segment) -> TranscriptSegment:
    return {
        "id": one.id, "seek": one.seek, "start": one.start, "end": one.end, "text": one.text,
        "tokens": list(one.tokens), "temperature": one.temperature,
        "avg_logprob": one.avg_logprob, "compression_ratio": one.compression_ratio,
        "no_speech_prob": None,
    }  # fmt: skip


def _plain(found: Transcript) -> str:
    return f"{found.text}\n"


def _srt(found: Transcript) -> str:
    """SubRip: numbered, with a comma in the times."""
    return "".join(
        f"{number}\n{_clock(one.start, ',')} --> {_clock(one.end, ',')}\n{_line(one)}\n\n"
        for number, one in enumerate(found.segments, 1)
    )


def _vtt(found: Transcript) -> str:
    """WebVTT."""
    cues = "".join(
        f"{_clock(one.start, '.')} --> {_clock(one.end, '.')}\n{_line(one)}\n\n"
        for one in found.segments
    )
    return f"WEBVTT\n\n{cues}"


_WRITERS = {"text": _plain, "srt": _srt, "vtt": _vtt}


def _clock(seconds: float, mark: str) -> str:
    milliseconds = round(seconds * 1000)
    minutes, rest = divmod(milliseconds, 60_000)
    return f"{minutes // 60:02}:{minutes % 60:02}:{rest // 1000:02}{mark}{rest % 1000:03}"


def _line(segment: Segment) -> str:
    """A cue's text: an empty line would end it, and an arrow begin another."""
    return " ".join(segment.text.split()).replace("-->", "->")
