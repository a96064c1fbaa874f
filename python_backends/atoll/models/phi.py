"""Phi-1, 1.5 and 2: one norm for attention and MLP in parallel, partial rotary, biases everywhere.

Source: config fields and layer names of transformers' ``PhiForCausalLM``; Li et al. 2023. The
first releases have layouts of their own: phi-msft (``transformer.h.N.mixer.Wqkv``), and before it
mixformer-sequential, where the embedding, the blocks and the head are numbered as one list.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from atoll.layers import MLP, Attention, CausalLM, DecoderConfig, LayerNorm
from atoll.layers.block import ParallelBlock
from atoll.layers.rotary import RopeSpec, Rotary
from atoll.models.config_fields import activation, check_width, read_heads
from atoll.weights.json_fields import MAX_LAYERS, Fields
from atoll.weights.weight_map import WeightMap


def _mixer(block: str, embed: str, head: str) -> WeightMap:
    return WeightMap(
        anchor=embed,
        complete=(block.partition("{")[0],),
        modules={
            "embed": embed,
            "blocks.{i}.norm1": f"{block}.ln",
            "blocks.{i}.attention.qkv": f"{block}.mixer.Wqkv",
            "blocks.{i}.attention.out": f"{block}.mixer.out_proj",
            "blocks.{i}.mlp.up": f"{block}.mlp.fc1",
            "blocks.{i}.mlp.down": f"{block}.mlp.fc2",
            "norm": f"{head}.ln",
            "lm_head": f"{head}.linear",
        },
    )


WEIGHTS = (
    WeightMap(
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
            "blocks.{i}.attention.q_norm": "layers.{i}.self_attn.q_layernorm",
            "blocks.{i}.attention.k_norm": "layers.{i}.self_attn.k_layernorm",
            "blocks.{i}.attention.out": "layers.{i}.self_attn.dense",
            "blocks.{i}.mlp.up": "layers.{i}.mlp.fc1",
            "blocks.{i}.mlp.down": "layers.{i}.mlp.fc2",
            "norm": "final_layernorm",
            "lm_head": "/lm_head",
        },
        tied={"lm_head": "embed"},
    ),
    _mixer("transformer.h.{i}", "transformer.embd.wte", "lm_head"),
    _mixer("layers.{i+1}", "layers.0.wte", "layers.{num_layers+1}"),
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Config(DecoderConfig):
    """Read from config.json, of transformers or of the first releases."""

    has_qk_norm: bool
    rope: RopeSpec

    @classmethod
    def from_hf(cls, raw: Mapping[str, Any]) -> "Config":
        """Raises ConfigError for a rope scaling that is not known."""
        f = Fields(raw)
        hidden_names, head_names = ("hidden_size", "n_embd"), ("num_attention_heads", "n_head")
        hidden_size = f.size(*hidden_names)
        heads = read_heads(
            f, hidden_size, hidden_names, head_names, ("num_key_value_heads", "n_head_kv")
        )
        share = RopeSpec.partial(raw, "partial_rotary_factor", default=0.5)
        width = f.size("rotary_dim", default=max(1, int(heads.head_dim * share)), nullable=True)
        # The first releases rotate 32 features of a head, and all of a head that has fewer.
        width = min(width, heads.head_dim) if f.has("rotary_dim") else width
        check_width(f, width, heads.head_dim, "rotary_dim", "partial_rotary_factor")
        positions = f.size("n_positions", default=2048)
        rope = RopeSpec.from_hf(raw, width, max_positions=positions, is_partial=True)
        return cls(
            vocab_size=f.size("vocab_size"),
            hidden_size=hidden_size,
            intermediate_size=f.size(
                "intermediate_size", "n_inner", default=4 * hidden_size, nullable=True
            ),
            num_layers=f.size("num_hidden_layers", "n_layer", most=MAX_LAYERS),
            heads=heads,
            eps=f.number("layer_norm_eps", "layer_norm_epsilon", default=1e-5),
            activation=activation(f, "hidden_act", "activation_function", default="gelu_new"),
            max_positions=rope.reach,
            has_qk_norm=f.flag("qk_layernorm", default=False),
            tie_word_embeddings=f.flag("tie_word_embeddings", default=False),
            rope=rope,
        )


class Model(CausalLM):
    """Attention and MLP of the same normalised input."""

    def __init__(self, config: Config) -> None:
        c, rotary = config, Rotary(config.rope)

        def block(layer: int) -> ParallelBlock:
            norms = LayerNorm(c.heads.head_dim, c.eps), LayerNorm(c.heads.head_dim, c.eps)
            attention = Attention(
                c.hidden_size, c.heads, layer=layer, rotary=rotary,
                qk_norms=norms if c.has_qk_norm else None,
            )  # fmt: skip
            mlp = MLP(c.hidden_size, c.intermediate_size, c.activation)
            return ParallelBlock(LayerNorm(c.hidden_size, c.eps), attention, None, mlp)

        norm = LayerNorm(c.hidden_size, c.eps)
        super().__init__(c, block, norm, head_bias=True)
