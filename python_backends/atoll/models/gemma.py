"""Gemma 1, 2 and 3: zero-centred norms, scaled embeddings, softcaps, layers that differ.

Source: config fields and layer names of transformers' ``GemmaForCausalLM``, ``Gemma2ForCausalLM``
and ``Gemma3ForCausalLM``; Gemma Team 2024, 2025. Gemma 2 and 3 also norm what attention and MLP
give. In Gemma 3, layers with a window have a rotation of their own; queries and keys are normed.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from atoll.errors import ConfigError
from atoll.layers import Attention, Batch, CausalLM, DecoderConfig, GatedMLP, RMSNorm
from atoll.layers.block import PreNormBlock, SandwichBlock
from atoll.layers.rotary import RopeSpec, Rotary
from atoll.models.config_fields import (
    known_activation,
    layer_ropes,
    layer_windows,
    read_heads,
    two_sided,
    whole_head_rope,
)
from atoll.weights.json_fields import MAX_LAYERS, Fields
from atoll.weights.weight_map import TEXT_PREFIXES, WeightMap

WEIGHTS = WeightMap(
    anchor="embed_tokens",
    complete=("layers.",),
    prefixes=("model.", "", *TEXT_PREFIXES),
    modules={
        "embed": "embed_tokens",
        "blocks.{i}.norm1": "layers.{i}.input_layernorm",
        "blocks.{i}.attention.qkv": (
            "layers.{i}.self_attn.q_proj", "layers.{i}.self_attn.k_proj",
            "layers.{i}.self_attn.v_proj",
        ),
        "blocks.{i}.attention.q_norm": "layers.{i}.self_attn.q_norm",
        "blocks.{i}.attention.k_norm": "layers.{i}.self_attn.k_norm",
        "blocks.{i}.attention.out": "layers.{i}.self_attn.o_proj",
        "blocks.{i}.norm2": "layers.{i}.post_attention_layernorm",
        "blocks.{i}.norm3": "layers.{i}.pre_feedforward_layernorm",
        "blocks.{i}.mlp.gate_up": ("layers.{i}.mlp.gate_proj", "layers.{i}.mlp.up_proj"),
        "blocks.{i}.mlp.down": "layers.{i}.mlp.down_proj",
        "blocks.{i}.norm4": "layers.{i}.post_feedforward_layernorm",
        "norm": "norm",
        "lm_head": "/lm_head",
    },
    tied={"lm_head": "embed"},
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Config(DecoderConfig):
    """Read from config.json. windows: of each layer. local_rope: of layers with a window.

    softcap: of attention's scores. scale: of them, before that.
    """

    generation: int
    bias: bool
    scale: float | None
    softcap: float | None
    logit_softcap: float | None
    windows: tuple[int | None, ...]
    rope: RopeSpec
    local_rope: RopeSpec

    @classmethod
    def from_hf(cls, raw: Mapping[str, Any]) -> "Config":
        """Raises ConfigError for a rope scaling or a kind of attention that is not known."""
        f = Fields(raw)
        generation = {"gemma": 1, "gemma2": 2}.get(str(raw.get("model_type")), 3)
        hidden_size = f.size("hidden_size")
        num_layers = f.size("num_hidden_layers", most=MAX_LAYERS)
        heads = read_heads(f, hidden_size, kv_names=("num_key_value_heads",), dim_name="head_dim")
        rope = local_rope = whole_head_rope(f, heads) if generation < 3 else None
        if rope is None or local_rope is None:
            rope, local_rope = layer_ropes(f, heads, 1e6, 1e4, "rope_local_base_freq")
        is_causal, windows = _directions(f, _windows(f, num_layers, generation), generation)
        return cls(
            vocab_size=f.size("vocab_size"),
            hidden_size=hidden_size,
            intermediate_size=f.size("intermediate_size"),
            num_layers=num_layers,
            heads=heads,
            eps=f.number("rms_norm_eps", default=1e-6),
            activation=_activation(f, "hidden_act" if generation == 1 else "hidden_activation"),
            max_positions=rope.reach,
            tie_word_embeddings=f.flag("tie_word_embeddings", default=True),
            generation=generation,
            bias=f.flag("attention_bias", default=False),
            scale=None if generation == 1 else f.size("query_pre_attn_scalar", default=256) ** -0.5,
            softcap=None if generation == 1 else _score_softcap(f, generation),
            logit_softcap=None if generation == 1 else _logit_softcap(f),
            is_causal=is_causal,
            windows=windows,
            rope=rope,
            local_rope=local_rope,
        )


def _activation(f: Fields, name: str) -> str:
    found = f.text(name, default="gelu_pytorch_tanh")
    # The first files of Gemma 1 mean the approximation all the same.
    old = name == "hidden_act" and found == "gelu"
    return "gelu_pytorch_tanh" if old else known_activation(f, found, name)


def _softcap(f: Fields, name: str) -> float | None:
    return f.number(name) if f.has(name) else None


def _score_softcap(f: Fields, generation: int) -> float | None:
    found = _softcap(f, "attn_logit_softcapping")
    if generation == 3 and found is not None:
        # transformers' class has the key, and does not cap.
        raise ConfigError(f"{f.source}: attn_logit_softcapping is {found}; only null is supported")
    return found


def _logit_softcap(f: Fields) -> float | None:
    found = _softcap(f, "final_logit_softcapping")
    nested = "Gemma3ForConditionalGeneration"
    if found is not None and nested in f.texts("architectures"):
        raise ConfigError(
            f"{f.source}: final_logit_softcapping is {found}; transformers' {nested} does not cap, "
            "so that only null is supported"
        )
    return found


def _windows(f: Fields, num_layers: int, generation: int) -> tuple[int | None, ...]:
    if generation == 1:
        return (None,) * num_layers
    period = 2
    if generation == 3 and not f.has("layer_types"):
        period = f.size("sliding_window_pattern", default=6)
    window = f.size("sliding_window")
    return layer_windows(f, num_layers, window, lambda layer: (layer + 1) % period != 0)


def _directions(
    f: Fields, windows: tuple[int | None, ...], generation: int
) -> tuple[bool, tuple[int | None, ...]]:
    """Whether tokens see those before them alone, and the windows that this makes of ``windows``.

    Raises:
        ConfigError: both keys say that they see all; each means another window.
    """
    # transformers' Gemma 1 and 2 apply it to batches without padding alone.
    known = (False, True) if generation == 3 else (False,)
    is_embedding = f.only("use_bidirectional_attention", *known)
    is_causal = f.flag("is_causal", default=True)
    if not is_embedding:
        return is_causal, windows if is_causal else two_sided(windows)
    if not is_causal:
        raise ConfigError(
            f"{f.source}: is_causal is false and use_bidirectional_attention is true; expected one"
        )
    # EmbeddingGemma's window is that of both sides together.
    return False, tuple(None if window is None else window // 2 + 1 for window in windows)


class Model(CausalLM):
    """Blocks of grouped-query attention and a gated MLP, normed on both sides since Gemma 2."""

    unsupported_dtypes = (torch.float16,)

    def __init__(self, config: Config) -> None:
        c = config
        rotary, local_rotary = Rotary(c.rope), Rotary(c.local_rope)

        def norm(width: int = c.hidden_size) -> RMSNorm:
            return RMSNorm(width, c.eps, is_zero_centred=True)

        def block(layer: int) -> PreNormBlock | SandwichBlock:
            window, head_dim = c.windows[layer], c.heads.head_dim
            attention = Attention(
                c.hidden_size, c.heads, layer=layer, bias=c.bias, causal=c.is_causal,
                window=window, scale=c.scale, softcap=c.softcap,
                rotary=rotary if window is None else local_rotary,
                qk_norms=(norm(head_dim), norm(head_dim)) if c.generation == 3 else None,
            )  # fmt: skip
            mlp = GatedMLP(c.hidden_size, c.intermediate_size, c.activation)
            if c.generation == 1:
                return PreNormBlock(norm(), attention, norm(), mlp)
            return SandwichBlock(norm(), attention, norm(), norm(), mlp, norm())

        super().__init__(c, block, norm(), logit_softcap=c.logit_softcap)
        # As transformers does: rounded to the dtype of the vectors.
        scale = torch.tensor(c.hidden_size**0.5, device="cpu")
        self.scales = {dtype: scale.to(dtype).item() for dtype in (torch.float32, torch.bfloat16)}

    def embedded(self, batch: Batch) -> Tensor:
        """What the first block sees, (tokens, hidden)."""
        x: Tensor = self.embed(batch.input_ids)
        return x * self.scales[x.dtype]
