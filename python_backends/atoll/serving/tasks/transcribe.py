"""Speech recognition and translation as a decoupled Triton model."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from atoll.audio.features import FeatureExtractor
from atoll.audio.reader import (
    FORMATS,
    SAMPLING_RATE,
    AudioLimits,
    check_waveform,
    read_audio,
)
from atoll.errors import EmptyInputError, RankLost, ValidationError
from atoll.serving.engine_loader import load_engine
from atoll.serving.requests.limits import TIMEOUT, time_limit
from atoll.serving.requests.priority import PRIORITY, read_priority
from atoll.serving.requests.transcription import SegmentWriter, to_json
from atoll.serving.requests.transcription_request import (
    Given,
    Recognizer,
    Sound,
    TranscriptionOptions,
    TranscriptionRequest,
)
from atoll.serving.tasks.checkpoint_model import CheckpointModel
from atoll.serving.tasks.served_model import Effort
from atoll.serving.triton import tensors
from atoll.serving.triton.instance import end_at_once, in_temporary_thread
from atoll.serving.triton.response_sender import ResponseSender
from atoll.serving.triton.transcribe_metrics import TranscribeMetrics
from atoll.text.speech import TASKS, SpeechTokens, english_name

_OPTIONS = ("language", "task", "temperature", "seed", "timestamps", "stream")
_REFUSED = {
    "timestamp_granularities": "times are of segments: those of words are not supported",
    "session_id": "a sound is no conversation",
}
_PARAMETERS = frozenset({*_OPTIONS, *_REFUSED, TIMEOUT, PRIORITY})
_NUM_PREPARING = 2
_ANSWER_S = 2.0
# Beyond this, decoding may take a second.
_MANY_BYTES = 2_000_000
# What is heard for a request that only asks whether the model answers.
_CANARY_FRAMES = 32


class TranscribeModel(CheckpointModel[TranscriptionRequest]):
    """What ``model.py`` exports as ``TritonPythonModel``."""

    task = "transcribe"
    is_batched = False
    is_decoupled = True
    cancelled = "the request was cancelled"

    def initialize(self, args: dict[str, str]) -> None:
        """See ``ServedModel``."""
        folder = self.open_checkpoint(args)
        self.metrics = TranscribeMetrics(args["model_name"])
        loaded = in_temporary_thread(
            load_engine, self.settings, folder, self.streamer.wake, self.task
        )
        c, self.engine = loaded.config, loaded.engine
        self.audio_limits = AudioLimits(
            self.settings.max_audio_bytes, self.settings.max_audio_seconds
        )
        self.recognizer = Recognizer(
            loaded.engine,
            FeatureExtractor.load(
                folder, c.num_features, c.frames_per_output * c.max_input_positions
            ),
            SpeechTokens.read(folder, c.vocab_size, c.decoder_start_token_id),
            c.frames_per_output,
            c.max_answer_positions,
        )
        short = replace(self.recognizer.extractor, num_frames=_CANARY_FRAMES)
        self.canary_recognizer = replace(self.recognizer, extractor=short)
        self._names = map(str, itertools.count())
        self.serve(
            args, self.engine, self.metrics, {**loaded.facts, **self._facts()},
            num_preparing=_NUM_PREPARING,
        )  # fmt: skip
        self.engine.watch(self.lost)

    def lost(self, error: RankLost) -> None:
        """A rank is lost: see ``GenerateModel.lost``."""
        self.engine.give_up(str(error))
        self.streamer.abandon(error, _ANSWER_S)
        end_at_once(1)

    def read_request(
        self, request: Any, parameters: Mapping[str, Any], sender: ResponseSender
    ) -> TranscriptionRequest:
        """See ``ServedModel``."""
        options = tensors.own_parameters(parameters, _PARAMETERS)
        for name, reason in _REFUSED.items():
            if options.pop(name, None) not in (None, "", "segment"):
                raise ValidationError(f"{name} is {parameters[name]!r:.80}; {reason}")
        limit_s = time_limit(request, options, self.settings.max_request_s)
        priority = read_priority(options, is_canary=sender.is_canary)
        given = self._read_sound(request)
        # A canary is the same request for every model.
        before = "" if sender.is_canary else tensors.string(request, "text_input") or ""
        read = self._read_options(options, before)
        return TranscriptionRequest(
            next(self._names), given, read, sender, self.streamer, limit_s, priority
        )

    def effort(self, request: TranscriptionRequest) -> Effort:
        """See ``ServedModel``."""
        size = len(request.given.audio or b"")
        return Effort.MUCH if size > _MANY_BYTES else Effort.ORDINARY

    def prepare(self, request: TranscriptionRequest) -> None:
        """See ``ServedModel``."""
        given, options = request.given, request.options
        is_canary = request.sender.is_canary
        recognizer = self.canary_recognizer if is_canary else self.recognizer
        extractor, limits = recognizer.extractor, self.audio_limits
        if given.waveform is None:
            waveform = read_audio("audio", given.audio or b"", limits)
        else:
            waveform = check_waveform("waveform", given.waveform, limits)
        if not options.has_times and len(waveform) > extractor.num_samples:
            raise ValidationError(
                f"timestamps is false, and the sound has {len(waveform) / SAMPLING_RATE:.2f} "
                "seconds; without times it may have "
                f"{extractor.num_samples / SAMPLING_RATE:g}"
            )
        seconds = len(waveform) / SAMPLING_RATE
        sound = Sound(seconds, extractor.extract(waveform), extractor.count(waveform))
        writer = SegmentWriter(self.tokenizer, recognizer.speech, options.temperature)
        request.start(recognizer, sound, writer)

    def respond(
        self, request: TranscriptionRequest, even_if_empty: bool
    ) -> list[dict[str, tensors.Array]]:
        """See ``ServedModel``: all segments, or those that a stream has gained."""
        is_whole = request.is_complete
        gained = request.take()
        if not (is_whole or gained or even_if_empty):
            return []
        text = "".join(segment.text for segment in gained)
        seconds = 0.0 if request.sound is None else request.sound.seconds
        language = request.language or ("" if self.recognizer.speech.languages else "en")
        return [
            {
                "text_output": tensors.texts([text if request.is_stream else text.strip()]),
                "segments": tensors.texts([to_json(gained)]),
                "language": tensors.texts([language]),
                "duration": np.array([seconds], np.float32),
                "num_output_tokens": np.array([request.num_output_tokens], np.uint32),
            }
        ]

    def tick(self) -> None:
        """See ``ServedModel``."""
        super().tick()
        self.metrics.update(self.engine.stats())

    def _facts(self) -> dict[str, Any]:
        """What clients can know."""
        speech, limits = self.recognizer.speech, self.audio_limits
        return {
            "language_names": {
                code: english_name(code) for code in sorted(speech.languages) or ["en"]
            },
            # Besides its own.
            "tasks": ["translate"] if speech.tasks else [],
            "audio_formats": list(FORMATS),
            "sampling_rate": SAMPLING_RATE,
            "window_seconds": self.recognizer.extractor.num_samples / SAMPLING_RATE,
            "max_audio_bytes": limits.max_bytes,
            "max_audio_seconds": limits.max_seconds,
        }

    def _read_sound(self, request: Any) -> Given:
        """Raises ValidationError: no sound, or two."""
        files = tensors.blobs(request, "audio")
        waveform = tensors.array(request, "waveform", np.float32)
        if (files is None) == (waveform is None):
            raise EmptyInputError("give either audio, the bytes of a file, or waveform")
        if waveform is not None:
            # Triton's memory is only lent until the request is answered.
            return Given(None, waveform.reshape(-1).copy())
        if files is None or len(files) != 1:
            raise ValidationError(f"audio has {len(files or ())} elements; expected 1")
        return Given(files[0], None)

    def _read_options(self, given: Mapping[str, Any], before: str) -> TranscriptionOptions:
        speech = self.recognizer.speech
        language, task = given.get("language"), given.get("task") or speech.task
        if task not in TASKS:
            raise ValidationError(f"task is {task!r:.80}; expected one of {', '.join(TASKS)}")
        if task == "translate" and not speech.tasks:
            raise ValidationError("task is 'translate'; this model is of English alone")
        return TranscriptionOptions(
            language=speech.code(str(language)) if language else speech.language,
            task=task,
            prompt_ids=self._prompt_ids(before),
            has_times=tensors.as_bool("timestamps", given.get("timestamps", True)),
            temperature=tensors.as_float("temperature", given.get("temperature", 0.0), 0.0, 1.0),
            seed=tensors.as_int("seed", given.get("seed", 0), 0, 2**64 - 1),
            is_stream=tensors.as_bool("stream", given.get("stream", False)),
        )

    def _prompt_ids(self, text: str) -> tuple[int, ...]:
        """What every answer follows: the last tokens of a text, as many as the model looks at.

        Raises:
            ValidationError: the model takes none, or the text has special tokens in it.
        """
        speech, most = self.recognizer.speech, self.recognizer.max_tokens // 2 - 1
        if not text.strip():
            return ()
        if speech.previous is None:
            raise ValidationError(
                "text_input is set, but this model's files name no prev_sot_token_id"
            )
        ids = self.tokenizer.encode(f" {text.strip()}", add_special_tokens=False)
        special = next((i for i in ids if self.tokenizer.vocabulary.is_special(i)), None)
        if special is not None or any(i >= speech.start for i in ids):
            raise ValidationError("text_input has one of the model's special tokens in it")
        return (speech.previous, *ids[-most:])
