"""Audio files to waveforms: formats, rates, channels, limits, and what is refused."""

from __future__ import annotations

import base64
from io import BytesIO
from typing import Any

import numpy as np
import pytest
import soundfile
from tiny.whisper import sound

from atoll.audio.reader import AudioLimits, check_waveform, read_audio, resampled
from atoll.errors import EmptyInputError, ValidationError

LIMITS = AudioLimits(1_000_000, 10.0)
WAVE = sound(0.5)


def encoded(wave: Any, rate: int = 16000, kind: str = "WAV", subtype: str | None = None) -> bytes:
    file = BytesIO()
    soundfile.write(file, wave, rate, format=kind, subtype=subtype)
    return file.getvalue()


@pytest.mark.parametrize(
    ("kind", "subtype", "error"),
    [
        ("WAV", "PCM_16", 1e-4),
        ("WAV", "FLOAT", 0),
        ("FLAC", "PCM_24", 1e-6),
        ("OGG", "VORBIS", 0.1),
        ("OGG", "OPUS", 0.1),
        ("MP3", None, 0.1),
    ],
)
def test_formats(kind: str, subtype: str | None, error: float) -> None:
    found = read_audio("audio", encoded(WAVE, kind=kind, subtype=subtype), LIMITS)
    assert found.dtype == np.float32
    length = min(len(found), len(WAVE))
    assert abs(length - len(WAVE)) < 2000
    if kind != "MP3":  # begins later
        assert np.sqrt(np.mean((found[:length] - WAVE[:length]) ** 2)) <= error


def test_data_uris() -> None:
    file = encoded(WAVE, subtype="FLOAT")
    uri = b"data:audio/wav;base64," + base64.b64encode(file)
    assert np.array_equal(read_audio("audio", uri, LIMITS), WAVE)


def test_channels_are_averaged() -> None:
    both = np.stack([WAVE, np.zeros_like(WAVE)], 1)
    found = read_audio("audio", encoded(both, subtype="FLOAT"), LIMITS)
    assert np.allclose(found, WAVE / 2, atol=1e-7)


@pytest.mark.parametrize("rate", [8000, 22050, 44100, 48000])
def test_rates(rate: int) -> None:
    time = np.arange(rate // 2) / rate
    tone = np.sin(2 * np.pi * 440 * time).astype(np.float32)
    found = resampled(tone, rate)
    assert found.dtype == np.float32 and len(found) == 8000
    wanted = np.sin(2 * np.pi * 440 * np.arange(8000) / 16000)
    assert np.abs(found - wanted)[200:-200].max() < 2e-3


def test_what_is_above_half_the_rate_is_filtered_out() -> None:
    time = np.arange(24000) / 48000
    tone = np.sin(2 * np.pi * 15000 * time).astype(np.float32)
    assert np.abs(resampled(tone, 48000))[100:-100].max() < 0.01


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (b"RIFF" + bytes(60), "audio is damaged, or no file of one of the formats WAV, FLAC"),
        (b"https://example.org/a.wav", "audio is an address; sounds are never fetched"),
        (encoded(WAVE, kind="FLAC")[:200], "audio"),
        (encoded(WAVE, kind="AIFF"), "audio is AIFF; expected one of WAV"),
        (bytes(1_000_001), "audio has 1000001 bytes; max_audio_bytes is 1000000"),
        (b"data:audio/wav,abc", "audio is a data URI; expected"),
        (b"data:audio/wav;base64,a", "base64 is not valid"),
        (encoded(np.zeros(90000), 8000), "audio has 11.25 seconds; max_audio_seconds is 10"),
        (encoded(WAVE, 900), "audio has 900 samples a second; expected 1000 to 768000"),
        (
            encoded(np.array([0.0, np.nan], np.float32), subtype="FLOAT"),
            r"audio\[1\] is nan; expected a finite number",
        ),
    ],
    # Files of floats have the time in them, and each worker makes its own.
    ids=range(10),
)
def test_refused(given: bytes, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        read_audio("audio", given, LIMITS)


@pytest.mark.parametrize("given", [b"", b"data:;base64,", encoded(np.empty(0))])
def test_empty(given: bytes) -> None:
    with pytest.raises(EmptyInputError, match="audio"):
        read_audio("audio", given, LIMITS)


def test_waveforms_are_checked() -> None:
    assert check_waveform("waveform", WAVE, LIMITS) is WAVE
    with pytest.raises(ValidationError, match="waveform has 10.01 seconds"):
        check_waveform("waveform", np.zeros(160_160, np.float32), LIMITS)
    with pytest.raises(EmptyInputError, match="waveform has no samples"):
        check_waveform("waveform", WAVE[:0], LIMITS)
