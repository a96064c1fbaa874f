"""Tiny BART, mBART, M2M100 (NLLB) and Marian checkpoints as they are published."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers as hf
from safetensors.torch import save_file
from tokenizers import Tokenizer

from tiny.checkpoint import enliven
from tiny.marian_files import write_marian_files
from tiny.tokenizer import write_tokenizer

VOCAB = 100
# What every decoder starts with; of BART, what its answers begin with besides.
START, FIRST = 2, 0
LANGUAGES = ("eng_Latn", "fra_Latn")
_TOKENIZERS = {
    "m2m100": ("NllbTokenizer", LANGUAGES), "mbart": ("MBart50Tokenizer", ("en_XX", "fr_XX")),
}  # fmt: skip
# In fairseq's order: M2M100 of transformers does not count the padding token's positions.
_SPECIAL = ("<s>", "<pad>", "</s>", "<unk>")
_SIZES: dict[str, Any] = {
    "vocab_size": VOCAB, "d_model": 64, "encoder_layers": 2, "decoder_layers": 3,
    "num_hidden_layers": 2, "encoder_ffn_dim": 80, "decoder_ffn_dim": 96,
    "encoder_attention_heads": 4, "decoder_attention_heads": 8, "max_position_embeddings": 64,
    "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2, "decoder_start_token_id": START,
    "is_encoder_decoder": True,
}  # fmt: skip
_OLD = {"add_bias_logits": False, "normalize_embedding": True, "static_position_embeddings": False}
CONFIGS: dict[str, dict[str, Any]] = {
    "bart": {
        **_SIZES, **_OLD, "model_type": "bart", "architectures": ["BartForConditionalGeneration"],
        "activation_function": "gelu", "scale_embedding": False, "normalize_before": False,
        "add_final_layer_norm": False,
    },
    "mbart": {
        **_SIZES, **_OLD, "model_type": "mbart", "architectures": ["MBartForConditionalGeneration"],
        "activation_function": "relu", "scale_embedding": True, "normalize_before": True,
        "add_final_layer_norm": True,
    },
    "m2m100": {
        **_SIZES, "model_type": "m2m_100", "architectures": ["M2M100ForConditionalGeneration"],
        "activation_function": "relu", "scale_embedding": True,
    },
    "marian": {
        **_SIZES, **_OLD, "model_type": "marian", "architectures": ["MarianMTModel"],
        "activation_function": "swish", "scale_embedding": True, "normalize_before": False,
        "add_final_layer_norm": False, "normalize_embedding": False,
        "static_position_embeddings": True, "share_encoder_decoder_embeddings": True,
        "decoder_vocab_size": VOCAB,
    },
}  # fmt: skip
# Of Marian whose source and target have words of their own.
TWO_VOCABULARIES = {"share_encoder_decoder_embeddings": False, "vocab_size": VOCAB + 20}


def write_bart(kind: str, folder: Path, **changes: Any) -> Any:
    """The transformers model, and its checkpoint with duplicates as old files have them.

    changes: of the config.
    """
    config = {**CONFIGS[kind], **changes}
    auto = hf.AutoConfig.for_model(**{k: v for k, v in config.items() if k != "architectures"})
    model = getattr(hf, config["architectures"][0])(auto).eval()
    enliven(model)
    generator = torch.Generator().manual_seed(3)
    if kind != "m2m100":
        bias = model.final_logits_bias
        bias.copy_(torch.randn(bias.shape, generator=generator) * 0.3)
    tensors = {k: v.detach().clone() for k, v in model.state_dict().items()}
    del tensors["lm_head.weight"]
    if kind == "marian":  # which transformers saves without them
        for stack in (model.model.encoder, model.model.decoder):
            positions = stack.embed_positions
            positions.weight.data.copy_(positions.create_weight())
        tensors = {k: v for k, v in tensors.items() if "embed_positions" not in k}
    if kind == "m2m100":  # whose sinusoids the first files have, and nothing reads
        tensors["model.encoder.embed_positions.weights"] = torch.zeros(66, 64)
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    return model


@torch.inference_mode()
def scores(model: Any, inputs: Sequence[int], answer: Sequence[int]) -> torch.Tensor:
    """transformers' logits behind each token that its decoder is given, (tokens, vocab)."""
    out: torch.Tensor = model(
        input_ids=torch.tensor([list(inputs)]), decoder_input_ids=torch.tensor([list(answer)]),
        use_cache=False,
    ).logits[0]  # fmt: skip
    return out.float()


def write_translator(folder: Path, kind: str = "m2m100") -> Any:
    """NLLB or mBART-50 with a tokenizer of two languages; returns the transformers model."""
    name, languages = _TOKENIZERS[kind]
    write_tokenizer(folder, _SPECIAL)
    path = folder / "tokenizer.json"
    core = Tokenizer.from_file(str(path))
    core.add_special_tokens(list(languages))
    core.save(str(path))
    path = folder / "tokenizer_config.json"
    named = {**json.loads(path.read_text()), "tokenizer_class": name, "src_lang": None}
    path.write_text(json.dumps(named))
    return write_bart(kind, folder)


def write_marian(folder: Path) -> tuple[Any, int]:
    """Marian of several targets as published; returns the transformers model, and the id of the
    padding token, with which its decoder starts and which no answer has."""
    size, _ = write_marian_files(folder)
    pad = size - 1
    ids = {
        "eos_token_id": 0, "forced_eos_token_id": 0, "pad_token_id": pad, "bos_token_id": 0,
        "decoder_start_token_id": pad, "bad_words_ids": [[pad]], "max_length": 64, "num_beams": 4,
    }  # fmt: skip
    (folder / "generation_config.json").write_text(json.dumps(ids))
    shape = {"vocab_size": size, "decoder_vocab_size": size}
    model = write_bart("marian", folder, **shape, **{k: v for k, v in ids.items() if "_id" in k})
    model.final_logits_bias[:, pad] = float("-inf")  # of the reference alone
    return model, pad


def write_summarizer(folder: Path) -> Any:
    """BART whose answers begin with ``FIRST``; returns the transformers model."""
    write_tokenizer(folder, _SPECIAL)
    model = write_bart("bart", folder)
    generation = {"forced_bos_token_id": FIRST, "num_beams": 4, "forced_eos_token_id": 2}
    (folder / "generation_config.json").write_text(json.dumps(generation))
    return model
