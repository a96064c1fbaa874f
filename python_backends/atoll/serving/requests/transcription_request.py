"""Transcription requests: one sound each, heard window by window, each window an engine's request.

The engine's thread only queues what it delivers; the response streamer's thread makes segments of
an answer and submits the next window.
"""

from __future__ import annotations

import itertools
import time
from collections import deque
from dataclasses import dataclass
from typing import Any, NamedTuple

from atoll.audio.features import FeatureExtractor, Features
from atoll.audio.reader import SAMPLING_RATE, Waveform
from atoll.engine.request import Outcome, Request, SamplingOptions, Token
from atoll.engine.thread import Engine
from atoll.sampling.speech import SpeechGrammar
from atoll.serving.requests.report import Report, parts_of
from atoll.serving.requests.served_request import Notified, ServedRequest
from atoll.serving.requests.transcription import Heard, Segment, SegmentWriter, Window, split
from atoll.serving.triton.response_sender import ResponseSender
from atoll.text.speech import SpeechTokens


class Given(NamedTuple):
    """The sound of a request: the bytes of a file, or a waveform."""

    audio: bytes | None
    waveform: Waveform | None


@dataclass(frozen=True)
class TranscriptionOptions:
    """Of a request. language: its code; None: detected. prompt_ids: what every window's answer
    follows. has_times: whether segments end where the model says. temperature: 0: greedy.
    """

    language: str | None
    task: str
    prompt_ids: tuple[int, ...]
    has_times: bool
    temperature: float
    seed: int
    is_stream: bool


@dataclass(frozen=True)
class Recognizer:
    """What all requests of a model share.

    frames_per_output: frames of the spectrogram for each of the encoder's outputs. max_tokens: of a
    window's prompt and answer.
    """

    engine: Engine
    extractor: FeatureExtractor
    speech: SpeechTokens
    frames_per_output: int
    max_tokens: int


@dataclass(frozen=True)
class Sound:
    """seconds: its length. features: (frames, bins), of which num_frames are sound."""

    seconds: float
    features: Features
    num_frames: int


class _Answer:
    """What one window's request delivers, as the engine's ``Sink``."""

    def __init__(self, request: TranscriptionRequest) -> None:
        self._request = request
        self.tokens: list[Token] = []
        self.outcome: Outcome | None = None

    def on_prompt(self, logprobs: list[Token]) -> None:
        """See ``Sink``."""

    def on_token(self, token: Token) -> None:
        """See ``Sink``."""
        self.tokens.append(token)

    def on_finished(self, outcome: Outcome) -> None:
        """See ``Sink``."""
        self.outcome = outcome
        self._request.deliver(self)

    def on_failed(self, error: Exception) -> None:
        """See ``Sink``."""
        self._request.fail(error)


