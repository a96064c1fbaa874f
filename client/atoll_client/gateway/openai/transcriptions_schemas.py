"""The bodies of OpenAI's routes for sounds, and their responses."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field
from typing_extensions import TypedDict

from atoll_client.gateway.core.fields import no_effect, refused
from atoll_client.gateway.core.schemas import FormBody

_NOT_HERE = "the models here do not do this"


class TranslationBody(FormBody):
    """POST /v1/audio/translations: a form, or JSON with the file as a data URI."""

    file: bytes | str
    model: str | None = None
    language: str | None = None
    prompt: str | None = None
    response_format: Literal["json", "text", "verbose_json", "srt", "vtt"] = "json"
    seed: int | None = Field(None, ge=0)
    stream: bool = False
    temperature: float = Field(0.0, ge=0, le=1)


class TranscriptionBody(TranslationBody):
    """POST /v1/audio/transcriptions: a form, or JSON with the file as a data URI."""

    timestamp_granularities: Any = refused("times are of segments", ["segment"], [])
    chunking_strategy: Any = no_effect("long sounds are heard in windows whatever it says")
    include: Any = refused("transcripts have no logprobs of tokens", [])
    keywords: Any = refused(_NOT_HERE)
    known_speaker_names: Any = refused(_NOT_HERE)
    known_speaker_references: Any = refused(_NOT_HERE)
    languages: Any = refused("see `language`")


class AudioUsage(TypedDict):
    """What was heard."""

    type: Literal["duration"]
    seconds: int


class Transcription(TypedDict):
    """A transcript."""

    text: str
    usage: AudioUsage


class TranscriptSegment(TypedDict):
    """A part of a transcript; times in seconds."""

    id: int
    seek: int
    start: float
    end: float
    text: str
    tokens: list[int]
    temperature: float
    avg_logprob: float
    compression_ratio: float
    no_speech_prob: float | None


class VerboseTranscription(Transcription):
    """A transcript with its segments. language: its English name."""

    task: Literal["transcribe", "translate"]
    language: str
    duration: float
    segments: list[TranscriptSegment]


class TranscriptDelta(TypedDict):
    """A segment of a stream."""

    type: Literal["transcript.text.delta"]
    delta: str


class TranscriptDone(TypedDict):
    """The end of a stream."""

    type: Literal["transcript.text.done"]
    text: str
