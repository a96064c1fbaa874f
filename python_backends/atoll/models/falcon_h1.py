"""Falcon-H1: attention and a Mamba-2 layer side by side in every block, with factors everywhere.

Source: config fields and layer names of transformers' ``FalconH1ForCausalLM``; TII 2025; Yang et
al. 2022 (the factors, muP).
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

import atoll_kernels as kernels
from atoll.layers import Attention, Batch, CausalLM, DecoderConfig, GatedMLP, RMSNorm
from atoll.layers.block import States
from atoll.layers.mamba2 import Mamba2, Mamba2Spec
from atoll.layers.norm import Norm
from atoll.layers.parallel import reduction
from atoll.layers.rotary import RopeSpec, Rotary
from atoll.models.config_fields import read_heads, whole_head_rope
from atoll.models.config_mamba import read_hybrid_mamba2
from atoll.weights.json_fields import MAX_LAYERS, Fields
from atoll.weights.weight_map import WeightMap

WEIGHTS = WeightMap(
    anchor="embed_tokens",
    complete=("layers.",),
    prefixes=("model.", ""),
    modules={
        "embed": "embed_tokens",
        "blocks.{i}.norm1": "layers.{i}.input_layernorm",
        "blocks.{i}.attention.qkv": (
            "layers.{i}.self_attn.q_proj", "layers.{i}.self_attn.k_proj",
            "layers.{i}.self_attn.v_proj",
        ),
        "blocks.{i}.attention.out": "layers.{i}.self_attn.o_proj",
        "blocks.{i}.mixer.in_proj": "layers.{i}.mamba.in_proj",
        "blocks.{i}.mixer.conv": "layers.{i}.mamba.conv1d",
        "blocks.{i}.mixer.scan": "layers.{i}.mamba",
        "blocks.{i}.mixer.norm": "layers.{i}.mamba.norm",
        "blocks.{i}.mixer.out": "layers.{i}.mamba.out_proj",
        "blocks.{i}.norm2": "layers.{i}.pre_ff_layernorm",
        "blocks.{i}.mlp.gate_up": (
            "layers.{i}.feed_forward.gate_proj", "layers.{i}.feed_forward.up_proj",
        ),
        "blocks.{i}.mlp.down": "layers.{i}.feed_forward.down_proj",
        "norm": "final_layernorm",
        "lm_head": "/lm_head",
    },
    tied={"lm_head": "embed"},
)  # fmt: skip


@dataclass(frozen=True)
class Multipliers:
    """projected: of a Mamba-2 layer's [gate; x; B; C; dt]. mlp: of the gate, and of the output."""

    embedding: float
    head: float
    key: float
    attention_in: float
    attention_out: float
    mamba_in: float
    mamba_out: float
    projected: tuple[float, ...]
    mlp: tuple[float, ...]

    @classmethod
    def from_fields(cls, f: Fields) -> "Multipliers":
        """Raises ConfigError for a factor that is no number; names the key."""

        def factor(name: str) -> float:
            return f.number(f"{name}_multiplier", default=1.0)

        return cls(
            embedding=factor("embedding"),
            head=factor("lm_head"),
            key=factor("key"),
            attention_in=factor("attention_in"),
            attention_out=factor("attention_out"),
            mamba_in=factor("ssm_in"),
            mamba_out=factor("ssm_out"),
            projected=_several(f, "ssm_multipliers", 5, "of gate, x, B, C and dt"),
            mlp=_several(f, "mlp_multipliers", 2, "of gate and output"),
        )


def _several(f: Fields, name: str, count: int, of_what: str) -> tuple[float, ...]:
    return f.numbers(name, count, of_what) if f.has(name) else (1.0,) * count


@dataclass(frozen=True, kw_only=True)
class Config(DecoderConfig):
    """Read from config.json."""

    mamba: Mamba2Spec
    attention_bias: bool
    mlp_bias: bool
    rope: RopeSpec
    multipliers: Multipliers

    @classmethod
    def from_hf(cls, raw: Mapping[str, Any]) -> "Config":
        """Raises ConfigError for a rope scaling that is not known."""
        f = Fields(raw)
        hidden_size = f.size("hidden_size")
        heads = read_heads(f, hidden_size, kv_names=("num_key_value_heads",), dim_name="head_dim")
        rope = whole_head_rope(f, heads)
        inner_size = f.size("mamba_d_ssm") if f.has("mamba_d_ssm") else None
        is_normed = f.flag("mamba_rms_norm", default=False)
        mamba = replace(
            read_hybrid_mamba2(f, hidden_size, inner_size),
            out_bias=f.flag("projectors_bias", default=False),
            is_normed=is_normed,
            is_gate_first=not (is_normed and f.flag("mamba_norm_before_gate", default=True)),
        )
        return cls(
            vocab_size=f.size("vocab_size"),
            hidden_size=hidden_size,
            intermediate_size=f.size("intermediate_size"),
            num_layers=f.size("num_hidden_layers", most=MAX_LAYERS),
            heads=heads,
            eps=mamba.eps,
            activation=f.only("hidden_act", "silu"),
            max_positions=rope.reach,
            tie_word_embeddings=f.flag("tie_word_embeddings", default=False),
            mamba=mamba,
            attention_bias=f.flag("attention_bias", default=False),
            mlp_bias=f.flag("mlp_bias", default=False),
            rope=rope,
            multipliers=Multipliers.from_fields(f),
        )


