"""Checkpoints of random weights: a Llama and generators with recurrent states, of the same size.

Each has SmolLM2-135M's vocabulary and width, and as many layers, in the proportions of the models
that are published, as make about 135 million weights.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from atoll.weights.files import resolve

GENERATOR_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"
BASELINE = "Llama"
SIZES: dict[str, Any] = dict(
    vocab_size=49152, hidden_size=576, max_position_embeddings=131072, tie_word_embeddings=True
)
HEADS: dict[str, Any] = dict(num_attention_heads=9, num_key_value_heads=3)


def checkpoint(name: str, cache: Path) -> Path:
    """The folder of one of ``MODELS``, written by transformers with SmolLM2's tokenizer."""
    import transformers

    folder = cache / name.replace(" ", "-")
    if not (folder / "tokenizer.json").exists():
        torch.manual_seed(0)
        MODELS[name](transformers).bfloat16().save_pretrained(folder)
        resolved = str(resolve(GENERATOR_ID))
        transformers.AutoTokenizer.from_pretrained(resolved).save_pretrained(folder)
    return folder


def _every(period: int, count: int, names: tuple[str, str]) -> list[str]:
    """Layer types: one of the second kind after every ``period - 1`` of the first."""
    return [names[(i + 1) % period == 0] for i in range(count)]


def _llama(hf: Any) -> Any:
    config = hf.LlamaConfig(**SIZES, **HEADS, intermediate_size=1536, num_hidden_layers=30)
    return hf.LlamaForCausalLM(config)


def _qwen3_5(hf: Any) -> Any:
    config = hf.Qwen3_5TextConfig(
        **SIZES, num_attention_heads=4, num_key_value_heads=2, head_dim=256, num_hidden_layers=20,
        intermediate_size=1536, linear_num_key_heads=8, linear_num_value_heads=8,
        linear_key_head_dim=128, linear_value_head_dim=128,
    )  # fmt: skip
    return hf.Qwen3_5ForCausalLM(config)


def _lfm2(hf: Any) -> Any:
    config = hf.Lfm2Config(
        **SIZES, **HEADS, num_hidden_layers=28, intermediate_size=1536,
        block_auto_adjust_ff_dim=False,
        layer_types=_every(3, 28, ("conv", "full_attention")),
    )  # fmt: skip
    return hf.Lfm2ForCausalLM(config)


def _granite(hf: Any) -> Any:
    config = hf.GraniteMoeHybridConfig(
        **SIZES, **HEADS, num_hidden_layers=23, intermediate_size=1536, num_local_experts=0,
        shared_intermediate_size=1536, layer_types=_every(8, 23, ("mamba", "attention")),
        mamba_n_heads=18, mamba_d_head=64, mamba_d_state=128, mamba_expand=2,
        position_embedding_type="nope",
    )  # fmt: skip
    return hf.GraniteMoeHybridForCausalLM(config)


def _falcon_h1(hf: Any) -> Any:
    config = hf.FalconH1Config(
        **SIZES, **HEADS, num_hidden_layers=20, intermediate_size=1536, head_dim=64,
        mamba_d_ssm=1152, mamba_n_heads=18, mamba_d_head=64, mamba_d_state=128, mamba_n_groups=1,
    )  # fmt: skip
    return hf.FalconH1ForCausalLM(config)


def _nemotron_h(hf: Any) -> Any:
    kinds = ("linear_attention", "mlp") * 11
    layers = [*kinds[:10], "full_attention", *kinds[10:], "full_attention"]
    config = hf.NemotronHConfig(
        **SIZES, **HEADS, layers_block_type=layers, head_dim=64, intermediate_size=4608,
        mamba_num_heads=18, mamba_head_dim=64, n_groups=2, ssm_state_size=128,
    )  # fmt: skip
    return hf.NemotronHForCausalLM(config)


def _mamba2(hf: Any) -> Any:
    sizes = {k: v for k, v in SIZES.items() if k != "max_position_embeddings"}
    config = hf.Mamba2Config(
        **sizes, num_hidden_layers=48, num_heads=18, head_dim=64, state_size=128, n_groups=1
    )
    return hf.Mamba2ForCausalLM(config)


def _mamba(hf: Any) -> Any:
    sizes = {k: v for k, v in SIZES.items() if k != "max_position_embeddings"}
    return hf.MambaForCausalLM(hf.MambaConfig(**sizes, num_hidden_layers=48, state_size=16))


MODELS: dict[str, Callable[[Any], Any]] = {
    BASELINE: _llama, "Qwen3.5": _qwen3_5, "LFM2": _lfm2, "Granite 4": _granite,
    "Falcon-H1": _falcon_h1, "Nemotron-H": _nemotron_h, "Mamba-2": _mamba2, "Mamba": _mamba,
}  # fmt: skip
