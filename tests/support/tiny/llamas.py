"""Llama, Mistral and Mixtral in every layout that our loader accepts; see ``decoders``."""

from typing import Any

import torch
import transformers as hf

from tiny.checkpoint import Tensors, Variant

VOCAB = 96


def _llama(**changes: Any) -> Any:
    values = dict(
        vocab_size=VOCAB, hidden_size=64, intermediate_size=96, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64,
    )  # fmt: skip
    return hf.LlamaForCausalLM(hf.LlamaConfig(**{**values, **changes}))


def rope(kind: str, **options: Any) -> dict[str, Any]:
    return {"rope_type": kind, "rope_theta": 10000.0, **options}


LLAMA_OLD = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": VOCAB,
    "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
    "hidden_act": "silu", "rms_norm_eps": 1e-6, "max_position_embeddings": 64,
    "num_key_value_heads": 2, "tie_word_embeddings": False, "rope_scaling": None,
}  # fmt: skip

LLAMA3 = {
    "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}  # fmt: skip

YARN = {"factor": 4.0, "original_max_position_embeddings": 16}


def _scaled(kind: str, old_name: str = "type", **options: Any) -> Variant:
    return Variant(
        f"llama-{kind}", lambda: _llama(rope_parameters=rope(kind, **options)),
        config={**LLAMA_OLD, "rope_scaling": {old_name: kind, **options}},
    )  # fmt: skip


def without(prefix: str) -> Any:
    return lambda tensors: {name.removeprefix(prefix): t for name, t in tensors.items()}


def with_buffers(name: str, shape: tuple[int, ...]) -> Any:
    return lambda tensors: {**tensors, **{name.format(i): torch.ones(shape) for i in range(2)}}


LLAMA = (
    Variant("llama", _llama),
    Variant("llama-mha-old", lambda: _llama(num_key_value_heads=4), config={
        k: v for k, v in LLAMA_OLD.items() if k != "num_key_value_heads"
    }, rename=with_buffers("model.layers.{}.self_attn.rotary_emb.inv_freq", (8,))),
    Variant("llama-no-prefix", _llama, rename=without("model.")),
    Variant("llama-biases", lambda: _llama(attention_bias=True, mlp_bias=True)),
    Variant("llama-tied", lambda: _llama(tie_word_embeddings=True)),
    Variant("llama-head-dim", lambda: _llama(head_dim=24)),
    Variant("llama-theta", lambda: _llama(rope_parameters=rope("default", rope_theta=1e6)),
            config={**LLAMA_OLD, "rope_theta": 1e6}),
    _scaled("linear", factor=2.0),
    _scaled("llama3", "rope_type", **LLAMA3),
    _scaled("yarn", "rope_type", **YARN),
)  # fmt: skip

# Judged on prompts alone: transformers' own state makes decoding depend on what ran before.
DYNAMIC = _scaled("dynamic", factor=2.0)


def _mistral(window: int | None) -> Any:
    return hf.MistralForCausalLM(hf.MistralConfig(
        vocab_size=VOCAB, hidden_size=64, intermediate_size=96, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64,
        sliding_window=window,
    ))  # fmt: skip


def _mixtral() -> Any:
    return hf.MixtralForCausalLM(hf.MixtralConfig(
        vocab_size=VOCAB, hidden_size=64, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, num_local_experts=5, num_experts_per_tok=2,
        max_position_embeddings=64, experts_implementation="eager",
    ))  # fmt: skip


def _fused_experts(tensors: Tensors) -> Tensors:
    out = {n.replace("block_sparse_moe.gate", "mlp.gate"): t
           for n, t in tensors.items() if ".experts." not in n}  # fmt: skip
    for i in range(2):
        base = f"model.layers.{i}.block_sparse_moe.experts"
        experts = range(5)
        gate_up = [
            torch.cat([tensors[f"{base}.{e}.w1.weight"], tensors[f"{base}.{e}.w3.weight"]])
            for e in experts
        ]
        down = [tensors[f"{base}.{e}.w2.weight"] for e in experts]
        out[f"model.layers.{i}.mlp.experts.gate_up_proj"] = torch.stack(gate_up)
        out[f"model.layers.{i}.mlp.experts.down_proj"] = torch.stack(down)
    return out


MISTRAL = (
    Variant("mistral-window", lambda: _mistral(7)),
    Variant("mistral-full", lambda: _mistral(None)),
    Variant("mixtral", _mixtral),
    Variant("mixtral-fused", _mixtral, rename=_fused_experts),
)
