"""adapter_config.json: the description of a LoRA adapter, in PEFT's format.

Source: ``LoraConfig`` of huggingface/peft 0.19 and its defaults.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from atoll.errors import ConfigError
from atoll.weights.json_fields import Fields
from atoll.weights.modules import read_object

# Keys that are refused with any value, since the adapter is then more than pairs of matrices.
_UNSUPPORTED = (
    "use_dora", "use_qalora", "use_bdlora", "lora_bias", "modules_to_save", "target_parameters",
    "trainable_token_indices", "layer_replication", "alora_invocation_tokens", "arrow_config",
    "megatron_config", "kasa_config", "monteclora_config",
)  # fmt: skip
# Other values change the model's own weights before the adapter is added.
_INITS = (True, False, "gaussian", "eva", "orthogonal")


@dataclass(frozen=True)
class LoraConfig:
    """targets: names, or ends of names, of the layers it changes; a string is a pattern; None: not
    given. layers: the blocks it is restricted to. The patterns set the rank or alpha of single
    layers.
    """

    folder: Path
    rank: int
    alpha: float
    is_rank_stabilized: bool
    rank_pattern: Mapping[str, int]
    alpha_pattern: Mapping[str, float]
    targets: tuple[str, ...] | str | None
    layers: tuple[int, ...] | None

    @classmethod
    def read(cls, folder: Path) -> LoraConfig:
        """Raises ConfigError: malformed, or more than plain LoRA; names the key and the value."""
        path = folder / "adapter_config.json"
        fields = Fields(read_object(path), str(path))
        kind = fields.raw.get("peft_type")
        if kind != "LORA":
            raise ConfigError(f"{path}: peft_type is {kind!r}; only LORA is supported")
        for name in _UNSUPPORTED:
            if fields.raw.get(name):
                raise ConfigError(f"{path}: {name} is set, which is not supported")
        if fields.text("bias", default="none", nullable=True) != "none":
            raise ConfigError(f"{path}: bias is {fields.raw['bias']!r}, not none")
        fields.only("init_lora_weights", *_INITS)
        fields.flag("fan_in_fan_out", default=False, nullable=True)
        ranks, alphas = fields.inside("rank_pattern"), fields.inside("alpha_pattern")
        for own in (ranks, alphas):
            for pattern in own.raw:
                _compiled(own.source, pattern)
        return cls(
            folder=folder,
            rank=fields.size("r", default=8),
            alpha=fields.number("lora_alpha", default=8.0),
            is_rank_stabilized=fields.flag("use_rslora", default=False, nullable=True),
            rank_pattern={pattern: ranks.size(pattern) for pattern in ranks.raw},
            alpha_pattern={pattern: alphas.number(pattern) for pattern in alphas.raw},
            targets=_targets(fields),
            layers=_layers(fields),
        )

    def rank_of(self, name: str) -> int:
        """The rank of a layer's matrices."""
        return int(_by_pattern(self.rank_pattern, name, self.rank))

    def scale_of(self, name: str) -> float:
        """The factor of a layer's product of matrices."""
        alpha, rank = _by_pattern(self.alpha_pattern, name, self.alpha), self.rank_of(name)
        return float(alpha) / (rank**0.5 if self.is_rank_stabilized else rank)

    def targeted(self, names: Iterable[str]) -> set[str]:
        """Which of the layers it changes."""
        return {name for name in names if self._is_target(name)}

    def _is_target(self, name: str) -> bool:
        if self.targets is None or self.targets == "all-linear":
            return False
        if isinstance(self.targets, str):
            return re.fullmatch(self.targets, name) is not None
        is_named = any(name == end or name.endswith(f".{end}") for end in self.targets)
        numbers = re.findall(r"\.(\d+)\.", f".{name}.")
        return is_named and (self.layers is None or int(next(iter(numbers), -1)) in self.layers)


def _targets(fields: Fields) -> tuple[str, ...] | str | None:
    value = fields.raw.get("target_modules")
    if fields.raw.get("exclude_modules"):
        return None  # which layers those are is known where it was made
    if isinstance(value, str):
        return (
            value if value == "all-linear" else _compiled(f"{fields.source}: target_modules", value)
        )
    return fields.texts("target_modules") or None


def _layers(fields: Fields) -> tuple[int, ...] | None:
    value = fields.raw.get("layers_to_transform")
    found = [value] if type(value) is int else value or []
    if not isinstance(found, list) or not all(type(layer) is int for layer in found):
        raise fields.wrong("a list of the layers' numbers", "layers_to_transform")
    return tuple(found) or None


def _compiled(source: str, pattern: str) -> str:
    try:
        re.compile(pattern)
    except re.error as error:
        raise ConfigError(f"{source}: the pattern {pattern!r} is none: {error}") from error
    return pattern


def _by_pattern(patterns: Mapping[str, Any], name: str, default: Any) -> Any:
    for pattern, value in patterns.items():
        if re.fullmatch(rf"(.*\.)?({pattern})", name):
            return value
    return default
