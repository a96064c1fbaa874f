"""Tiny checkpoints of the architectures of model_repository/, and what each computes."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers as hf
from safetensors.torch import save_file
from tiny.bart import FIRST, START, scores, write_marian, write_summarizer, write_translator
from tiny.checkpoint import enliven, write
from tiny.debertas import V3 as DEBERTA_V3
from tiny.decoders import DECODERS
from tiny.embedders import embedding_gemma, mistral, qwen2, qwen3, write_embedder
from tiny.encoders import JinaReference, write_text_files
from tiny.gguf_files import FAMILIES
from tiny.gguf_writing import write_gguf
from tiny.late import write_colbert
from tiny.rerankers import write_reranker
from tiny.static import write_static
from tiny.t5 import write_t5
from tiny.tokenizer import write_tokenizer
from tiny.towers import write_towers

from atoll.catalogue import Entry
from atoll.models.encoder_families import WITH_IMAGES
from atoll.weights.gguf.convert import prepare
from atoll.weights.static_files import STATIC_TYPES

# The hub's name of a repository, as a pattern -> the layout that it has.
DECODER_LAYOUTS = {
    "bigscience/": "bloom-old-6-heads",
    "codellama/": "llama-theta",
    "tiiuae/falcon-40b": "falcon-40b-old",
    "tiiuae/Falcon-H1": "falcon-h1",
    "tiiuae/falcon-mamba": "falcon-mamba",
    "tiiuae/": "falcon-7b",
    "deepseek-ai/": "deepseek-v2-lite",
    "zai-org/": "glm-4.7-flash",
    "facebook/galactica": "galactica-large",
    "facebook/opt": "opt",
    "EleutherAI/": "gpt-neox-old",
    "google/gemma-3-1b": "gemma3-old",
    "google/gemma-3": "gemma3-nested",
    "google/gemma-4-E": "gemma4-e2b",
    "google/gemma-4": "gemma4-26b",
    "openai/gpt-oss": "gpt-oss",
    "openai-community/": "gpt2-no-prefix",
    "ibm-granite/granite-4": "granite-4-h",
    "ibm-granite/": "granite-tied",
    "LiquidAI/LFM2-8B": "lfm2-moe",
    "LiquidAI/": "lfm2-old",
    "nvidia/NVIDIA-Nemotron-3": "nemotron-3",
    "nvidia/": "nemotron-h",
    "state-spaces/": "mamba",
    "allenai/": "olmo2",
    "HuggingFaceTB/SmolLM3": "smollm3-old",
    "meta-llama/|huggyllama/|HuggingFaceTB/": "llama-mha-old",
    "mistralai/Mistral-Small": "mistral3",
    "mistralai/Ministral": "ministral3",
    "mistralai/Mistral": "mistral-full",
    "mistralai/Mixtral": "mixtral",
    "mosaicml/": "mpt",
    "Qwen/Qwen2": "qwen2-old",
    "Qwen/Qwen3-(Coder-)?30B": "qwen3-moe",
    "Qwen/Qwen3-Next": "qwen3-next",
    "Qwen/Qwen3.5-35B": "qwen3.5-moe",
    "Qwen/Qwen3.5": "qwen3.5",
    "Qwen/Qwen3": "qwen3",
    "microsoft/phi-4": "phi4",
    "microsoft/Phi-4-mini": "phi4-mini-old",
    "microsoft/phi": "phi",
    "bigcode/santacoder": "santacoder-split",
    "bigcode/starcoder2": "starcoder2",
    "bigcode/starcoder": "starcoder",
}

ENCODER_CLASSES = {
    "xlm-roberta": (hf.XLMRobertaConfig, hf.XLMRobertaModel),
    "camembert": (hf.CamembertConfig, hf.CamembertModel),
    "roberta": (hf.RobertaConfig, hf.RobertaModel),
    "bert": (hf.BertConfig, hf.BertModel),
    "mpnet": (hf.MPNetConfig, hf.MPNetModel),
    "distilbert": (hf.DistilBertConfig, hf.DistilBertModel),
    "modernbert": (hf.ModernBertConfig, hf.ModernBertModel),
    "gte": (hf.GteConfig, hf.GteModel),
    "new": (hf.GteConfig, hf.GteModel),
    "nomic_bert": (hf.NomicBertConfig, hf.NomicBertModel),
    "deberta-v2": (partial(hf.DebertaV2Config, **DEBERTA_V3), hf.DebertaV2Model),
}

# model_type of an embedder -> its folder, and its trunk.
DECODING_EMBEDDERS: dict[str, tuple[str, Callable[..., Any]]] = {
    "gemma3_text": ("embedding-gemma", embedding_gemma), "mistral": ("e5-mistral", mistral),
    "qwen2": ("gte-qwen2", qwen2), "qwen3": ("qwen3-embedding", qwen3),
}  # fmt: skip

# Of a decoder that reranks, the published one that a tiny checkpoint is made after.
DECODING_RERANKERS = {
    "qwen3": "Qwen3-Reranker-0.6B", "qwen2": "mxbai-rerank-base-v2",
    "gemma": "bge-reranker-v2-gemma",
}  # fmt: skip
# Part of an encoder-decoder's name -> its layout.
ENCODER_DECODERS = {
    "t5": "flan-t5", "mbart": "mbart", "bart": "bart", "nllb": "m2m100", "m2m100": "m2m100",
    "opus-mt": "marian",
}  # fmt: skip
BY_NAME = {variant.name: variant for variant in DECODERS}
# The generator whose tiny checkpoint is a GGUF file.
IN_GGUF = "granite-tied"


def layout(model_id: str) -> str:
    """The name of a generator's tiny checkpoint."""
    kind = next((kind for kind in ENCODER_DECODERS if kind in model_id), None)
    if kind is not None:
        return ENCODER_DECODERS[kind]
    return next(v for pattern, v in DECODER_LAYOUTS.items() if re.match(pattern, model_id))


