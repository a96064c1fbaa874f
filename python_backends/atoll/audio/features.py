"""A waveform to the log-mel spectrogram of Whisper, as preprocessor_config.json says.

Source: transformers' ``WhisperFeatureExtractor``; the decibels below the loudest that count depend
on the whole sound, whatever part of it a model sees at a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from atoll.audio.reader import SAMPLING_RATE, Waveform
from atoll.errors import ConfigError
from atoll.weights.json_fields import Fields
from atoll.weights.modules import read_object

Features = npt.NDArray[np.float32]

_FILE = "preprocessor_config.json"
_NESTED_FILE, _NESTED = "processor_config.json", "feature_extractor"
_EXTRACTOR = "WhisperFeatureExtractor"
# The quietest that counts: of all sounds, and below the loudest of the same one, in powers of ten.
_FLOOR, _RANGE = 1e-10, 8.0
_MAX_HZ = 8000.0
# Frames that are computed at once: of a sound of an hour they would take a gigabyte.
_BLOCK = 3000


@dataclass(frozen=True)
class FeatureExtractor:
    """num_features: bins of a frame. window_size: samples that make a frame. hop: samples from one
    frame to the next. num_frames: those of a window, which the model sees at a time.
    """

    num_features: int
    window_size: int
    hop: int
    num_frames: int

    @classmethod
    def load(cls, folder: Path, num_features: int, num_frames: int) -> FeatureExtractor:
        """What the files say.

        Args:
            num_features, num_frames: what the model takes, by config.json.

        Raises:
            ConfigError: a key has a value that is not supported, or config.json says another.
        """
        own, nested = read_object(folder / _FILE), read_object(folder / _NESTED_FILE)
        f = Fields(own, f"{folder}/{_FILE}")
        if not own and nested:
            f = Fields(nested, f"{folder}/{_NESTED_FILE}").inside(_NESTED)
        f.only("feature_extractor_type", _EXTRACTOR)
        f.only("sampling_rate", SAMPLING_RATE)
        for name in ("padding_value", "dither"):
            f.only(name, 0.0, 0)
        found = f.size("feature_size", default=80)
        if found != num_features:
            raise f.wrong(f"{num_features}, as num_mel_bins of config.json", "feature_size")
        hop = f.size("hop_length", default=160)
        seconds = f.size("chunk_length", default=30, most=3600)
        if seconds * SAMPLING_RATE // hop != num_frames:
            raise ConfigError(
                f"{f.source}: chunk_length {seconds} and hop_length {hop} make "
                f"{seconds * SAMPLING_RATE // hop} frames; by max_source_positions of config.json "
                f"the model takes {num_frames}"
            )
        window_size = f.size("n_fft", default=400, most=1 << 16)
        return cls(num_features, window_size, hop, num_frames)

    @property
    def num_samples(self) -> int:
        """Samples of a window."""
        return self.num_frames * self.hop

    def count(self, waveform: Waveform) -> int:
        """Frames of a waveform: at least one."""
        return max(len(waveform) // self.hop, 1)

    def extract(self, waveform: Waveform) -> Features:
        """The spectrogram (frames, bins) of a waveform (samples,) at 16 kHz.

        One shorter than a window is filled up with silence.
        """
        missing = max(self.num_samples - len(waveform), 0)
        sound = F.pad(torch.from_numpy(np.ascontiguousarray(waveform)), (0, missing))
        logs = torch.cat(list(self._blocks(sound)))
        logs.clamp_(min=float(logs.max()) - _RANGE)
        found: Features = logs.add_(4.0).div_(4.0).numpy()
        return found

    def window(self, features: Features, start: int, count: int) -> Features:
        """``count`` frames from ``start`` on, filled up with zeros to those of a window."""
        found = np.zeros((self.num_frames, self.num_features), np.float32)
        part = features[start : start + count]
        found[: len(part)] = part
        return found

    def _blocks(self, sound: Tensor) -> Iterator[Tensor]:
        """The logarithms of the bins, (frames, bins) of a part at a time."""
        filters = self._filters
        window = torch.hann_window(self.window_size)
        reach = self.window_size // 2
        padded = F.pad(sound[None], (reach, reach), mode="reflect")[0]
        total = len(sound) // self.hop
        for start in range(0, total, _BLOCK):
            count = min(_BLOCK, total - start)
            first = start * self.hop
            part = padded[first : first + (count - 1) * self.hop + self.window_size]
            spectrum = torch.stft(
                part, self.window_size, self.hop, window=window, center=False, return_complex=True
            )
            power = spectrum.abs().square()
            yield (filters.T @ power).clamp_(min=_FLOOR).log10_().T

    @cached_property
    def _filters(self) -> Tensor:
        """(frequencies, bins) float32."""
        from transformers.audio_utils import mel_filter_bank

        found: npt.NDArray[np.float64] = mel_filter_bank(
            num_frequency_bins=1 + self.window_size // 2,
            num_mel_filters=self.num_features,
            min_frequency=0.0,
            max_frequency=_MAX_HZ,
            sampling_rate=SAMPLING_RATE,
            norm="slaney",
            mel_scale="slaney",
        )
        return torch.from_numpy(found).float()
