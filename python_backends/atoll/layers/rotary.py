"""Rotary position tables, with the scalings that config.json may ask for.

Reads both formats in use: ``rope_theta`` with ``rope_scaling``, and ``rope_parameters``.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

import atoll_kernels as kernels
from atoll.errors import ConfigError

SCALINGS = ("default", "linear", "dynamic", "llama3", "yarn")


@dataclass(frozen=True)
class RopeSpec:
    """What the tables are made from. ``dim`` is the number of rotated features of a head."""

    dim: int
    theta: float
    max_positions: int
    kind: str = "default"
    factor: float = 1.0
    options: Mapping[str, Any] | None = None

    @classmethod
    def from_hf(
        cls, raw: Mapping[str, Any], dim: int, theta: float = 10000.0, max_positions: int = 2048
    ) -> "RopeSpec":
        """From ``rope_parameters`` or ``rope_theta`` and ``rope_scaling``.

        Raises:
            ConfigError: a scaling that is not known.
        """
        parameters = dict(raw.get("rope_parameters") or raw.get("rope_scaling") or {})
        kind = parameters.get("rope_type", parameters.get("type")) or "default"
        if kind not in SCALINGS:
            raise ConfigError(f"rope scaling {kind!r} is not supported; known: {SCALINGS}")
        return cls(
            dim=dim,
            theta=float(parameters.get("rope_theta") or raw.get("rope_theta") or theta),
            max_positions=int(raw.get("max_position_embeddings") or max_positions),
            kind=kind,
            factor=float(parameters.get("factor") or 1.0),
            options=parameters,
        )


class Rotary(nn.Module):
    """Rotates queries and keys in place; the tables grow with the positions asked for."""

    def __init__(self, spec: RopeSpec) -> None:
        super().__init__()
        self.spec = spec
        self._tables: tuple[Tensor, Tensor] | None = None

    def forward(self, q: Tensor, k: Tensor, positions: Tensor, max_position: int) -> None:
        """q, k: (tokens, heads, head_dim), mutated; positions: (tokens,) int64, <= max_position."""
        cos, sin = self.tables(max_position + 1, q.device)
        kernels.apply_rope(q, positions, cos, sin)
        kernels.apply_rope(k, positions, cos, sin)

    def tables(self, length: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """cos and sin, (positions >= length, dim / 2) float32."""
        if self._tables is None or self._tables[0].shape[0] < length:
            rows = max(length, self.spec.max_positions)
            self._tables = rope_tables(self.spec, rows, device)
        return self._tables


def rope_tables(spec: RopeSpec, rows: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """cos and sin of ``position * frequency``, (rows, dim / 2) float32."""
    frequency, magnitude = _frequencies(spec, rows)
    angles = torch.outer(torch.arange(rows, dtype=torch.float32), frequency)
    return (angles.cos() * magnitude).to(device), (angles.sin() * magnitude).to(device)


def _frequencies(spec: RopeSpec, rows: int) -> tuple[Tensor, float]:
    exponents = torch.arange(0, spec.dim, 2, dtype=torch.int64).float() / spec.dim
    frequency = 1.0 / (spec.theta**exponents)
    options = spec.options or {}
    if spec.kind == "linear":
        return frequency / spec.factor, 1.0
    if spec.kind == "dynamic":
        return _dynamic(spec, exponents, rows), 1.0
    if spec.kind == "llama3":
        return _llama3(frequency, spec.factor, options), 1.0
    if spec.kind == "yarn":
        return _yarn(spec, frequency, options)
    return frequency, 1.0


def _dynamic(spec: RopeSpec, exponents: Tensor, rows: int) -> Tensor:
    """NTK-aware scaling: theta grows once the sequence is longer than the model was trained on."""
    length = max(rows, spec.max_positions)
    growth = spec.factor * length / spec.max_positions - (spec.factor - 1)
    base: float = spec.theta * growth ** (spec.dim / (spec.dim - 2))
    scaled: Tensor = 1.0 / (base**exponents)
    return scaled


def _llama3(frequency: Tensor, factor: float, options: Mapping[str, Any]) -> Tensor:
    """Llama 3.1: long wavelengths are divided by ``factor``, short ones kept, a ramp between."""
    low, high = float(options["low_freq_factor"]), float(options["high_freq_factor"])
    trained = float(options["original_max_position_embeddings"])
    wavelength = 2 * math.pi / frequency
    ramp = ((trained / wavelength - low) / (high - low)).clamp(0, 1)
    return (1 - ramp) * frequency / factor + ramp * frequency


def _yarn(spec: RopeSpec, frequency: Tensor, options: Mapping[str, Any]) -> tuple[Tensor, float]:
    """YaRN (Peng et al. 2023): a ramp over dimensions between interpolation and extrapolation."""
    trained = float(options.get("original_max_position_embeddings") or spec.max_positions)
    beta_fast = float(options.get("beta_fast") or 32)
    beta_slow = float(options.get("beta_slow") or 1)

    def dimension(rotations: float) -> float:
        turns = math.log(trained / (rotations * 2 * math.pi))
        return spec.dim * turns / (2 * math.log(spec.theta))

    low, high = dimension(beta_fast), dimension(beta_slow)
    if options.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, spec.dim - 1)
    index = torch.arange(spec.dim // 2, dtype=torch.float32)
    ramp = ((index - low) / max(high - low, 0.001)).clamp(0, 1)
    magnitude = options.get("attention_factor")
    if magnitude is None:
        magnitude = 0.1 * math.log(spec.factor) + 1.0 if spec.factor > 1 else 1.0
    return frequency / spec.factor * ramp + frequency * (1 - ramp), float(magnitude)