def write_decoder(model_id: str, folder: Path) -> Callable[..., torch.Tensor]:
    """Writes a tiny generator; returns (prompt, answer) -> the logits that the answer is from."""
    if layout(model_id) == "bart":
        return _answered(write_summarizer(folder), (START, FIRST))
    if layout(model_id) in ("m2m100", "mbart"):
        return _answered(write_translator(folder, layout(model_id)), (START,))
    if layout(model_id) == "marian":
        marian, start = write_marian(folder)
        return _answered(marian, (start,))
    write_tokenizer(folder)
    if layout(model_id) == "flan-t5":
        t5 = write_t5("flan-t5", folder)

        @torch.inference_mode()
        def encoded(prompt: list[int], answer: list[int]) -> torch.Tensor:
            out = t5(
                input_ids=torch.tensor([prompt]),
                decoder_input_ids=torch.tensor([[0, *answer[:-1]]]),
            )
            found: torch.Tensor = out.logits[0]
            return found

        return encoded
    if layout(model_id) == IN_GGUF:
        return _gguf(folder)
    decoder = write(BY_NAME[layout(model_id)], folder)
    return lambda prompt, answer: decoder.logits(prompt + answer)[len(prompt) - 1 : -1]


def _answered(model: Any, start: tuple[int, ...]) -> Callable[..., torch.Tensor]:
    """As ``write_decoder``: an encoder-decoder whose decoder is given ``start``, unless a third
    argument says what."""

    def found(prompt: list[int], answer: list[int], begin: Any = start) -> torch.Tensor:
        return scores(model, prompt, [*begin, *answer[:-1]])[len(begin) - 1 :]

    return found


def _gguf(folder: Path) -> Callable[..., torch.Tensor]:
    """As ``write_decoder``: a generator in 4 bits whose tensors are read from a GGUF file."""
    hub, same, path = folder / "hub", folder / "same", folder / "tiny.gguf"
    write(BY_NAME[IN_GGUF], hub)
    write_gguf(hub, path, FAMILIES[IN_GGUF], lambda name: "Q4_1", same)
    prepare(path, folder)
    model = hf.AutoModelForCausalLM.from_pretrained(same, dtype=torch.float64).eval()

    @torch.inference_mode()
    def logits(prompt: list[int], answer: list[int]) -> torch.Tensor:
        found: torch.Tensor = model(torch.tensor([prompt + answer])).logits[0]
        return found[len(prompt) - 1 : -1].float()

    return logits


def write_encoder(entry: Entry, folder: Path) -> Callable[..., torch.Tensor]:
    """Writes a tiny encoder as wide as its entry says; returns ids -> its hidden states."""
    if entry.task == "multi_vector":
        width = entry.dims["embedding"]
        write_colbert(folder, width=width, dim=width)
        return lambda ids: torch.empty(0)
    if entry.task == "rerank" and entry.model_type in DECODING_RERANKERS:
        write_reranker(DECODING_RERANKERS[entry.model_type], folder)
        return lambda ids: torch.empty(0)
    if entry.task == "embed" and entry.model_type in DECODING_EMBEDDERS:
        name, build = DECODING_EMBEDDERS[entry.model_type]
        return write_embedder(name, folder, partial(build, hidden_size=entry.dims["embedding"]))
    if entry.model_type in WITH_IMAGES:
        towers = write_towers(entry.model_type, folder, entry.dims["embedding"])
        return lambda ids: towers.text(ids)[None].float()
    if entry.model_type in STATIC_TYPES:
        table = write_static(folder, "plain", "", entry.dims["embedding"])["embedding.weight"]
        # Without the special tokens around the text.
        return lambda ids: table[ids[1:-1]].mean(0, keepdim=True)
    size = entry.dims["embedding"] if entry.task == "embed" else 48
    if "jina-embeddings-v2" in entry.model_id:
        jina = JinaReference(12 if size % 12 == 0 else 8, hidden=size, layers=1)
        save_file(jina.tensors, folder / "model.safetensors")
        (folder / "config.json").write_text(json.dumps(jina.config))
        write_text_files(folder)
        return jina.hidden
    options = dict(
        vocab_size=96, hidden_size=size, intermediate_size=64, num_hidden_layers=1,
        num_attention_heads=4, max_position_embeddings=70, type_vocab_size=1, pad_token_id=0,
        bos_token_id=2, cls_token_id=2, eos_token_id=3, sep_token_id=3,
    )  # fmt: skip
    config, model = ENCODER_CLASSES[entry.model_type]
    if entry.model_type == "distilbert":
        options["hidden_dim"] = options.pop("intermediate_size")
    if entry.task in ("rerank", "classify", "token_classify"):
        kind = "Token" if entry.task == "token_classify" else "Sequence"
        model = getattr(hf, model.__name__.replace("Model", f"For{kind}Classification"))
        options["num_labels"] = entry.dims.get("labels", 1)
    elif entry.task == "sparse":
        model = getattr(hf, model.__name__.replace("Model", "ForMaskedLM"))
    built = model(config(**options)).eval()
    enliven(built)
    built.save_pretrained(folder)
    # GTE has a name of its own in transformers.
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "model_type": entry.model_type}))
    write_text_files(folder)

    @torch.inference_mode()
    def hidden(ids: list[int]) -> torch.Tensor:
        found: torch.Tensor = built(torch.tensor([ids])).last_hidden_state[0]
        return found

    return hidden
