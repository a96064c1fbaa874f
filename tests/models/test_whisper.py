"""Whisper against transformers: the encoder packed, the decoder paged, greedy answers with and
without times."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from devices import DEVICE
from driving import Collector, load, make_core, run
from tiny.paged import PagedRunner
from tiny.whisper import (
    CONFIGS,
    ENGLISH,
    FIRST_TIME,
    NO_TIMES,
    START,
    TRANSCRIBE,
    VOCAB,
    extractor,
    scores,
    sound,
    write_whisper,
)
from torch import Tensor

from atoll.audio.features import FeatureExtractor
from atoll.engine.request import Request, SamplingOptions
from atoll.models.registry import Checkpoint, load_decoder
from atoll.sampling.speech import SpeechGrammar
from atoll.text.speech import SpeechTokens
from atoll.weights.load import LoadOptions

OUTPUTS = 50


@dataclass(frozen=True)
class Case:
    folder: Path
    reference: Any
    sounds: dict[str, Any]

    def features(self, name: str) -> Any:
        """(bins, frames) of one window."""
        given = extractor(self.folder.name[:-1])
        return given(self.sounds[name], sampling_rate=16000, return_tensors="pt")["input_features"][
            0
        ]

    @property
    def speech(self) -> SpeechTokens:
        return SpeechTokens.read(self.folder, VOCAB, START)


@pytest.fixture(scope="module", params=sorted(CONFIGS))
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    folder = tmp_path_factory.mktemp(request.param)
    reference = write_whisper(request.param, folder)
    return Case(folder, reference, {name: sound(1.0, seed) for seed, name in enumerate("abc")})


def _paged(folder: Path, dtype: torch.dtype = torch.float32) -> PagedRunner:
    model = load_decoder(Checkpoint.open(folder), LoadOptions(dtype, DEVICE))
    return PagedRunner(model, dtype=dtype)


def _apart(ours: Tensor, reference: Tensor) -> float:
    return float((ours - reference).abs().max() / reference.std())


def test_decoder_prompt_over_packed_sounds(case: Case) -> None:
    runner = _paged(case.folder)
    features = torch.cat([case.features(name).T for name in case.sounds]).to(DEVICE)
    runner.encode({name: [0] * OUTPUTS for name in case.sounds}, features)
    ids = [START, ENGLISH, TRANSCRIBE, NO_TIMES, 70, 71, 72, 73]
    out = runner.step({name: ids for name in case.sounds})
    for name in case.sounds:
        assert _apart(out[name], scores(case.reference, case.features(name), ids)) <= 1e-4
    assert _apart(out["a"], out["b"]) > 1e-2


def test_encoder_states(case: Case) -> None:
    """By what the decoder keeps of them: keys and values of its cross-attention."""
    runner = _paged(case.folder)
    features = case.features("a")
    runner.encode({"a": [0] * OUTPUTS}, features.T.to(DEVICE))
    with torch.inference_mode():
        encoded = case.reference.model.encoder(features[None]).last_hidden_state[0]
        cross = case.reference.model.decoder.layers[-1].encoder_attn
        expected = cross.k_proj(encoded), cross.v_proj(encoded)
    table, size = runner.cross_tables["a"], runner.block_size
    at = torch.tensor([table[i // size] * size + i % size for i in range(OUTPUTS)])
    layer = runner.kv_cache[-1]
    for cached, theirs in zip((layer.keys, layer.values), expected, strict=True):
        found = cached.flatten(0, 1).cpu()[at].flatten(1)
        assert _apart(found, theirs) <= 1e-4


def test_bfloat16_is_close(case: Case) -> None:
    runner = _paged(case.folder, torch.bfloat16)
    runner.encode({"a": [0] * OUTPUTS}, case.features("a").T.to(DEVICE))
    ids = [START, ENGLISH, TRANSCRIBE, NO_TIMES, 70, 71, 72, 73]
    out = runner.step({"a": ids})["a"]
    assert 0 < _apart(out, scores(case.reference, case.features("a"), ids)) < 0.3


@pytest.mark.parametrize("has_times", [True, False])
@pytest.mark.parametrize(
    ("language", "task", "limits"),
    [
        (None, "transcribe", {}),
        ("fr", "translate", {"num_blocks": 46}),
        ("en", "transcribe", {"max_batch_size": 1}),
    ],
)
def test_greedy_answers_are_transformers(
    case: Case, language: str | None, task: str, limits: dict[str, Any], has_times: bool
) -> None:
    """A language that is not named is the answer's first token, together with what follows it."""
    core, speech, sinks = make_core(load(case.folder), vocab_size=VOCAB, **limits), case.speech, {}
    fe = FeatureExtractor.load(case.folder, CONFIGS[case.folder.name[:-1]]["num_mel_bins"], 100)
    grammar = SpeechGrammar(speech, task, detects=language is None, has_times=has_times)
    prompt = speech.prompt(language, task, has_times)
    options = SamplingOptions(
        max_new_tokens=40 - len(prompt), eos_token_ids=speech.ends,
        first_time=FIRST_TIME if has_times else None,
    )  # fmt: skip
    for name, wave in case.sounds.items():
        sinks[name] = Collector()
        core.add(
            Request(
                name,
                prompt,
                options,
                sinks[name],
                grammar=grammar,
                encoder_ids=(0,) * OUTPUTS,
                features=fe.extract(wave),
            )  # fmt: skip
        )
    run(core)
    for name, sink in sinks.items():
        assert sink.error is None
        asked = {} if language is None else {"language": language}
        expected = case.reference.generate(
            case.features(name)[None], task=task, return_timestamps=has_times,
            force_unique_generate_call=True, **asked,
        )[0].tolist()  # fmt: skip
        assert [*prompt, *sink.ids] == expected, name
    assert core.stats().num_used_blocks == 0
    if "num_blocks" in limits:
        assert core.stats().num_preemptions > 0
