"""Transcription without a server: windows and segments against transformers' long-form generation,
languages, prompts, and what a checkpoint's files say."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fake_backend  # noqa: F401  (stands in for Triton's own module)
import pytest
import torch
from engines import engine
from tiny.whisper import (
    END,
    ENGLISH_ALONE,
    FIRST_TIME,
    GENERATION,
    PREVIOUS,
    START,
    TRANSCRIBE,
    VOCAB,
    extractor,
    sound,
    write_whisper,
)

from atoll.audio.features import FeatureExtractor
from atoll.errors import ConfigError, UnsupportedModel, ValidationError
from atoll.models.detect import read_model
from atoll.serving.requests.transcription import SegmentWriter, Window, split
from atoll.serving.requests.transcription_request import (
    Given,
    Recognizer,
    Sound,
    TranscriptionOptions,
    TranscriptionRequest,
)
from atoll.text.speech import SpeechTokens, english_name
from atoll.text.tokenizer import Tokenizer

PROMPT = (PREVIOUS, 70, 71, 72)


@dataclass(frozen=True)
class Case:
    reference: Any
    recognizer: Recognizer
    tokenizer: Tokenizer

    def heard(self, wave: Any, **options: Any) -> TranscriptionRequest:
        """The request, when it is complete."""
        asked = TranscriptionOptions(
            **{
                "language": None, "task": "transcribe", "prompt_ids": (), "has_times": True,
                "temperature": 0.0, "seed": 0, "is_stream": False, **options,
            }
        )  # fmt: skip
        sender: Any = SimpleNamespace(is_canary=False)
        streamer: Any = SimpleNamespace(notify=lambda *_: None, wake=lambda: None)
        request = TranscriptionRequest("r", Given(None, wave), asked, sender, streamer, None)
        found = self.recognizer.extractor
        writer = SegmentWriter(self.tokenizer, self.recognizer.speech, asked.temperature)
        request.start(
            self.recognizer,
            Sound(len(wave) / 16000, found.extract(wave), found.count(wave)),
            writer,
        )
        until = time.monotonic() + 60
        while not request.is_done and time.monotonic() < until:
            request.advance()
            time.sleep(0.002)
        assert request.error is None and request.is_complete
        return request

    def expected(self, wave: Any, **options: Any) -> list[tuple[float, float, list[int]]]:
        """transformers' segments."""
        given = extractor()(
            wave, sampling_rate=16000, truncation=False, padding="longest", return_tensors="pt"
        )
        segments = self.reference.generate(
            given["input_features"], return_timestamps=True, return_segments=True, **options
        )["segments"][0]
        return [
            (round(float(s["start"]), 2), round(float(s["end"]), 2), s["tokens"].tolist())
            for s in segments
        ]


@pytest.fixture(scope="module", params=[0, 2])
def case(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Case]:
    folder = tmp_path_factory.mktemp("whisper")
    reference = write_whisper("whisper", folder, seed=request.param)
    with engine(folder, task="transcribe") as loaded:
        c = loaded.config
        recognizer = Recognizer(
            loaded.engine, FeatureExtractor.load(folder, c.num_features, 100),
            SpeechTokens.read(folder, c.vocab_size, c.decoder_start_token_id),
            c.frames_per_output, c.max_answer_positions,
        )  # fmt: skip
        yield Case(reference, recognizer, Tokenizer.load(folder))


@pytest.mark.parametrize(
    ("seconds", "language", "task", "prompt"),
    [
        (3.3, None, "transcribe", ()),
        (2.6, "fr", "translate", ()),
        (2.2, "en", "transcribe", PROMPT),
        (2.2, None, "transcribe", PROMPT),
    ],
)
def test_longer_sounds_are_heard_as_transformers_hears_them(
    case: Case, seconds: float, language: str | None, task: str, prompt: Sequence[int]
) -> None:
    wave = sound(seconds, 5)
    found = case.heard(wave, language=language, task=task, prompt_ids=tuple(prompt))
    options: dict[str, Any] = {} if language is None else {"language": language}
    if prompt:
        options["prompt_ids"] = torch.tensor(prompt)
    expected = case.expected(wave, task=task, **options)
    assert [(s.start, s.end, list(s.tokens)) for s in found.segments] == expected
    assert len(expected) > 3
    assert [s.id for s in found.segments] == list(range(len(expected)))
    assert found.language in ("en", "fr", "de") if language is None else language
    first = found.segments[0]
    assert first.avg_logprob < 0 and first.seek == 0 and found.segments[-1].seek > 0
    assert not any(t >= FIRST_TIME for t in case.tokenizer.core.encode(first.text).ids)


def test_drawn_answers_depend_on_the_seed_alone(case: Case) -> None:
    wave = sound(1.5)
    texts = [
        "".join(s.text for s in case.heard(wave, temperature=0.9, seed=seed).segments)
        for seed in (1, 1, 2)
    ]
    assert texts[0] == texts[1] != texts[2]


