"""Builds the requests and reads the answers of models that transcribe, for the clients and the
gateway."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from atoll_client import kserve
from atoll_client.errors import ValidationError
from atoll_client.kserve import Message, Parameters

# The bytes of a file, a file of this machine, or samples at 16 kHz.
Sound = bytes | os.PathLike[str] | Sequence[float] | Any


@dataclass(frozen=True)
class Segment:
    """A part of a transcript; start and end in seconds.

    tokens: with those of times. avg_logprob, temperature: of the window that it was heard in, which
    begins at the frame ``seek``. compression_ratio: large where a text repeats itself.
    """

    id: int
    seek: int
    start: float
    end: float
    text: str
    tokens: tuple[int, ...] = ()
    temperature: float = 0.0
    avg_logprob: float = 0.0
    compression_ratio: float = 0.0


@dataclass(frozen=True)
class Transcript:
    """What was said, or the part of it that a stream has gained.

    language: its code, as ``en``. duration: of the sound, in seconds.
    """

    text: str
    language: str = ""
    duration: float = 0.0
    segments: tuple[Segment, ...] = ()
    num_output_tokens: int = 0


def transcribe(
    model: str, sound: Sound, prompt: str | None, parameters: Parameters, request_id: str = ""
) -> Message:
    """A transcription. prompt: the text that the transcript follows."""
    message = kserve.request(model, parameters, kserve.unique(request_id))
    if isinstance(sound, (bytes, str)):
        kserve.add_texts(message, "audio", [sound], [1])
    else:
        kserve.add_array(message, "waveform", np.asarray(sound, np.float32).reshape(-1))
    if prompt:
        kserve.add_texts(message, "text_input", [prompt], [1])
    return message


def sound_of(sound: Sound) -> Any:
    """The sound that a call is given, as JSON and gRPC can carry it; a path is read here.

    Raises:
        ValidationError: it is a text.
    """
    if isinstance(sound, str):
        raise ValidationError(
            f"the sound is {sound!r:.80}; expected bytes, a pathlib.Path, or samples at 16 kHz"
        )
    if isinstance(sound, os.PathLike):
        sound = Path(sound).read_bytes()
    if isinstance(sound, bytes):
        return f"data:application/octet-stream;base64,{base64.b64encode(sound).decode()}"
    return sound


def read(response: Message) -> Transcript:
    """One response."""
    found = kserve.outputs(response)
    return Transcript(
        text=found["text_output"][0].decode(),
        language=found["language"][0].decode(),
        duration=round(float(found["duration"][0]), 3),
        segments=tuple(map(_segment, json.loads(found["segments"][0]))),
        num_output_tokens=int(found["num_output_tokens"][0]),
    )


def _segment(found: Mapping[str, Any]) -> Segment:
    return Segment(**{**found, "tokens": tuple(found["tokens"])})
