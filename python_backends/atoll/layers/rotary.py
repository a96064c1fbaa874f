"""Rotary position tables, with the scalings that config.json may ask for.

Reads both formats in use: ``rope_theta`` with ``rope_scaling``, and ``rope_parameters``.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from atoll.errors import ConfigError
from atoll.layers.batch import Batch
from atoll.layers.longrope import TRAINED, longrope, read_longrope
from atoll.layers.yarn import read_yarn, temperature, yarn
from atoll.weights.json_fields import Fields

# The tables have a row for each.
MAX_POSITIONS = 1 << 24
_SHARE = "partial_rotary_factor"
# Kinds of scaling, and what each cannot do without.
SCALINGS: Mapping[str, tuple[str, ...]] = {
    "default": (),
    "linear": ("factor",),
    "dynamic": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor"),
    "yarn": (),
    "longrope": ("short_factor", "long_factor"),
    "proportional": (),
}


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
        cls,
        raw: Mapping[str, Any],
        dim: int,
        theta: float = 10000.0,
        max_positions: int = 2048,
        *,
        is_partial: bool = False,
    ) -> "RopeSpec":
        """From ``rope_parameters`` or ``rope_theta`` and ``rope_scaling``.

        is_partial: the family rotates a share of each head, of which ``dim`` is made already.

        Raises:
            ConfigError: a scaling that is not known, lacks a value or has one that is out of range;
                names the key.
        """
        fields, scaling = Fields(raw), _parameters(raw)
        kind = _kind(scaling)
        if kind not in SCALINGS:
            raise scaling.wrong(f"one of {', '.join(SCALINGS)}", "rope_type", "type")
        share = cls.partial(raw, "partial_rotary_factor", default=1.0)
        # Without scaling, transformers' families that rotate whole heads do not read it.
        if kind not in ("default", "proportional") and share < 1.0 and not is_partial:
            raise ConfigError(
                f"{scaling.source}: partial_rotary_factor is {share} beside scaling {kind!r}; this "
                "family rotates whole heads"
            )
        if kind == "proportional" and is_partial:
            raise ConfigError(
                f"{scaling.source}: scaling {kind!r} is of whole heads; this family rotates a share"
            )
        missing = [name for name in SCALINGS[kind] if not scaling.has(name)]
        if missing:
            raise ConfigError(
                f"{scaling.source}: scaling {kind!r} needs {', '.join(missing)}; its keys are "
                + ", ".join(SCALINGS[kind])
            )
        positions = fields.size(
            "max_position_embeddings",
            default=max_positions,
            nullable=kind != "longrope",
            most=MAX_POSITIONS,
        )
        trained = _trained(fields, scaling, positions)
        if kind == "dynamic" and dim < 4:
            raise ConfigError(f"{scaling.source}: dynamic scaling of {dim} rotated features")
        theta_of = scaling if "rope_theta" in scaling.raw else fields
        factor = positions / trained if kind in ("yarn", "longrope") else 1.0
        return cls(
            dim=dim,
            theta=theta_of.number("rope_theta", default=theta, above=1.0),
            max_positions=positions,
            kind=kind,
            factor=scaling.number("factor", default=factor, nullable=True),
            options={**_options(scaling, kind, dim), TRAINED: trained, _SHARE: share},
        )

    @staticmethod
    def partial(raw: Mapping[str, Any], name: str, default: float) -> float:
        """The rotated share of a head: ``raw[name]``, or where transformers 5 keeps it."""
        fields, scaling = Fields(raw), _parameters(raw)
        if fields.has(name):
            return fields.number(name, most=1.0)
        return scaling.number("partial_rotary_factor", default=default, nullable=True, most=1.0)

    @staticmethod
    def longrope_limit(raw: Mapping[str, Any]) -> int | None:
        """Of a LongRoPE config, positions that the short factors are for; None for others."""
        fields, scaling = Fields(raw), _parameters(raw)
        if _kind(scaling) != "longrope":
            return None
        return _trained(fields, scaling, fields.size("max_position_embeddings"))

    @property
    def reach(self) -> int:
        """Positions that the tables are meant for; dynamic scaling starts at ``max_positions``."""
        return int(self.max_positions * (self.factor if self.kind == "dynamic" else 1))

    @property
    def score_scale(self) -> float:
        """What DeepSeek multiplies scores by: YaRN's temperature by ``mscale_all_dim``, of queries
        and of keys."""
        all_dim = (self.options or {}).get("mscale_all_dim") if self.kind == "yarn" else None
        return temperature(self.factor, all_dim) ** 2 if all_dim else 1.0

    def key_length(self, num_prompt_tokens: int) -> int | None:
        """What a text's keys depend on besides its tokens: None, unless scaling is dynamic.

        Texts of one value have equal keys where their tokens are equal: see ``_dynamic_tables``.
        """
        return max(num_prompt_tokens, self.max_positions) if self.kind == "dynamic" else None


class Rotation(NamedTuple):
    """How each token's queries and keys are rotated: rows (tokens,) int64 of cos and sin."""

    rows: Tensor
    cos: Tensor
    sin: Tensor


