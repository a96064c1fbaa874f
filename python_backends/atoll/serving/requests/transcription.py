"""What Whisper has heard: an answer's tokens as segments with times, and where to listen next.

Source: transformers' ``WhisperGenerationMixin._retrieve_segment``. A segment ends where two times
follow each other; what comes behind the last pair is thrown away, and heard again by the next
window.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from atoll.text.speech import TIME_STEP, SpeechTokens
from atoll.text.tokenizer import Tokenizer


class Window(NamedTuple):
    """The part of a sound that one answer is about.

    start, num_frames: in frames of the spectrogram. frame_s: seconds of a frame.
    """

    start: int
    num_frames: int
    frame_s: float

    @property
    def start_s(self) -> float:
        """Seconds from the sound's beginning."""
        return self.start * self.frame_s

    @property
    def num_times(self) -> int:
        """The time at its end."""
        return int(self.num_frames * self.frame_s / TIME_STEP)


class Heard(NamedTuple):
    """A part of an answer: its tokens, and seconds from the sound's beginning."""

    start: float
    end: float
    tokens: tuple[int, ...]


def split(tokens: Sequence[int], window: Window, first_time: int) -> tuple[list[Heard], int]:
    """The segments of an answer without its end, and how many frames of the window they took.

    first_time: see ``SpeechTokens``.
    """
    is_time = [token >= first_time for token in tokens]
    has_one_at_end = is_time[-2:] == [False, True]
    cuts = [i + 1 for i in range(len(tokens) - 1) if is_time[i] and is_time[i + 1]]

    def seconds(token: int) -> float:
        return window.start_s + (token - first_time) * TIME_STEP

    if not cuts:
        last = next((token for token in reversed(tokens) if token >= first_time), first_time)
        is_told = last != first_time
        end = seconds(last if is_told else first_time + window.num_times)
        return [Heard(window.start_s, end, tuple(tokens))], window.num_frames
    if has_one_at_end:
        cuts.append(len(tokens))
    else:
        cuts[-1] += 1  # the second of the last two times shows that the segment had ended
    found, begin = [], 0
    for cut in cuts:
        part = tuple(tokens[begin:cut])
        last = part[-2] if cut == cuts[-1] and not has_one_at_end else part[-1]
        found.append(Heard(seconds(part[0]), seconds(last), part))
        begin = cut
    if has_one_at_end:  # nothing is said behind it
        return found, window.num_frames
    taken = round((tokens[begin - 2] - first_time) * TIME_STEP / window.frame_s)
    # A window in which nothing is taken would be heard forever.
    return found, taken or window.num_frames


@dataclass(frozen=True)
class Segment:
    """Of a transcript, as in OpenAI's verbose_json.

    id: its number. seek: the frame at which its window begins. start, end: in seconds.
    avg_logprob: mean of its window's tokens, by the model's own scores, the end included.
    compression_ratio: of the text's bytes to what zlib makes of them, large where it repeats
    itself.
    """

    id: int
    seek: int
    start: float
    end: float
    text: str
    tokens: tuple[int, ...]
    temperature: float
    avg_logprob: float
    compression_ratio: float

    def as_json(self) -> dict[str, Any]:
        """As JSON values."""
        return {**self.__dict__, "tokens": list(self.tokens)}


class SegmentWriter:
    """Makes the segments of one transcript."""

    def __init__(self, tokenizer: Tokenizer, speech: SpeechTokens, temperature: float) -> None:
        self._tokenizer, self._speech, self._temperature = tokenizer, speech, temperature
        self._count = 0

    def segments(self, heard: Sequence[Heard], window: Window, avg_logprob: float) -> list[Segment]:
        """The segments of one window's answer."""
        found = []
        for part in heard:
            text = self._text(part.tokens)
            data = text.encode()
            ratio = len(data) / len(zlib.compress(data))
            found.append(
                Segment(
                    self._count, window.start, round(part.start, 2), round(part.end, 2), text,
                    part.tokens, self._temperature, avg_logprob, ratio,
                )
            )  # fmt: skip
            self._count += 1
        return found

    def _text(self, tokens: Sequence[int]) -> str:
        """Without times, which some tokenizers know and others do not."""
        return self._tokenizer.decode([t for t in tokens if t < self._speech.no_times])


def to_json(segments: Sequence[Segment]) -> str:
    """A list of segments."""
    return json.dumps([segment.as_json() for segment in segments], ensure_ascii=False)
