"""Phi 1 to 2, in transformers' layout and in those of the first releases."""

from typing import Any

import torch
import transformers as hf

from tiny.checkpoint import Tensors, Variant
from tiny.llamas import VOCAB


def _phi(**changes: Any) -> Any:
    values = dict(
        vocab_size=VOCAB, hidden_size=64, intermediate_size=256, num_hidden_layers=2,
        num_attention_heads=4, max_position_embeddings=64, partial_rotary_factor=0.5,
    )  # fmt: skip
    return hf.PhiForCausalLM(hf.PhiConfig(**{**values, **changes}))


PHI_OLD = {
    "architectures": ["PhiForCausalLM"], "activation_function": "gelu_new", "vocab_size": VOCAB,
    "n_embd": 64, "n_head": 4, "n_head_kv": None, "n_inner": None, "n_layer": 2,
    "n_positions": 64, "rotary_dim": 8, "layer_norm_epsilon": 1e-5, "tie_word_embeddings": False,
}  # fmt: skip


def _mixer(block: str, embed: str, head: str, shift: int) -> Any:
    """From transformers' names to the first releases'."""
    names = {
        "input_layernorm": "ln", "self_attn.dense": "mixer.out_proj", "mlp.fc1": "mlp.fc1",
        "mlp.fc2": "mlp.fc2",
    }  # fmt: skip

    def rename(tensors: Tensors) -> Tensors:
        out = {}
        for kind in ("weight", "bias"):
            for i in range(2):
                old, new = f"model.layers.{i}", block.format(i + shift)
                for source, target in names.items():
                    out[f"{new}.{target}.{kind}"] = tensors[f"{old}.{source}.{kind}"]
                parts = [tensors[f"{old}.self_attn.{p}_proj.{kind}"] for p in "qkv"]
                out[f"{new}.mixer.Wqkv.{kind}"] = torch.cat(parts)
            out[f"{head}.ln.{kind}"] = tensors[f"model.final_layernorm.{kind}"]
            out[f"{head}.linear.{kind}"] = tensors[f"lm_head.{kind}"]
        return {**out, f"{embed}.weight": tensors["model.embed_tokens.weight"]}

    return rename


PHI = (
    Variant("phi", _phi),
    Variant("phi-grouped", lambda: _phi(num_key_value_heads=2)),
    Variant("phi-qk-norms", lambda: _phi(num_key_value_heads=2, qk_layernorm=True)),
    Variant("phi-msft", _phi, config={**PHI_OLD, "model_type": "phi-msft"},
            rename=_mixer("transformer.h.{}", "transformer.embd.wte", "lm_head", 0)),
    Variant("phi-mixformer", _phi, config={**PHI_OLD, "model_type": "mixformer-sequential"},
            rename=_mixer("layers.{}", "layers.0.wte", "layers.3", 1)),
)  # fmt: skip