def test_without_times_a_sound_is_one_segment(case: Case) -> None:
    (only,) = case.heard(sound(0.7), has_times=False).segments
    assert (only.start, only.end) == (0, 0.7)


def test_a_stream_takes_what_it_has_gained(case: Case) -> None:
    request = case.heard(sound(2.2))
    assert request.take() == request.segments and request.take() == []


T = FIRST_TIME


@pytest.mark.parametrize(
    ("tokens", "times", "taken"),
    [
        ([], [(5.0, 6.0)], 100),
        ([70, 71], [(5.0, 6.0)], 100),
        ([T, 70, 71, T + 20], [(5.0, 5.4)], 100),
        ([T, 70, T + 20, T + 20, 71], [(5.0, 5.4)], 40),
        ([T, 70, T + 20, T + 22, 71, T + 40], [(5.0, 5.4), (5.44, 5.8)], 100),
        ([T, 70, T + 20, T + 20, 71, T + 40, T + 40], [(5.0, 5.4), (5.4, 5.8)], 80),
    ],
)
def test_segments(tokens: list[int], times: list[tuple[float, float]], taken: int) -> None:
    found, count = split(tokens, Window(500, 100, 0.01), T)
    assert [(round(s.start, 6), round(s.end, 6)) for s in found] == times
    assert count == taken


def _speech(folder: Path, **changes: Any) -> SpeechTokens:
    kept = {k: v for k, v in {**GENERATION, **changes}.items() if v is not ...}
    (folder / "generation_config.json").write_text(json.dumps(kept))
    return SpeechTokens.read(folder, VOCAB, START)


def test_languages(tmp_path: Path) -> None:
    speech = _speech(tmp_path)
    names = ("fr", "French", "GERMAN", "<|fr|>")
    assert [speech.code(name) for name in names] == ["fr", "fr", "de", "fr"]
    with pytest.raises(ValidationError, match="language is 'ja', .* 3 languages: de, en, fr"):
        speech.code("ja")
    assert english_name("fr") == "french" and english_name("xx") == "xx"


@pytest.mark.parametrize(
    ("changes", "language", "task"),
    [
        ({}, None, "transcribe"),
        ({"forced_decoder_ids": None}, None, "transcribe"),
        ({"forced_decoder_ids": [[1, GENERATION["lang_to_id"]["<|fr|>"]]]}, "fr", "transcribe"),
        ({"language": "<|de|>", "task": "translate"}, "de", "translate"),
        ({"language": "german"}, "de", "transcribe"),
    ],
)
def test_what_the_files_ask_for(
    changes: dict[str, Any], language: str | None, task: str, tmp_path: Path
) -> None:
    speech = _speech(tmp_path, **changes)
    assert (speech.language, speech.task) == (language, task)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"no_timestamps_token_id": ...}, "has no no_timestamps_token_id"),
        ({"no_timestamps_token_id": VOCAB - 1}, "times behind it"),
        ({"lang_to_id": ..., "is_multilingual": True}, "has no lang_to_id"),
        ({"task_to_id": {"transcribe": TRANSCRIBE}}, "task_to_id is"),
        ({"eos_token_id": ...}, "has no eos_token_id"),
        ({"language": "ja"}, 'language is "ja"; expected one of de, en, fr'),
        ({"forced_decoder_ids": [[1, END]]}, "is no language and no task"),
        ({"forced_decoder_ids": 3}, "forced_decoder_ids is 3"),
        ({"num_beams": 5}, "num_beams 5 is not supported"),
        ({"condition_on_prev_tokens": True}, "condition_on_prev_tokens True"),
    ],
)
def test_what_is_not_done_is_refused(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises((ConfigError, UnsupportedModel), match=message):
        _speech(tmp_path, **changes)


def test_models_of_english_alone(tmp_path: Path) -> None:
    write_whisper("whisper", tmp_path, ENGLISH_ALONE)
    speech = SpeechTokens.read(tmp_path, VOCAB, START)
    assert speech.code("english") == "en" and speech.prompt(None, "transcribe", True) == (START,)
    with pytest.raises(ValidationError, match="this model is of English alone"):
        speech.code("fr")


def test_what_a_checkpoint_is(tmp_path: Path) -> None:
    write_whisper("whisper", tmp_path)
    assert read_model(tmp_path).task == "transcribe"
    for task in ("generate", "embed"):
        with pytest.raises(UnsupportedModel, match=f"is for task 'transcribe', .* task '{task}'"):
            read_model(tmp_path, task)
    path = tmp_path / "config.json"
    whole = json.loads(path.read_text())
    path.write_text(json.dumps({**whole, "architectures": ["WhisperForAudioClassification"]}))
    with pytest.raises(UnsupportedModel, match="it is no generator"):
        read_model(tmp_path)
    path.write_text(json.dumps({"model_type": "llama", "architectures": ["LlamaForCausalLM"]}))
    with pytest.raises(UnsupportedModel, match="not supported for task 'transcribe'"):
        read_model(tmp_path, "transcribe")
