"""Every decoder architecture in every layout that our loader accepts, as tiny random checkpoints.

Configs marked OLD are in the format of the hub's repositories, which transformers no longer writes.
"""

import re
from contextlib import AbstractContextManager
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
import transformers as hf
from torch import Tensor
from transformers.models.falcon import modeling_falcon

from tiny.checkpoint import Tensors, Variant
from tiny.coheres import COHERE, GLM, OLMO3
from tiny.deepseeks import DEEPSEEK
from tiny.gemma4s import GEMMA4
from tiny.gemmas import GEMMA
from tiny.hybrids import HYBRID
from tiny.llamas import LLAMA, MISTRAL, VOCAB, rope, with_buffers, without
from tiny.nested import NESTED
from tiny.others import OTHERS
from tiny.phi3s import PHI3
from tiny.phis import PHI
from tiny.qwen_nexts import QWEN_NEXT
from tiny.qwens import QWEN


def _bloom(**changes: Any) -> Any:
    values = dict(vocab_size=VOCAB, hidden_size=64, n_layer=2, n_head=4)
    return hf.BloomForCausalLM(hf.BloomConfig(**{**values, **changes}))


BLOOM_OLD = {
    "architectures": ["BloomForCausalLM"], "model_type": "bloom", "vocab_size": VOCAB,
    "n_embed": 96, "num_attention_heads": 6, "n_layer": 2, "layer_norm_epsilon": 1e-5,
    "seq_length": 64, "apply_residual_connection_post_layernorm": False, "offset_alibi": 100,
}  # fmt: skip

BLOOM = (
    Variant("bloom", _bloom),
    Variant("bloom-old-6-heads", lambda: _bloom(hidden_size=96, n_head=6),
            rename=without("transformer."), config=BLOOM_OLD),
    Variant("bloom-residual-after-norm",
            lambda: _bloom(apply_residual_connection_post_layernorm=True)),
)  # fmt: skip


def _opt(**changes: Any) -> Any:
    values = dict(
        vocab_size=VOCAB, hidden_size=64, word_embed_proj_dim=64, ffn_dim=96, num_hidden_layers=2,
        num_attention_heads=4, max_position_embeddings=64,
    )  # fmt: skip
    return hf.OPTForCausalLM(hf.OPTConfig(**{**values, **changes}))


OPT = (
    Variant("opt", _opt),
    Variant("opt-decoder-prefix", _opt, rename=without("model.")),
    Variant("opt-350m", lambda: _opt(do_layer_norm_before=False, word_embed_proj_dim=32)),
    Variant("opt-no-final-norm", lambda: _opt(_remove_final_layer_norm=True)),
    Variant("galactica", lambda: _opt(activation_function="gelu")),
    Variant("galactica-large", lambda: _opt(
        activation_function="gelu", enable_bias=False, layer_norm_elementwise_affine=False)),
)  # fmt: skip


def _neox(**changes: Any) -> Any:
    values = dict(
        vocab_size=VOCAB, hidden_size=64, intermediate_size=96, num_hidden_layers=2,
        num_attention_heads=4, max_position_embeddings=64,
    )  # fmt: skip
    return hf.GPTNeoXForCausalLM(hf.GPTNeoXConfig(**{**values, **changes}))


NEOX_OLD = {
    "architectures": ["GPTNeoXForCausalLM"], "model_type": "gpt_neox", "vocab_size": VOCAB,
    "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
    "hidden_act": "gelu_fast", "layer_norm_eps": 1e-5, "rotary_pct": 0.25,
    "rotary_emb_base": 5000, "max_position_embeddings": 64, "tie_word_embeddings": False,
}  # fmt: skip

NEOX = (
    Variant("gpt-neox", _neox),
    Variant("gpt-neox-sequential", lambda: _neox(use_parallel_residual=False)),
    Variant("gpt-neox-old", lambda: _neox(hidden_act="gelu_fast", rope_parameters=rope(
        "default", rope_theta=5000.0, partial_rotary_factor=0.25)), config=NEOX_OLD,
        rename=with_buffers("gpt_neox.layers.{}.attention.masked_bias", ())),
)  # fmt: skip


def _bigcode(**changes: Any) -> Any:
    values = dict(
        vocab_size=VOCAB, n_embd=64, n_layer=2, n_head=4, n_inner=96, n_positions=64,
    )  # fmt: skip
    return hf.GPTBigCodeForCausalLM(hf.GPTBigCodeConfig(**{**values, **changes}))


