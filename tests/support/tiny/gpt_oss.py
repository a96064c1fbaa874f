"""gpt-oss: experts in MXFP4, as published, or as transformers saves them; see ``decoders``."""

from typing import Any

import torch
import transformers as hf
from torch import Tensor

from tiny.checkpoint import Tensors, Variant
from tiny.llamas import VOCAB

# Of codes 0 to 7; the other eight are their negatives.
VALUES = torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0])
# Two ranks have 5 blocks of 32 intermediate features each, of which there are 9.
SIZES: dict[str, Any] = dict(
    vocab_size=VOCAB, hidden_size=64, intermediate_size=288, num_hidden_layers=2, head_dim=24,
    num_attention_heads=4, num_key_value_heads=2, num_local_experts=5, num_experts_per_tok=2,
    max_position_embeddings=64, sliding_window=7,
)  # fmt: skip
YARN: dict[str, Any] = dict(
    rope_type="yarn", factor=4.0, beta_fast=32.0, beta_slow=1.0, truncate=False,
    original_max_position_embeddings=16,
)  # fmt: skip
# In the form of the published repositories.
OLD = {
    "architectures": ["GptOssForCausalLM"], "attention_bias": True, "attention_dropout": 0.0,
    "eos_token_id": 2, "experts_per_token": 2, "hidden_act": "silu", "initial_context_length": 16,
    "initializer_range": 0.02, "layer_types": ["sliding_attention", "full_attention"],
    "model_type": "gpt_oss", "output_router_logits": False, "pad_token_id": 0,
    "quantization_config": {
        "modules_to_not_convert": [
            "model.layers.*.self_attn", "model.layers.*.mlp.router", "model.embed_tokens",
            "lm_head",
        ],
        "quant_method": "mxfp4",
    },
    "rms_norm_eps": 1e-5, "rope_scaling": YARN, "rope_theta": 150000, "router_aux_loss_coef": 0.9,
    "swiglu_limit": 7.0, "tie_word_embeddings": False, "transformers_version": "4.55.0.dev0",
    "use_cache": True, **SIZES,
}  # fmt: skip


def _gpt_oss(**changes: Any) -> Any:
    rope = {**YARN, "rope_theta": 150000.0}
    values = dict(rope_parameters=rope, pad_token_id=0, experts_implementation="eager")
    return hf.GptOssForCausalLM(hf.GptOssConfig(**{**SIZES, **values, **changes}))


def to_mxfp4(weight: Tensor) -> tuple[Tensor, Tensor]:
    """(..., inputs) -> blocks (..., inputs / 32, 16) and scales (..., inputs / 32), uint8."""
    grouped = weight.float().unflatten(-1, (-1, 32))
    powers = grouped.abs().amax(-1).log2().floor() - 2
    scaled = grouped / powers.exp2().unsqueeze(-1)
    nearest = (scaled.abs().unsqueeze(-1) - VALUES).abs().argmin(-1)
    codes = nearest + 8 * (scaled < 0)
    blocks = codes[..., 0::2] + 16 * codes[..., 1::2]
    return blocks.to(torch.uint8), (powers + 127).to(torch.uint8)


def from_mxfp4(blocks: Tensor, scales: Tensor) -> Tensor:
    """The weight (..., inputs) float32 that they stand for, code by code."""
    codes = torch.stack([blocks % 16, blocks // 16], dim=-1).flatten(-2).long()
    values = torch.where(codes < 8, VALUES[codes % 8], -VALUES[codes % 8])
    return (values * (scales.float() - 127).exp2().unsqueeze(-1)).flatten(-2)


def _widened(model: Any, tensors: Tensors) -> None:
    """Gates and ups beyond 7, where they are cut off."""
    for name, parameter in model.named_parameters():
        if name.endswith("gate_up_proj"):
            parameter.data *= 4
            tensors[name] = parameter.data.clone()


def _packed(model: Any, tensors: Tensors) -> None:
    _widened(model, tensors)
    for name, parameter in model.named_parameters():
        if name.endswith(("gate_up_proj", "down_proj")):
            blocks, scales = to_mxfp4(tensors.pop(name).transpose(1, 2))
            tensors[f"{name}_blocks"], tensors[f"{name}_scales"] = blocks, scales
            parameter.data = from_mxfp4(blocks, scales).transpose(1, 2).contiguous()


GPT_OSS = (
    Variant("gpt-oss", _gpt_oss, hooks=_packed, config=OLD),
    Variant(
        "gpt-oss-dense",
        lambda: _gpt_oss(intermediate_size=128, num_key_value_heads=4),
        hooks=_widened,
    ),
)