class Rotary(nn.Module):
    """How a batch is rotated; the tables grow with the positions asked for."""

    def __init__(self, spec: RopeSpec) -> None:
        super().__init__()
        self.spec = spec
        self._tables: tuple[Tensor, Tensor] | None = None
        # Graphs that were captured over a smaller table go on reading it.
        self._outgrown: list[tuple[Tensor, Tensor]] = []

    def forward(self, batch: Batch) -> Rotation:
        """Rows of the tables for every token."""
        device = batch.positions.device
        exceeds = batch.prompt_lens is not None or batch.max_position >= self.spec.max_positions
        if self.spec.kind == "dynamic" and exceeds:
            cos, sin = _dynamic_tables(self.spec, batch)
            return Rotation(torch.arange(len(batch.positions), device=device), cos, sin)
        return Rotation(batch.positions, *self.tables(batch.max_position + 1, device))

    def tables(self, length: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """cos and sin, (positions >= length, dim / 2) float32."""
        if self._tables is None:
            self._tables = rope_tables(self.spec, max(length, self.spec.max_positions), device)
        elif self._tables[0].shape[0] < length:
            self._outgrown.append(self._tables)
            self._tables = rope_tables(self.spec, 2 * length, device)
        return self._tables


def rope_tables(spec: RopeSpec, rows: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """cos and sin of ``position * frequency``, (rows, dim / 2) float32."""
    frequency, magnitude = _frequencies(spec)
    angles = torch.outer(torch.arange(rows, dtype=torch.float32), frequency)
    return (angles.cos() * magnitude).to(device), (angles.sin() * magnitude).to(device)


def _frequencies(spec: RopeSpec) -> tuple[Tensor, float]:
    exponents = torch.arange(0, spec.dim, 2, dtype=torch.int64).float() / spec.dim
    frequency = 1.0 / (spec.theta**exponents)
    options = spec.options or {}
    if spec.kind == "linear":
        return frequency / spec.factor, 1.0
    if spec.kind == "proportional":
        # The first frequencies of the whole head; features beyond them are not rotated.
        num_rotated = int(options[_SHARE] * spec.dim // 2)
        is_rotated = torch.arange(len(frequency)) < num_rotated
        return frequency * is_rotated / spec.factor, 1.0
    if spec.kind == "llama3":
        return _llama3(frequency, spec.factor, options), 1.0
    if spec.kind == "yarn":
        return yarn(frequency, spec.theta, spec.factor, options)
    if spec.kind == "longrope":
        return longrope(frequency, spec.max_positions, spec.factor, options)
    return frequency, 1.0


def _dynamic_tables(spec: RopeSpec, batch: Batch) -> tuple[Tensor, Tensor]:
    """NTK-aware scaling: theta grows once a sequence is longer than the model was trained on.

    A prompt is rotated for its own length, each token behind it for the length that ends with it.
    So a token's theta depends neither on its neighbours in the batch, nor on how the text was cut
    into steps: chunks, guessed tokens, and what is computed again after a preemption are equal.
    Returns cos and sin of each token, (tokens, dim / 2) float32.
    """
    counts = batch.cu_seqlens.diff().long()
    texts = counts if batch.seq_lens is None else batch.seq_lens
    prompts = texts if batch.prompt_lens is None else batch.prompt_lens
    prompts = torch.repeat_interleave(prompts, counts, output_size=len(batch.positions))
    lengths = torch.maximum(batch.positions + 1, prompts)
    lengths = lengths.clamp_min(spec.max_positions).double().unsqueeze(1)
    growth = spec.factor * lengths / spec.max_positions - (spec.factor - 1)
    theta = spec.theta * growth ** (spec.dim / (spec.dim - 2))
    exponents = torch.arange(0, spec.dim, 2, device=theta.device).double() / spec.dim
    angles = (batch.positions.unsqueeze(1) / theta**exponents).float()
    return angles.cos(), angles.sin()


def _llama3(frequency: Tensor, factor: float, options: Mapping[str, Any]) -> Tensor:
    """Llama 3.1: long wavelengths are divided by ``factor``, short ones kept, a ramp between."""
    low, high = float(options["low_freq_factor"]), float(options["high_freq_factor"])
    trained = float(options["original_max_position_embeddings"])
    wavelength = 2 * math.pi / frequency
    ramp = ((trained / wavelength - low) / (high - low)).clamp(0, 1)
    return (1 - ramp) * frequency / factor + ramp * frequency


def _parameters(raw: Mapping[str, Any]) -> Fields:
    """The scaling; of both, transformers takes the old name's."""
    fields = Fields(raw)
    old = fields.inside("rope_scaling")
    return old if old.raw else fields.inside("rope_parameters")


def _kind(scaling: Fields) -> str:
    kind = scaling.text("rope_type", "type", default="default")
    # Names of LongRoPE in Phi-3's first files.
    is_old = kind == "su" or (kind == "yarn" and scaling.has("short_factor", "long_factor"))
    return "longrope" if is_old else kind


def _trained(fields: Fields, scaling: Fields, positions: int) -> int:
    # Some repositories keep it beside the scaling, which transformers prefers.
    beside = fields if fields.has(TRAINED) else scaling
    return beside.size(TRAINED, default=positions, most=MAX_POSITIONS)


def _options(scaling: Fields, kind: str, dim: int) -> dict[str, Any]:
    """What the tables of a kind are made from, checked."""
    if kind == "longrope":
        return read_longrope(scaling, dim)
    if kind == "llama3":
        low, high = (scaling.number(f"{name}_freq_factor") for name in ("low", "high"))
        if high <= low:
            raise scaling.wrong(f"more than low_freq_factor, {low:g}", "high_freq_factor")
        return {"low_freq_factor": low, "high_freq_factor": high}
    return read_yarn(scaling) if kind == "yarn" else {}