SANTACODER_OLD = {
    "architectures": ["GPT2LMHeadCustomModel"], "model_type": "gpt2", "vocab_size": VOCAB,
    "activation_function": "gelu_pytorch_tanh", "attention_head_type": "multiquery", "n_embd": 64,
    "n_head": 4, "n_inner": 96, "n_layer": 2, "n_positions": 64, "layer_norm_epsilon": 1e-5,
    "scale_attn_weights": True, "scale_attn_by_inverse_layer_idx": False,
}  # fmt: skip


def _conv1d(split: bool) -> Any:
    def rename(tensors: Tensors) -> Tensors:
        out = {}
        for name, tensor in tensors.items():
            if ".c_attn." in name and split:
                out[name.replace("c_attn", "q_attn")] = tensor[:64].t()
                out[name.replace("c_attn", "kv_attn")] = tensor[64:].t()
            else:
                is_matrix = re.search(r"\.(c_attn|c_proj|c_fc)\.weight", name)
                out[name] = tensor.t() if is_matrix else tensor
        return out

    return rename


BIGCODE = (
    Variant("starcoder", _bigcode),
    Variant("starcoder-erf", lambda: _bigcode(activation_function="gelu")),
    Variant("bigcode-multi-head", lambda: _bigcode(multi_query=False)),
    Variant("santacoder-split", _bigcode, rename=_conv1d(True), config=SANTACODER_OLD),
    Variant("santacoder-fused", _bigcode, rename=_conv1d(False), config=SANTACODER_OLD),
)


def _falcon(**changes: Any) -> Any:
    values = dict(
        vocab_size=VOCAB, hidden_size=64, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=64,
    )  # fmt: skip
    return hf.FalconForCausalLM(hf.FalconConfig(**{**values, **changes}))


def _repeat_head(tensors: Tensors) -> Tensors:
    return {**tensors, "lm_head.weight": tensors["transformer.word_embeddings.weight"]}


def _exact_alibi() -> AbstractContextManager[Any]:
    """transformers rounds Falcon's ALiBi to bfloat16, even in float32; this does not."""

    def build(mask: Tensor, num_heads: int, dtype: torch.dtype) -> Tensor:
        closest = 2 ** (num_heads.bit_length() - 1)
        slopes = [2 ** (-8 * i / closest) for i in range(1, closest + 1)]
        slopes += [2 ** (-4 * i / closest) for i in range(1, 2 * closest, 2)]
        positions = torch.arange(mask.shape[1], dtype=torch.float32)
        bias = torch.tensor(slopes[:num_heads]).view(-1, 1, 1) * positions
        return bias.repeat(mask.shape[0], 1, 1).to(dtype)

    return mock.patch.object(modeling_falcon, "build_alibi_tensor", build)


FALCON_OLD = {
    "architectures": ["RWForCausalLM"], "alibi": False, "bias": False, "parallel_attn": True,
    "vocab_size": VOCAB, "hidden_size": 64, "n_head": 4, "n_layer": 2, "layer_norm_epsilon": 1e-5,
    "apply_residual_connection_post_layernorm": False, "auto_map": {"AutoConfig": "x.RWConfig"},
}  # fmt: skip

GROUPED: dict[str, Any] = dict(new_decoder_architecture=True, num_kv_heads=2)
FALCON = (
    Variant("falcon-7b", _falcon, rename=_repeat_head),
    Variant("falcon-7b-old", _falcon,
            config={**FALCON_OLD, "model_type": "RefinedWebModel", "multi_query": True}),
    Variant("falcon-40b", lambda: _falcon(**GROUPED)),
    Variant("falcon-40b-old", lambda: _falcon(**GROUPED),
            config={**FALCON_OLD, "model_type": "RefinedWeb", "n_head_kv": 2}),
    Variant("falcon-11b", lambda: _falcon(
        **GROUPED, num_ln_in_parallel_attn=1, ffn_hidden_size=80)),
    Variant("falcon-rw", lambda: _falcon(alibi=True, multi_query=False, parallel_attn=False,
            bias=True, hidden_size=96, num_attention_heads=6), around=_exact_alibi),
)  # fmt: skip