def _scaled(x: Tensor, factor: float) -> Tensor:
    """Many published factors are 1."""
    return x if factor == 1.0 else x * factor


class ScaledMamba2(Mamba2):
    """With factors of its inputs, and of each part of what they are projected to."""

    def __init__(
        self, hidden_size: int, spec: Mamba2Spec, multipliers: Multipliers, *, index: int
    ) -> None:
        super().__init__(hidden_size, spec, index=index)
        self.in_scale = multipliers.mamba_in
        sizes = torch.tensor([self.sizes[0], *self.sizes, self.heads], device="cpu")
        factors = torch.tensor(multipliers.projected, device="cpu")
        # Made with the model, before its device is known.
        self._factors = factors.repeat_interleave(sizes)

    def project(self, x: Tensor) -> Tensor:
        """As ``Mamba2.project``."""
        out = super().project(_scaled(x, self.in_scale))
        self._factors = self._factors.to(out.device, out.dtype)
        return out * self._factors


class ScaledMLP(GatedMLP):
    """With factors of the gate, before its activation, and of the output."""

    def __init__(self, hidden_size: int, intermediate_size: int, activation: str, bias: bool,
                 factors: tuple[float, ...]) -> None:  # fmt: skip
        super().__init__(hidden_size, intermediate_size, activation, bias, bias)
        self.factors = factors

    def forward(self, x: Tensor) -> Tensor:
        """x: (tokens, hidden) -> (tokens, hidden)."""
        gate, up = self.gate_up(x).chunk(2, 1)
        out: Tensor = self.down(
            kernels.gate_rows(up, _scaled(gate, self.factors[0]), self.activation)
        )
        return _scaled(out, self.factors[1])


class Block(nn.Module):
    """``x += mamba(norm1(x)) + attention(norm1(x))``, with factors, then ``x += mlp(norm2(x))``."""

    def __init__(
        self, norm1: Norm, attention: nn.Module, mixer: nn.Module, norm2: Norm, mlp: nn.Module,
        multipliers: Multipliers,
    ) -> None:  # fmt: skip
        super().__init__()
        self.norm1, self.attention, self.mixer = norm1, attention, mixer
        self.norm2, self.mlp, self.multipliers = norm2, mlp, multipliers
        self.reduce = reduction()

    def forward(self, x: Tensor, residual: Tensor | None, batch: Batch) -> States:
        """x: (tokens, hidden), not yet added to ``residual``; returns the same pair."""
        m = self.multipliers
        h, residual = self.norm1.add(x, residual)
        mixed = _scaled(self.mixer(h, batch), m.mamba_out)
        attended = _scaled(self.attention(_scaled(h, m.attention_in), batch), m.attention_out)
        h, residual = self.norm2.add(self.reduce(mixed + attended), residual)
        return self.reduce(self.mlp(h)), residual


class Model(CausalLM):
    """Blocks of attention beside a Mamba-2 layer, and a gated MLP."""

    def __init__(self, config: Config) -> None:
        c, m, rotary = config, config.multipliers, Rotary(config.rope)

        def block(layer: int) -> Block:
            attention = Attention(
                c.hidden_size, c.heads, layer=layer, bias=c.attention_bias, rotary=rotary,
                scale=m.key * c.heads.head_dim**-0.5,
            )  # fmt: skip
            return Block(
                RMSNorm(c.hidden_size, c.eps), attention,
                ScaledMamba2(c.hidden_size, c.mamba, m, index=layer),
                RMSNorm(c.hidden_size, c.eps),
                ScaledMLP(c.hidden_size, c.intermediate_size, c.activation, c.mlp_bias, m.mlp), m,
            )  # fmt: skip

        super().__init__(
            c, block, RMSNorm(c.hidden_size, c.eps), embedding_scale=m.embedding, logit_scale=m.head
        )
