"""Tiny decoders that rerank, in the layouts of the published ones, and how their authors ask them.

The references are written after the model cards of Qwen/Qwen3-Reranker-0.6B and
BAAI/bge-reranker-v2-gemma, and after MxbaiRerankV2 of mxbai-rerank 0.1.6: token ids of a query and
a document, and the score of the last token.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
import transformers as hf
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from tiny.checkpoint import Variant, write

INSTRUCTION = "Given a web search query, retrieve relevant passages that answer the query"
QWEN_BEFORE = (
    "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and "
    'the Instruct provided. Note that the answer can only be "yes" or "no".<|im_end|>\n'
    "<|im_start|>user\n"
)
QWEN_AFTER = "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
MXBAI_BEFORE = (
    "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant."
    "<|im_end|>\n<|im_start|>user\n"
)
MXBAI_TASK = (
    "You are a search relevance expert who evaluates how well documents match search queries. For "
    "each query-document pair, carefully analyze the semantic relationship between them, then "
    "provide your binary relevance judgment (0 for not relevant, 1 for relevant).\nRelevance:"
)
MXBAI_AFTER = "<|im_end|>\n<|im_start|>assistant\n"
GEMMA_TASK = (
    "Given a query A and a passage B, determine whether the passage contains an answer to the "
    "query by providing a prediction of either 'Yes' or 'No'."
)
# Of the published Qwen3-Reranker's folders for sentence-transformers 6.
CHAT_TEMPLATE = (
    "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and "
    'the Instruct provided. Note that the answer can only be "yes" or "no".<|im_end|>\n'
    "<|im_start|>user\n"
    '<Instruct>: {{ messages | selectattr("role", "eq", "system") | map(attribute="content") '
    f'| first | default("{INSTRUCTION}") }}}}\n'
    '<Query>: {{ messages | selectattr("role", "eq", "query") | map(attribute="content") | first '
    '}}\n<Document>: {{ messages | selectattr("role", "eq", "document") | map(attribute="content") '
    "| first }}<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
)
SIZES: dict[str, Any] = dict(
    vocab_size=640, hidden_size=64, intermediate_size=96, num_hidden_layers=3,
    num_attention_heads=4, num_key_value_heads=2, head_dim=16, max_position_embeddings=320,
    pad_token_id=0, bos_token_id=1, eos_token_id=2,
)  # fmt: skip
_WINDOW: dict[str, Any] = dict(
    use_sliding_window=True, sliding_window=24, max_window_layers=1,
    layer_types=["sliding_attention", "full_attention", "sliding_attention"],
)  # fmt: skip


class Reranker(NamedTuple):
    """ids: token ids of (query, document, instruction). score: the logit of ids."""

    ids: Callable[[str, str, str | None], list[int]]
    score: Callable[[list[int]], float]


@cache
def _trained() -> str:
    """A byte-level tokenizer with Qwen's rule for words, as JSON."""
    core = Tokenizer(models.BPE())
    words = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+"
    core.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(words), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])  # fmt: skip
    core.decoder = decoders.ByteLevel()
    texts = [QWEN_BEFORE, INSTRUCTION, MXBAI_TASK, GEMMA_TASK, *["yes\nno\nYes\n"] * 9]
    trainer = trainers.BpeTrainer(
        vocab_size=SIZES["vocab_size"] - 6, show_progress=False,
        special_tokens=["<pad>", "<bos>", "<eos>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    core.train_from_iterator(texts, trainer)
    core.add_special_tokens(["<|im_start|>", "<|im_end|>"])
    core.add_tokens(["<think>", "</think>"])
    return core.to_str()


def write_tokenizer(folder: Path, chat_template: str | None = None) -> None:
    """tokenizer.json and tokenizer_config.json."""
    (folder / "tokenizer.json").write_text(_trained())
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "<pad>", "bos_token": "<bos>",
        "eos_token": "<eos>", "model_max_length": 131072,
    }  # fmt: skip
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    if chat_template is not None:
        (folder / "chat_template.jinja").write_text(chat_template)


def _qwen3() -> Any:
    return hf.Qwen3ForCausalLM(hf.Qwen3Config(**SIZES, **_WINDOW, tie_word_embeddings=True))


def _qwen2() -> Any:
    sizes = {key: value for key, value in SIZES.items() if key != "head_dim"}
    return hf.Qwen2ForCausalLM(hf.Qwen2Config(**sizes, tie_word_embeddings=False))


def _gemma() -> Any:
    return hf.GemmaForCausalLM(hf.GemmaConfig(**SIZES, attn_implementation="eager"))


def scored(kind: str, num_labels: int = 1) -> Variant:
    """A ...ForSequenceClassification of a decoder, by its model_type."""
    sizes = dict(SIZES, num_labels=num_labels, num_hidden_layers=2)
    if kind in ("qwen2", "llama", "mistral"):
        del sizes["head_dim"]
    if kind == "mistral":
        sizes["sliding_window"] = 24
    config, model = {
        "qwen2": (hf.Qwen2Config, hf.Qwen2ForSequenceClassification),
        "qwen3": (hf.Qwen3Config, hf.Qwen3ForSequenceClassification),
        "llama": (hf.LlamaConfig, hf.LlamaForSequenceClassification),
        "mistral": (hf.MistralConfig, hf.MistralForSequenceClassification),
        "gemma": (hf.GemmaConfig, hf.GemmaForSequenceClassification),
    }[kind]
    extra = {**_WINDOW, "layer_types": _WINDOW["layer_types"][:2]} if kind == "qwen3" else {}
    return Variant(kind, lambda: model(config(**sizes, **extra, attn_implementation="eager")))


CAUSAL = {
    "Qwen3-Reranker-0.6B": Variant("qwen3", _qwen3),
    "mxbai-rerank-base-v2": Variant("qwen2", _qwen2),
    "bge-reranker-v2-gemma": Variant("gemma", _gemma),
}


def write_reranker(name: str, folder: Path) -> Reranker:
    """The checkpoint that is published by this name, and how it is asked."""
    folder.mkdir(parents=True, exist_ok=True)
    model = write(CAUSAL[name], folder).model.double()
    write_tokenizer(folder)
    tokenizer = hf.AutoTokenizer.from_pretrained(folder)

    def plain(text: str) -> list[int]:
        found: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
        return found

    def ids(query: str, document: str, instruction: str | None) -> list[int]:
        if name.startswith("Qwen3"):
            asked = INSTRUCTION if instruction is None else instruction
            pair = f"<Instruct>: {asked}\n<Query>: {query}\n<Document>: {document}"
            own = tokenizer(pair)["input_ids"]
            return [*plain(QWEN_BEFORE), *own, *plain(QWEN_AFTER)]
        if name.startswith("mxbai"):
            asked = "" if instruction is None else f"instruction: {instruction}\n"
            parts = (MXBAI_BEFORE, f"{asked}query: {query}", "\n", f"document: {document}", "\n",
                     MXBAI_TASK, MXBAI_AFTER)  # fmt: skip
            return [token for part in parts for token in plain(part)]
        asked = GEMMA_TASK if instruction is None else instruction
        parts = (f"A: {query}", "\n", f"B: {document}", "\n", asked)
        return [tokenizer.bos_token_id, *(token for part in parts for token in plain(part))]

    words = {"Q": ("yes", "no"), "m": ("1", "0"), "b": ("Yes",)}[name[0]]
    tokens = [plain(word)[0] for word in words]

    @torch.inference_mode()
    def score(row: list[int]) -> float:
        logits = model(torch.tensor([row])).logits[0, -1, tokens].tolist()
        return float(logits[0] - (logits[1] if len(logits) > 1 else 0.0))

    return Reranker(ids, score)
