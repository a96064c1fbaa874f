"""The table of architectures that are served from GGUF files, by ``general.architecture``."""

from __future__ import annotations

from collections.abc import Mapping

from atoll.weights.gguf.architecture import Architecture
from atoll.weights.gguf.architectures import ATTENTION_ARCHITECTURES
from atoll.weights.gguf.encoders import ENCODER_ARCHITECTURES
from atoll.weights.gguf.experts import EXPERT_ARCHITECTURES
from atoll.weights.gguf.gemma4 import GEMMA4_ARCHITECTURES
from atoll.weights.gguf.recurrent import RECURRENT_ARCHITECTURES
from atoll.weights.gguf.t5 import T5_ARCHITECTURES

ARCHITECTURES: Mapping[str, Architecture] = {
    **ATTENTION_ARCHITECTURES, **RECURRENT_ARCHITECTURES, **EXPERT_ARCHITECTURES,
    **GEMMA4_ARCHITECTURES, **ENCODER_ARCHITECTURES, **T5_ARCHITECTURES,
}  # fmt: skip