def _mpt(**attention: Any) -> Any:
    return hf.MptForCausalLM(hf.MptConfig(
        vocab_size=VOCAB, d_model=64, n_heads=4, n_layers=2, max_seq_len=64,
        attn_config={"attn_pdrop": 0, **attention},
    ))  # fmt: skip


def _bias_max_16(model: Any, tensors: Tensors) -> None:
    build = model.transformer.build_mpt_alibi_tensor
    model.transformer.build_mpt_alibi_tensor = lambda *args, **kwargs: build(
        *args, **{**kwargs, "alibi_bias_max": 16}
    )


def _qk_norms(model: Any, tensors: Tensors) -> None:
    for i, block in enumerate(model.transformer.blocks):
        weights = [tensors[f"transformer.blocks.{i}.attn.{n}_ln.weight"] for n in "qk"]

        def normalise(module: Any, inputs: Any, out: Tensor, weights: Any = weights) -> Tensor:
            parts = out.chunk(3, dim=-1)
            normed = [
                F.layer_norm(p, p.shape[-1:], w.to(p.dtype))
                for p, w in zip(parts, weights, strict=False)
            ]
            return torch.cat([*normed, parts[2]], dim=-1)

        block.attn.Wqkv.register_forward_hook(normalise)


def _learned_positions(model: Any, tensors: Tensors) -> None:
    table = tensors["transformer.wpe.weight"]
    model.transformer.build_mpt_alibi_tensor = lambda heads, length, **kwargs: torch.zeros(
        heads, 1, length
    )
    model.transformer.wte.register_forward_hook(
        lambda module, inputs, out: out + table[: out.shape[1]].to(out.dtype)
    )


def _grouped_heads(num_kv_heads: int) -> Any:
    """The file gets the first so many key-value heads, the model each of them for a group."""

    def hook(model: Any, tensors: Tensors) -> None:
        for i, block in enumerate(model.transformer.blocks):
            name = f"transformer.blocks.{i}.attn.Wqkv.weight"
            q, k, v = tensors[name].view(3, 4, 16, 64)
            kept = [part[:num_kv_heads] for part in (k, v)]
            spread = [part.repeat_interleave(4 // num_kv_heads, 0) for part in kept]
            tensors[name] = torch.cat([q, *kept]).flatten(0, 1)
            block.attn.Wqkv.weight.data = torch.cat([q, *spread]).flatten(0, 1)

    return hook


QK_NAMES = {f"transformer.blocks.{i}.attn.{n}_ln.weight": (64,) for i in range(2) for n in "qk"}
MPT = (
    Variant("mpt", _mpt),
    Variant("mpt-no-prefix-clip", lambda: _mpt(clip_qkv=0.5), rename=without("transformer.")),
    Variant("mpt-storywriter", _mpt, hooks=_bias_max_16,
            update={"attn_config": {"alibi": True, "alibi_bias_max": 16}}),
    Variant("mpt-softmax-scale", lambda: _mpt(softmax_scale=0.4)),
    Variant("mpt-logit-scale", _mpt, update={"logit_scale": "inv_sqrt_d_model"},
            scale_logits=0.125),
    Variant("mpt-qk-norms", _mpt, extra=QK_NAMES, hooks=_qk_norms,
            update={"attn_config": {"alibi": True, "qk_ln": True}}),
    Variant("mpt-learned-positions", _mpt, extra={"transformer.wpe.weight": (64, 64)},
            hooks=_learned_positions, update={"attn_config": {"alibi": False}}),
    Variant("mpt-grouped", _mpt, hooks=_grouped_heads(2), update={"attn_config": {
        "alibi": True, "attn_type": "grouped_query_attention", "kv_n_heads": 2}}),
    Variant("mpt-multi-query", _mpt, hooks=_grouped_heads(1), update={"attn_config": {
        "alibi": True, "attn_type": "multiquery_attention"}}),
)  # fmt: skip

DECODERS = (
    *LLAMA, *MISTRAL, *QWEN, *BLOOM, *OPT, *NEOX, *BIGCODE, *FALCON, *MPT, *PHI, *PHI3,
    *OTHERS, *GEMMA, *GEMMA4, *NESTED, *COHERE, *OLMO3, *GLM,
    *DEEPSEEK, *QWEN_NEXT, *HYBRID,
)  # fmt: skip
