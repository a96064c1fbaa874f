"""Gemma 4, its text part: two sizes of heads, shared caches, inputs of every layer, experts.

Source: config fields and layer names of transformers' ``Gemma4ForConditionalGeneration`` and
``Gemma4ForCausalLM``; Gemma Team 2026. Layers that see the whole text have wider heads than those
with a window, and rotate a share of them; their values may be their keys. The last layers may read
keys and values of earlier ones. E models have a table of words for every layer; in the 26B, every
MLP has experts beside it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from atoll.errors import ConfigError
from atoll.layers import Attention, Batch, CausalLM, DecoderConfig, GatedMLP, Heads, RMSNorm
from atoll.layers.block import SandwichBlock
from atoll.layers.factors import Factors
from atoll.layers.moe import MixtureOfExperts, NormedRouter
from atoll.layers.norm import UnitNorm
from atoll.layers.per_layer import LayerInput, LayerInputs
from atoll.layers.rotary import RopeSpec, Rotary
from atoll.models.config_fields import activation, layer_windows, read_heads, two_ropes
from atoll.models.config_heads import read_shared_with, read_whole_heads
from atoll.weights.json_fields import MAX_LAYERS, Fields
from atoll.weights.weight_map import TEXT_PREFIXES, WeightMap
from atoll_kernels import Routing

_LAYER, _ATTENTION = "layers.{i}", "layers.{i}.self_attn"


def _unused(config: "Config") -> list[str]:
    """Keys and values of layers that read others'."""
    return [
        f"layers.{layer}.self_attn.{name}"
        for layer, source in enumerate(config.shared_with) if source is not None
        for name in ("k_proj", "v_proj", "k_norm", "v_norm")
    ]  # fmt: skip


