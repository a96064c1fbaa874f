"""``atoll info`` and the entry that ``atoll serve --model-id`` writes, for unusual config.json."""

import json
from pathlib import Path
from typing import Any

import pytest

from atoll.catalogue import read_model
from atoll.cli.catalogue import info
from atoll.cli.choose import entry_of
from atoll.errors import ConfigError, UnsupportedModel

LLAMA = {
    "model_type": "llama", "hidden_size": 64, "max_position_embeddings": 32, "vocab_size": 96,
    "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4,
}  # fmt: skip
T5 = {"vocab_size": 96, "d_kv": 16, "d_ff": 64, "num_layers": 1, "num_heads": 4}
BART = {
    "vocab_size": 96, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64, "encoder_attention_heads": 4, "decoder_attention_heads": 4,
}  # fmt: skip
NULLS = dict.fromkeys(("architectures", "torch_dtype", "dtype", "id2label", "num_labels"))
CLASSIFIER = {
    "model_type": "bert", "architectures": ["BertForSequenceClassification"], "hidden_size": 64,
}  # fmt: skip
OURS, THEIRS = "atoll.models.", "atoll.models.fallback: transformers"
WITHOUT_POSITIONS = {k: v for k, v in LLAMA.items() if k != "max_position_embeddings"}
# config.json, task, max_tokens, how it is implemented
GENERATORS: dict[str, tuple[dict[str, Any], int | None, str]] = {
    "no architectures": (LLAMA, 32, OURS + "llama"),
    "nulls": ({**LLAMA, **NULLS}, 32, OURS + "llama"),
    "no positions": ({**LLAMA, "max_position_embeddings": None}, None, OURS + "llama"),
    "mt5": ({"model_type": "mt5", "d_model": 64, **T5}, None, OURS + "t5"),
    "santacoder": (
        {"model_type": "gpt2", "architectures": ["GPT2LMHeadCustomModel"], "n_embd": 64,
         "n_head": 4, "n_layer": 1, "n_positions": 32, "vocab_size": 96}, 32,
        OURS + "gpt_bigcode",
    ),
    "qwen2": ({**LLAMA, "model_type": "qwen2", "num_key_value_heads": 2}, 32, OURS + "qwen"),
    "gemma2": ({**LLAMA, "model_type": "gemma2"}, 32, OURS + "gemma"),
    "positions of the class": (
        {**WITHOUT_POSITIONS, "model_type": "gemma3_text"}, 131072, OURS + "gemma",
    ),
    "codegen": ({"model_type": "codegen", "n_embd": 64, "n_positions": 32}, 32, THEIRS),
    "mbart": ({"model_type": "mbart", "d_model": 64, **BART}, 1024, OURS + "bart"),
    "pegasus": ({"model_type": "pegasus", "d_model": 64}, 1024, THEIRS),
    "no known size": (
        {"model_type": "recurrent_gemma", "architectures": ["RecurrentGemmaForCausalLM"]},
        2048, THEIRS,
    ),
    "marian": (
        {"model_type": "marian", "architectures": ["MarianMTModel"], "d_model": 64,
         "share_encoder_decoder_embeddings": False, "decoder_vocab_size": 60000, **BART},
        1024, OURS + "bart",
    ),
    "text of a model for images": (
        {**LLAMA, "model_type": "gemma3_text", "architectures": ["Gemma3ForCausalLM"]}, 32,
        OURS + "gemma",
    ),
}  # fmt: skip


def folder_of(config: dict[str, Any], folder: Path) -> Path:
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize("name", GENERATORS)
def test_generators(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config, max_tokens, implementation = GENERATORS[name]
    folder_of(config, tmp_path)
    info(str(tmp_path), as_json=True)
    facts = json.loads(capsys.readouterr().out)
    assert (facts["task"], facts["max_tokens"]) == ("generate", max_tokens)
    assert facts["implementation"].startswith(implementation)
    entry = entry_of(str(tmp_path), {})
    assert (entry.task, entry.model_type) == ("generate", config["model_type"])


@pytest.mark.parametrize("model_type", ["reformer", "vit", "no-such-model", ""])
def test_what_is_no_generator_is_not_taken_for_one(model_type: str, tmp_path: Path) -> None:
    folder_of({"model_type": model_type, "hidden_size": 64}, tmp_path)
    with pytest.raises(UnsupportedModel, match=repr(model_type)):
        read_model(tmp_path)


def test_classifiers_with_nulls(tmp_path: Path) -> None:
    found = read_model(folder_of({**CLASSIFIER, "id2label": None, "num_labels": None}, tmp_path))
    assert (found.task, found.labels) == ("classify", ("LABEL_0", "LABEL_1"))


def test_padding_id_of_null(tmp_path: Path) -> None:
    roberta = {"model_type": "roberta", "hidden_size": 64, "max_position_embeddings": 514}
    assert read_model(folder_of({**roberta, "pad_token_id": None}, tmp_path)).max_tokens == 512


def test_labels_without_numbers_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="id2label"):
        read_model(folder_of({**CLASSIFIER, "id2label": {"good": 0, "bad": 1}}, tmp_path))


def test_a_link_to_weights_that_are_gone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """``atoll info`` ended in FileNotFoundError."""
    folder_of(LLAMA, tmp_path)
    (tmp_path / "model.safetensors").symlink_to(tmp_path / "gone")
    info(str(tmp_path), as_json=True)
    assert json.loads(capsys.readouterr().out)["weight_bytes"] == 0
