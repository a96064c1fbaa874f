"""Log-mel spectrograms against transformers' extractor."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny.whisper import extractor, sound
from transformers import WhisperFeatureExtractor

from atoll.audio.features import FeatureExtractor
from atoll.errors import ConfigError


@pytest.mark.parametrize("num_features", [80, 128])
def test_windows_of_thirty_seconds(num_features: int) -> None:
    wave = sound(7.3)
    theirs = WhisperFeatureExtractor(feature_size=num_features)
    expected = theirs(wave, sampling_rate=16000, return_tensors="np")["input_features"][0].T
    found = FeatureExtractor(num_features, 400, 160, 3000)
    ours = found.extract(wave)
    assert ours.shape == (3000, num_features) and ours.dtype == np.float32
    assert np.abs(ours - expected).max() <= 1e-5
    assert found.count(wave) == 730


def test_longer_sounds_are_computed_in_parts() -> None:
    wave = sound(64.123)
    expected = WhisperFeatureExtractor()(
        wave, sampling_rate=16000, truncation=False, padding="longest", return_tensors="np"
    )["input_features"][0].T
    found = FeatureExtractor(80, 400, 160, 3000)
    ours = found.extract(wave)
    assert ours.shape == expected.shape == (6412, 80)
    assert np.abs(ours - expected).max() <= 1e-5
    last = found.window(ours, 6000, 412)
    assert np.array_equal(last[:412], ours[6000:]) and not last[412:].any()


def test_files(tmp_path: Path) -> None:
    extractor().save_pretrained(tmp_path)
    found = FeatureExtractor.load(tmp_path, 20, 100)
    assert found == FeatureExtractor(20, 400, 160, 100) and found.num_samples == 16000
    (tmp_path / "preprocessor_config.json").rename(tmp_path / "own.json")
    own = json.loads((tmp_path / "own.json").read_text())
    nested = json.dumps({"feature_extractor": own})
    (tmp_path / "processor_config.json").write_text(nested)
    assert FeatureExtractor.load(tmp_path, 20, 100) == found


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"feature_size": 80}, "feature_size is 80; expected 20, as num_mel_bins"),
        ({"sampling_rate": 8000}, "sampling_rate is 8000"),
        ({"dither": 0.1}, "dither is 0.1"),
        ({"padding_value": 1.0}, "padding_value is 1.0"),
        ({"chunk_length": 30}, "make 3000 frames; by max_source_positions .* takes 100"),
        ({"hop_length": 0}, "hop_length is 0"),
        ({"n_fft": "400"}, 'n_fft is "400"'),
        ({"feature_extractor_type": "Other"}, "feature_extractor_type is 'Other'"),
    ],
)
def test_what_differs_is_refused(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    extractor().save_pretrained(tmp_path)
    path = tmp_path / "preprocessor_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    with pytest.raises(ConfigError, match=message):
        FeatureExtractor.load(tmp_path, 20, 100)