WEIGHTS = WeightMap(
    anchor="embed_tokens",
    complete=("layers.", "embed_tokens_per_layer", "per_layer_"),
    prefixes=("model.", "", *TEXT_PREFIXES),
    modules={
        "embed": "embed_tokens",
        "inputs.embed": "embed_tokens_per_layer",
        "inputs.project": "per_layer_model_projection",
        "inputs.norm": "per_layer_projection_norm",
        "blocks.{i}.norm1": f"{_LAYER}.input_layernorm",
        "blocks.{i}.attention.qkv": tuple(f"{_ATTENTION}.{x}_proj" for x in "qkv"),
        "blocks.{i}.attention.qk": tuple(f"{_ATTENTION}.{x}_proj" for x in "qk"),
        "blocks.{i}.attention.q": f"{_ATTENTION}.q_proj",
        "blocks.{i}.attention.q_norm": f"{_ATTENTION}.q_norm",
        "blocks.{i}.attention.k_norm": f"{_ATTENTION}.k_norm",
        "blocks.{i}.attention.out": f"{_ATTENTION}.o_proj",
        "blocks.{i}.norm2": f"{_LAYER}.post_attention_layernorm",
        "blocks.{i}.norm3": f"{_LAYER}.pre_feedforward_layernorm",
        "blocks.{i}.mlp.gate_up": (f"{_LAYER}.mlp.gate_proj", f"{_LAYER}.mlp.up_proj"),
        "blocks.{i}.mlp.down": f"{_LAYER}.mlp.down_proj",
        "blocks.{i}.mlp_norm": f"{_LAYER}.post_feedforward_layernorm_1",
        "blocks.{i}.experts_norm1": f"{_LAYER}.pre_feedforward_layernorm_2",
        "blocks.{i}.experts_norm2": f"{_LAYER}.post_feedforward_layernorm_2",
        "blocks.{i}.mixture.router.scale": f"{_LAYER}.router",
        "blocks.{i}.mixture.router.proj": f"{_LAYER}.router.proj",
        "blocks.{i}.mixture.router.expert_scales": f"{_LAYER}.router",
        "blocks.{i}.mixture.experts.{e}.gate_up": f"{_LAYER}.experts.gate_up_proj[{{e}}]",
        "blocks.{i}.mixture.experts.{e}.down": f"{_LAYER}.experts.down_proj[{{e}}]",
        "blocks.{i}.norm4": f"{_LAYER}.post_feedforward_layernorm",
        "blocks.{i}.input.gate": f"{_LAYER}.per_layer_input_gate",
        "blocks.{i}.input.project": f"{_LAYER}.per_layer_projection",
        "blocks.{i}.input.norm": f"{_LAYER}.post_per_layer_input_norm",
        "blocks.{i}.factor": _LAYER,
        "norm": "norm",
        "lm_head": "/lm_head",
    },
    tied={"lm_head": "embed"},
    unused=_unused,
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Config(DecoderConfig):
    """Read from config.json. heads, local_rope: of layers with a window; whole_heads, rope: of the
    others. shared_with: the layer whose keys and values a layer reads. layer_width: of the inputs
    of each layer, of ``layer_vocab_size`` words; 0: there are none. num_experts: 0: there are none.
    """

    bias: bool
    logit_softcap: float | None
    windows: tuple[int | None, ...]
    whole_heads: Heads
    values_are_keys: bool
    shared_with: tuple[int | None, ...]
    is_double_wide: bool
    layer_width: int
    layer_vocab_size: int
    num_experts: int
    experts_per_token: int
    expert_size: int
    rope: RopeSpec
    local_rope: RopeSpec

    @classmethod
    def from_hf(cls, raw: Mapping[str, Any]) -> "Config":
        """Raises ConfigError for a rope scaling or a kind of attention that is not known."""
        f = Fields(raw)
        num_layers = f.size("num_hidden_layers", most=MAX_LAYERS)
        hidden_size, vocab_size = f.size("hidden_size"), f.size("vocab_size")
        heads = read_heads(f, hidden_size, kv_names=("num_key_value_heads",), dim_name="head_dim")
        windows, values_are_keys = _windows(f, num_layers), f.flag("attention_k_eq_v")
        whole_heads = read_whole_heads(f, heads, windows)
        rope, local_rope = two_ropes(f, whole_heads.head_dim, heads.head_dim)
        # Only images are seen from both sides.
        f.only("use_bidirectional_attention", None, "vision")
        num_experts, experts_per_token, expert_size = _experts(f)
        layer_width = f.count("hidden_size_per_layer_input", default=0, nullable=True)
        return cls(
            vocab_size=vocab_size,
            hidden_size=hidden_size,
            intermediate_size=f.size("intermediate_size"),
            num_layers=num_layers,
            heads=heads,
            eps=f.number("rms_norm_eps", default=1e-6),
            activation=activation(f, "hidden_activation", default="gelu_pytorch_tanh"),
            max_positions=rope.reach,
            tie_word_embeddings=f.flag("tie_word_embeddings", default=True),
            bias=f.flag("attention_bias", default=False),
            logit_softcap=_softcap(f),
            windows=windows,
            whole_heads=whole_heads,
            values_are_keys=values_are_keys,
            shared_with=read_shared_with(f, windows),
            is_double_wide=f.flag("use_double_wide_mlp"),
            layer_width=layer_width,
            layer_vocab_size=_layer_vocab_size(f, vocab_size) if layer_width else 0,
            num_experts=num_experts,
            experts_per_token=experts_per_token,
            expert_size=expert_size,
            rope=rope,
            local_rope=local_rope,
        )


def _softcap(f: Fields) -> float | None:
    return f.number("final_logit_softcapping") if f.has("final_logit_softcapping") else None


def _windows(f: Fields, num_layers: int) -> tuple[int | None, ...]:
    """Of each layer; the last one sees the whole text, whatever the file says."""
    window = f.size("sliding_window")
    found = layer_windows(f, num_layers, window, lambda layer: (layer + 1) % 6 != 0)
    return (*found[:-1], None)


def _experts(f: Fields) -> tuple[int, int, int]:
    """How many experts a layer has, and a token, and their size; 0 each where there are none."""
    if not f.flag("enable_moe_block"):
        return 0, 0, 0
    needed = ("num_experts", "top_k_experts", "moe_intermediate_size")
    missing = [name for name in needed if not f.has(name)]
    if missing:
        raise ConfigError(
            f"{f.source}: enable_moe_block is true, and there is no {', no '.join(missing)}"
        )
    num_experts = f.size(needed[0], most=MAX_LAYERS)
    return num_experts, f.size(needed[1], most=num_experts), f.size(needed[2])


def _layer_vocab_size(f: Fields, vocab_size: int) -> int:
    found = f.size("vocab_size_per_layer_input")
    if found < vocab_size:
        raise ConfigError(
            f"{f.source}: vocab_size_per_layer_input is {found}; expected vocab_size, "
            f"{vocab_size}, or more"
        )
    return found


class Block(SandwichBlock):
    """Attention and MLP normed on both sides; experts beside the MLP, and the layer's input."""

    def __init__(self, c: Config, layer: int, attention: Attention) -> None:
        def norm() -> RMSNorm:
            return RMSNorm(c.hidden_size, c.eps)

        is_wide = c.is_double_wide and c.shared_with[layer] is not None
        mlp = GatedMLP(c.hidden_size, c.intermediate_size * (1 + is_wide), c.activation)
        super().__init__(norm(), attention, norm(), norm(), mlp, norm())
        self.mixture: MixtureOfExperts | None = None
        if c.num_experts:
            self.mlp_norm, self.experts_norm1, self.experts_norm2 = norm(), norm(), norm()
            self.mixture = MixtureOfExperts(
                c.hidden_size, c.expert_size, c.num_experts, Routing(c.experts_per_token),
                c.activation, router=NormedRouter(c.hidden_size, c.num_experts, c.eps),
            )  # fmt: skip
        self.input: LayerInput | None = None
        if c.layer_width:
            self.input = LayerInput(c.hidden_size, c.layer_width, c.activation, c.eps)
        self.factor = Factors("layer_scalar", 1)

    def of_layer(self, x: Tensor, batch: Batch, given: Tensor | None) -> Tensor:
        """x: (tokens, hidden) -> the same shape. given: the layer's input, (tokens, width)."""
        h, residual = self.norm1.add(x, None)
        attended = self.norm2(self.reduce(self.attention(h, batch)))
        h, residual = self.norm3.add(attended, residual)
        out: Tensor = residual + self.norm4(self._fed(h, residual))
        if self.input is not None and given is not None:
            out = out + self.input(out, given)
        return out * self.factor.values

    def _fed(self, h: Tensor, residual: Tensor) -> Tensor:
        """The MLP of h, and the experts of what h is the norm of."""
        out: Tensor = self.reduce(self.mlp(h))
        if self.mixture is None:
            return out
        mixed = self.reduce(self.mixture(self.experts_norm1(residual), residual))
        out = self.mlp_norm(out) + self.experts_norm2(mixed)
        return out


class Model(CausalLM):
    """Blocks that take a part of ``inputs`` besides the stream."""

    unsupported_dtypes = (torch.float16,)

    def __init__(self, config: Config) -> None:
        c, rotary, local_rotary = config, Rotary(config.rope), Rotary(config.local_rope)

        def block(layer: int) -> Block:
            window, source = c.windows[layer], c.shared_with[layer]
            heads = c.whole_heads if window is None else c.heads
            attention = Attention(
                c.hidden_size, heads, layer=layer, bias=c.bias, window=window, scale=1.0,
                rotary=rotary if window is None else local_rotary,
                qk_norms=(RMSNorm(heads.head_dim, c.eps), RMSNorm(heads.head_dim, c.eps)),
                v_norm=UnitNorm(heads.head_dim, c.eps),
                values_are_keys=c.values_are_keys and window is None, shared_with=source,
            )  # fmt: skip
            return Block(c, layer, attention)

        super().__init__(c, block, RMSNorm(c.hidden_size, c.eps), logit_softcap=c.logit_softcap)
        self.inputs: LayerInputs | None = None
        if c.layer_width:
            self.inputs = LayerInputs(
                c.hidden_size, c.layer_vocab_size, c.num_layers, c.layer_width, c.eps
            )
        # As transformers does: rounded to the dtype of the vectors.
        scale = torch.tensor(c.hidden_size**0.5, device="cpu")
        self.scales = {dtype: scale.to(dtype).item() for dtype in (torch.float32, torch.bfloat16)}

    def embedded(self, batch: Batch) -> Tensor:
        """What the first block sees, (tokens, hidden)."""
        x: Tensor = self.embed(batch.input_ids)
        return x * self.scales[x.dtype]

    def forward(self, batch: Batch) -> Tensor:
        """(tokens, hidden), normalised."""
        if batch.block_tables is None:
            batch = replace(batch, kept={})
        x = self.embedded(batch)
        inputs = None if self.inputs is None else self.inputs(x, batch.input_ids)
        blocks: list[Any] = list(self.blocks)
        for layer, block in enumerate(blocks):
            x = block.of_layer(x, batch, None if inputs is None else inputs[:, layer])
        out: Tensor = self.norm(x)
        return out
