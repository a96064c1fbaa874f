"""What a checkpoint's sentence-transformers files say about turning tokens into vectors."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from atoll.config import Settings
from atoll.encoders.pooling import POOLINGS
from atoll.errors import ConfigError

# Keys of 1_Pooling/config.json, most specific first.
_MODES = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_lasttoken": "last-token",
}


@dataclass(frozen=True)
class EncoderSpec:
    """Pooling, length and prompts of an embedder.

    max_length: tokens, special ones included. prompts: text put before an input, by name.
    """

    pooling: str
    max_length: int
    prompts: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path, settings: Settings, max_positions: int) -> EncoderSpec:
        """Settings win over the files; CLS is what a BERT without files is pooled by.

        Raises:
            ConfigError: a pooling that is not known.
        """
        pooling = settings.pooling or _pooling(folder) or "cls"
        if pooling not in POOLINGS:
            raise ConfigError(f"pooling is {pooling!r}; known: {', '.join(POOLINGS)}")
        own = _read(folder / "sentence_bert_config.json").get("max_seq_length")
        prompts = _read(folder / "config_sentence_transformers.json").get("prompts") or {}
        length = min(own or max_positions, max_positions, settings.max_batch_tokens)
        return cls(pooling, length, prompts)


def _pooling(folder: Path) -> str | None:
    modes = _read(folder / "1_Pooling" / "config.json")
    if not modes:
        return None
    for key, name in _MODES.items():
        if modes.get(key):
            return name
    raise ConfigError(f"{folder}/1_Pooling/config.json: none of {', '.join(_MODES)} is set")


def _read(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error
    if not isinstance(found, dict):
        raise ConfigError(f"{path}: expected an object")
    return found