class TranscriptionRequest(ServedRequest):
    """One Triton request with its response sender.

    given: its sound, until that is decoded. sound: from then on. language: the code, once it is
    known. segments: all so far. num_output_tokens: of all windows. ended: the last one, or 0.
    """

    def __init__(
        self, name: str, given: Given, options: TranscriptionOptions, sender: ResponseSender,
        streamer: Notified, limit_s: float | None, priority: int = 0,
    ) -> None:  # fmt: skip
        super().__init__(sender, streamer, num_answers=1, limit_s=limit_s)
        self.given, self._priority = given, priority
        self.options, self.is_stream = options, options.is_stream
        self.language = options.language
        self.sound: Sound | None = None
        self.segments: list[Segment] = []
        self.num_output_tokens = 0
        self._names = (f"{name}.{number}" for number in itertools.count())
        self._delivered: deque[_Answer] = deque()
        self._num_taken = self._seek = 0
        self._running: Request | None = None
        self._has_ended, self.ended = False, 0.0

    @property
    def is_complete(self) -> bool:
        """True once the last window is heard."""
        return self._has_ended

    def report(self) -> Report:
        """See ``ServedRequest``. Its windows, each queued for itself, are one part."""
        moments = [self.arrival, self.submitted, *([self.ended] if self.ended else [])]
        moments += [time.monotonic()] if self.ended else []
        return Report(
            "transcribe",
            num_output_tokens=self.num_output_tokens,
            finish_reasons=("stop",) if self._has_ended else (),
            parts=parts_of(("prepare", "transcribe", "send"), moments),
        )

    def asked_text(self) -> Any:
        """See ``ServedRequest``."""
        return "" if self.sound is None else f"{self.sound.seconds:.2f} s of sound"

    def start(self, recognizer: Recognizer, sound: Sound, writer: SegmentWriter) -> None:
        """Submits the first window; the others follow one by one.

        Raises:
            Overloaded, NotReady: nothing was submitted.
        """
        self._recognizer, self._writer, self.sound = recognizer, writer, sound
        self.given = Given(None, None)  # an hour takes 230 MB
        if self.is_done:
            return
        self.submitted = time.monotonic()
        self._submit()
        if self.error is not None:
            self.cancel()

    def deliver(self, answer: _Answer) -> None:
        """A window is heard; on the engine's thread."""
        self._delivered.append(answer)
        self._streamer.notify(self, True)

    def advance(self) -> None:
        """See ``ServedRequest``."""
        while self._delivered and self.error is None:
            try:
                self._take(self._delivered.popleft())
            except Exception as error:
                self.fail(error)

    def take(self) -> list[Segment]:
        """The segments since the last call."""
        gained = self.segments[self._num_taken :]
        self._num_taken = len(self.segments)
        return gained

    def cancel(self) -> None:
        """See ``ServedRequest``."""
        if self._running is not None:
            self._recognizer.engine.cancel(self._running.request_id)

    def _submit(self) -> None:
        """Has the window at ``_seek`` heard."""
        sound, options, recognizer = self.sound, self.options, self._recognizer
        assert sound is not None, "start() sets it"
        extractor, speech = recognizer.extractor, recognizer.speech
        num_frames = min(sound.num_frames - self._seek, extractor.num_frames)
        self._window = Window(self._seek, num_frames, extractor.hop / SAMPLING_RATE)
        detects = bool(speech.languages) and self.language is None
        self._grammar = SpeechGrammar(
            speech, options.task, detects=detects, has_times=options.has_times
        )
        # A language is told by the sound alone, as in transformers: with a text before it, it takes
        # a request of its own.
        self._is_detection = detects and bool(options.prompt_ids)
        before = () if detects else options.prompt_ids
        prompt = (*before, *speech.prompt(self.language, options.task, options.has_times))
        self._running = Request(
            next(self._names), prompt, self._sampling(len(prompt)), _Answer(self),
            grammar=self._grammar,
            encoder_ids=(0,) * (extractor.num_frames // recognizer.frames_per_output),
            features=extractor.window(sound.features, self._seek, num_frames),
            priority=self._priority,
            client=None if self.sender.is_canary else self.origin.client,
        )  # fmt: skip
        recognizer.engine.submit(self._running)

    def _sampling(self, num_prompt_tokens: int) -> SamplingOptions:
        """How a window's tokens are chosen."""
        options, speech = self.options, self._recognizer.speech
        is_drawn = options.temperature > 0
        most = self._recognizer.max_tokens - num_prompt_tokens
        return SamplingOptions(
            max_new_tokens=1 if self._is_detection else min(most, speech.max_answer_tokens or most),
            do_sample=is_drawn,
            temperature=options.temperature if is_drawn else 1.0,
            seed=options.seed,
            eos_token_ids=speech.ends,
            logprobs=True,
            first_time=speech.first_time if options.has_times else None,
        )

    def _take(self, answer: _Answer) -> None:
        """Makes segments of a window's answer, and goes on to the next."""
        assert self.sound is not None and answer.outcome is not None
        tokens = answer.tokens
        self.num_tokens_unpolled += len(tokens)
        self.num_output_tokens += len(tokens)
        if self._grammar.num_told:
            codes = {index: code for code, index in self._recognizer.speech.languages.items()}
            self.language = codes[tokens[0].id]
        if not self._is_detection:
            self._hear(tokens[self._grammar.num_told :])
        if self._seek < self.sound.num_frames:
            self._submit()
        else:
            self._has_ended, self.ended = True, time.monotonic()

    def _hear(self, tokens: list[Token]) -> None:
        """Makes segments of an answer."""
        window, speech = self._window, self._recognizer.speech
        logprobs = [token.logprob or 0.0 for token in tokens]
        ids = [token.id for token in tokens if token.id not in speech.ends]
        if self.options.has_times:
            heard, taken = split(ids, window, speech.first_time)
        else:
            end_s = window.start_s + window.num_frames * window.frame_s
            heard, taken = [Heard(window.start_s, end_s, tuple(ids))], window.num_frames
        self.segments += self._writer.segments(heard, window, sum(logprobs) / max(len(logprobs), 1))
        self._seek += taken
