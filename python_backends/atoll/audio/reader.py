"""The bytes of an audio file to a waveform of one channel; never a file or a URL.

Source: libsndfile, through ``soundfile``, and SciPy's polyphase filter for other sampling rates.
What a header says is checked before anything is decoded; what is decoded is counted besides, since
headers may be wrong.
"""

from __future__ import annotations

import base64
import binascii
import math
from io import BytesIO
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from atoll.errors import EmptyInputError, ValidationError

Waveform = npt.NDArray[np.float32]

# Samples per second, of every model here.
SAMPLING_RATE = 16000
FORMATS = ("WAV", "FLAC", "MP3", "OGG")
# How libsndfile calls them: WAVEX is WAV with a longer header, RF64 one for large files.
_READ = {"WAV", "WAVEX", "RF64", "W64", "FLAC", "MP3", "MPEG", "OGG"}
_RATES = range(1000, 768_001)
# Samples of all channels that are decoded at once.
_BLOCK = 1 << 20
# Beginnings of what other servers fetch or open.
_ADDRESSES = (b"http:", b"https:", b"ftp:", b"file:", b"s3:", b"gs:")


class AudioLimits(NamedTuple):
    """Of one sound: bytes of its file, and seconds."""

    max_bytes: int
    max_seconds: float


def read_audio(name: str, encoded: bytes, limits: AudioLimits) -> Waveform:
    """The waveform (samples,) at 16 kHz, the mean of all channels.

    Args:
        name: how errors call it. encoded: the bytes of a file, or a data URI of them.

    Raises:
        EmptyInputError: there are no bytes, or no samples.
        ValidationError: it is none of FORMATS, beyond the limits or damaged.
    """
    import soundfile

    encoded = _own_bytes(name, encoded, limits)
    try:
        with soundfile.SoundFile(BytesIO(encoded)) as file:
            _check_header(name, file, limits)
            found = _decoded(name, file, limits)
            rate = int(file.samplerate)
    except (soundfile.SoundFileError, RuntimeError) as error:
        raise _unreadable(name, encoded, error) from None
    return check_waveform(name, resampled(found, rate), limits)


def check_waveform(name: str, waveform: Waveform, limits: AudioLimits) -> Waveform:
    """The waveform, which is at 16 kHz.

    Raises:
        EmptyInputError: it has no samples. ValidationError: it is too long, or a sample is not
            finite.
    """
    if not len(waveform):
        raise EmptyInputError(f"{name} has no samples")
    _check_length(name, len(waveform), SAMPLING_RATE, limits)
    is_finite = np.isfinite(waveform)
    if not is_finite.all():
        index = int(is_finite.argmin())
        raise ValidationError(f"{name}[{index}] is {waveform[index]}; expected a finite number")
    return waveform


def resampled(waveform: Waveform, rate: int) -> Waveform:
    """A waveform of ``rate`` samples a second at 16 kHz."""
    if rate == SAMPLING_RATE or not len(waveform):
        return waveform
    from scipy.signal import resample_poly

    divisor = math.gcd(rate, SAMPLING_RATE)
    found: Waveform = resample_poly(waveform, SAMPLING_RATE // divisor, rate // divisor)
    return found.astype(np.float32, copy=False)


def _own_bytes(name: str, given: bytes, limits: AudioLimits) -> bytes:
    """The file's own bytes, within the limit."""
    header, comma, text = given.partition(b",") if given[:5].lower() == b"data:" else (b"",) * 3
    # Four characters of base64 are three bytes.
    size = len(text) // 4 * 3 - text[-2:].count(b"=") if header else len(given)
    if size > limits.max_bytes:
        raise ValidationError(f"{name} has {size} bytes; max_audio_bytes is {limits.max_bytes}")
    if header:
        if not comma or not header.lower().endswith(b";base64"):
            raise ValidationError(f"{name} is a data URI; expected data:...;base64,<base64>")
        try:
            given = base64.b64decode(text, validate=True)
        except binascii.Error as error:
            raise ValidationError(
                f"{name} is a data URI whose base64 is not valid: {error}"
            ) from None
    if not given:
        raise EmptyInputError(f"{name} is empty")
    return given


def _check_header(name: str, file: Any, limits: AudioLimits) -> None:
    if file.format not in _READ:
        raise ValidationError(f"{name} is {file.format}; expected one of {', '.join(FORMATS)}")
    if file.samplerate not in _RATES:
        raise ValidationError(
            f"{name} has {file.samplerate} samples a second; expected {_RATES[0]} to {_RATES[-1]}"
        )
    _check_length(name, file.frames, file.samplerate, limits)


def _check_length(name: str, samples: int, rate: int, limits: AudioLimits) -> None:
    if samples > limits.max_seconds * rate:
        raise ValidationError(
            f"{name} has {samples / rate:.2f} seconds; max_audio_seconds is {limits.max_seconds:g}"
        )


def _decoded(name: str, file: Any, limits: AudioLimits) -> Waveform:
    """All samples, the mean of the channels."""
    blocks, count = list[Waveform](), 0
    size = max(_BLOCK // file.channels, 1)
    while len(block := file.read(size, dtype="float32", always_2d=True)):
        blocks.append(block[:, 0] if block.shape[1] == 1 else block.mean(1))
        count += len(block)
        _check_length(name, count, file.samplerate, limits)
    return np.concatenate(blocks) if blocks else np.empty(0, np.float32)


def _unreadable(name: str, encoded: bytes, error: Exception) -> ValidationError:
    """What is wrong with bytes that libsndfile does not take."""
    if encoded.lstrip()[:6].lower().startswith(_ADDRESSES):
        return ValidationError(
            f"{name} is an address; sounds are never fetched: send the bytes of the file"
        )
    reason = str(error).strip().rpartition(": ")[2] or type(error).__name__
    return ValidationError(
        f"{name} is damaged, or no file of one of the formats {', '.join(FORMATS)}: {reason:.200}"
    )
