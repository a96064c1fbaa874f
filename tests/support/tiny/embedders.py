"""Tiny embedders that are decoders: trunks without a head, and whole folders as published."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
import transformers as hf
from tokenizers import Tokenizer, processors
from torch import Tensor

from tiny.checkpoint import Variant
from tiny.deepseeks import DEEPSEEK
from tiny.gemmas import centre
from tiny.gpt_oss import GPT_OSS
from tiny.sentence import (
    HIDDEN,
    MEAN,
    NORMALIZE,
    TRUNK,
    Part,
    dense,
    pooling,
    update,
    write_modules,
    write_trunk,
)

SIZES: dict[str, Any] = dict(
    vocab_size=96, hidden_size=48, intermediate_size=80, num_hidden_layers=2,
    num_attention_heads=4, num_key_value_heads=2, head_dim=16, max_position_embeddings=70,
    attn_implementation="eager",
)  # fmt: skip


def qwen3(**changes: Any) -> Any:
    """As Qwen3-Embedding is saved: no prefix, no head, tied."""
    config = hf.Qwen3Config(**{**SIZES, "tie_word_embeddings": True, **changes})
    return hf.Qwen3Model(config)


def embedding_gemma(**changes: Any) -> Any:
    """As EmbeddingGemma is saved: a window of both sides together."""
    values = {
        **SIZES, "use_bidirectional_attention": True, "sliding_window": 12,
        "sliding_window_pattern": 2, "query_pre_attn_scalar": 20, "pad_token_id": 0,
    }  # fmt: skip
    return hf.Gemma3TextModel(hf.Gemma3TextConfig(**{**values, **changes}))


def _gemma2(**changes: Any) -> Any:
    config = hf.Gemma2Config(
        **{**SIZES, "sliding_window": 7, "query_pre_attn_scalar": 20, "pad_token_id": 0, **changes}
    )
    return hf.Gemma2Model(config)


def qwen2(**changes: Any) -> Any:
    """As gte-Qwen2: tokens see both sides."""
    sizes = {k: v for k, v in SIZES.items() if k != "head_dim"}
    return hf.Qwen2Model(hf.Qwen2Config(**{**sizes, "is_causal": False, **changes}))


def mistral(**changes: Any) -> Any:
    return hf.MistralModel(hf.MistralConfig(**{**SIZES, "sliding_window": 7, **changes}))


def _llama(**changes: Any) -> Any:
    return hf.LlamaModel(hf.LlamaConfig(**{**SIZES, **changes}))


def _trunk(variants: tuple[Variant, ...], name: str) -> Any:
    return next(v for v in variants if v.name == name).build().model


WINDOW: dict[str, Any] = dict(use_sliding_window=True, sliding_window=7, max_window_layers=1)
# transformers has no class for it: its repositories' own is Llama's without the mask.
_BIDIREC = {
    "model_type": "llama_bidirec", "architectures": ["LlamaBidirectionalModel"],
    "auto_map": {"AutoModel": "llama_bidirectional_model.LlamaBidirectionalModel"},
    "pooling": "avg", "is_causal": None,
}  # fmt: skip

EMBEDDERS: list[Variant] = [
    Variant("qwen3-embedding", qwen3),
    Variant("qwen3-window", lambda: qwen3(**WINDOW)),
    Variant("gte-qwen2", qwen2),
    Variant("gte-qwen2-window", lambda: qwen2(**WINDOW)),
    Variant("e5-mistral", mistral),
    Variant("mistral-both-sides", lambda: mistral(is_causal=False)),
    Variant("llama-bidirec", lambda: _llama(is_causal=False), update=_BIDIREC),
    Variant("embedding-gemma", embedding_gemma, hooks=centre),
    Variant("gemma3-both-sides",
            lambda: embedding_gemma(use_bidirectional_attention=False, is_causal=False),
            hooks=centre),
    Variant("gemma2-both-sides", lambda: _gemma2(is_causal=False, attn_logit_softcapping=2.0),
            hooks=centre),
    Variant("qwen3-moe", lambda: hf.Qwen3MoeModel(hf.Qwen3MoeConfig(
        **SIZES, num_experts=5, num_experts_per_tok=2, moe_intermediate_size=48,
        norm_topk_prob=True, experts_implementation="eager"))),
    Variant("deepseek-v2", lambda: _trunk(DEEPSEEK, "deepseek-v2")),
    Variant("gpt-oss-dense", lambda: _trunk(GPT_OSS, "gpt-oss-dense")),
]  # fmt: skip


class Published(NamedTuple):
    """An embedder's repository: the trunk, what frames a text, its modules and its prompts.

    keys: of config.json, as published.
    """

    variant: Variant
    frame: str
    parts: tuple[Part, ...]
    prompts: dict[str, str]
    keys: dict[str, Any]


_LAST = pooling(pooling_mode_lasttoken=True, pooling_mode_cls_token=False)
PUBLISHED = {
    "qwen3-embedding": Published(
        Variant("qwen3-embedding", qwen3), "$A [SEP]", (TRUNK, _LAST, NORMALIZE),
        {"query": "Instruct: find\nQuery:", "document": ""},
        {"architectures": ["Qwen3ForCausalLM"]},
    ),
    "gte-qwen2": Published(
        Variant("gte-qwen2", qwen2), "$A [SEP]", (TRUNK, _LAST, NORMALIZE),
        {"query": "Instruct: find\nQuery: "},
        {
            "architectures": ["Qwen2ForCausalLM"],
            "auto_map": {"AutoModel": "modeling_qwen.Qwen2Model"},
        },
    ),
    "embedding-gemma": Published(
        Variant("embedding-gemma", embedding_gemma, hooks=centre), "[CLS] $A [SEP]",
        (TRUNK, MEAN, dense("2_Dense", 64, "linear.Identity", False),
         dense("3_Dense", HIDDEN, "linear.Identity", False, 64), NORMALIZE),
        {"query": "task: find | query: ", "document": "title: none | text: "}, {},
    ),
    "e5-mistral": Published(
        Variant("e5-mistral", mistral), "[CLS] $A [SEP]", (TRUNK, _LAST, NORMALIZE),
        {"web_search_query": "Instruct: find\nQuery: "}, {},
    ),
}  # fmt: skip


def write_embedder(
    name: str, folder: Path, build: Callable[[], Any] | None = None, max_length: int = 64
) -> Callable[[list[int]], Tensor]:
    """A row of ``PUBLISHED`` as a folder that sentence-transformers reads, too.

    build: another trunk. Returns ids of one text -> its vector (1, width) float64, not normalized,
    by transformers.
    """
    kind = PUBLISHED[name]
    variant = kind.variant if build is None else replace(kind.variant, build=build)
    model = write_trunk(variant, folder).double()
    core = Tokenizer.from_file(str(folder / "tokenizer.json"))
    core.post_processor = processors.TemplateProcessing(
        single=kind.frame, special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    core.save(str(folder / "tokenizer.json"))
    update(
        folder / "tokenizer_config.json", model_max_length=max_length, padding_side="left",
        model_input_names=["input_ids", "attention_mask"],
    )  # fmt: skip
    update(folder / "config.json", **kind.keys)
    update(folder / "config_sentence_transformers.json", prompts=kind.prompts)
    width = model.config.hidden_size
    parts = [_as_wide(part, width) for part in kind.parts]
    write_modules(folder, *parts)

    @torch.inference_mode()
    def vector(ids: list[int]) -> Tensor:
        hidden = model(torch.tensor([ids])).last_hidden_state[0]
        found: Tensor = hidden[-1:] if _LAST in kind.parts else hidden.mean(0, keepdim=True)
        for part in parts:
            if part.tensors is not None:
                found = found @ part.tensors["linear.weight"].double().T
        return found

    return vector


def _as_wide(part: Part, width: int) -> Part:
    """A module for vectors of another width than ``HIDDEN``."""
    config = dict(part.config or {})
    if "in_features" in config:
        sizes = [
            width if config[n] == HIDDEN else config[n] for n in ("in_features", "out_features")
        ]
        return dense(part.path, sizes[1], "linear.Identity", False, sizes[0])
    if "word_embedding_dimension" in config:
        return part._replace(config={**config, "word_embedding_dimension": width})
    return part
