"""Every key of sentence-transformers' files: applied as sentence-transformers does, or refused."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny.sentence import (
    MEAN,
    NORMALIZE,
    TEXTS,
    TRUNK,
    close,
    dense,
    embed,
    pooling,
    refused,
    run,
    update,
    write_modules,
)
from torch import Tensor

from atoll.catalogue import read_model
from atoll.config import Settings
from atoll.encoders.embedder import Embedder, EmbedOptions
from atoll.errors import ConfigError, UnsupportedModel
from atoll.text.tokenizer import Tokenizer

FILE = "sentence_bert_config.json"
OWN = "config_sentence_transformers.json"
TEXT = {"method": "forward", "method_output_name": "last_hidden_state"}


def reference(folder: Path, **options: Any) -> Tensor:
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(folder), device="cpu", local_files_only=True)
    found: Tensor = model.encode(TEXTS, convert_to_tensor=True, **options)
    return found


APPLIED: dict[str, dict[str, Any]] = {
    "the usual": {
        "transformer_task": "feature-extraction", "module_output_name": "token_embeddings",
        "modality_config": {"text": TEXT}, "unpad_inputs": False, "do_lower_case": False,
    },
    "the last of all layers": {
        "module_output_name": "token_embeddings",
        "modality_config": {"text": {**TEXT, "method_output_name": ["hidden_states", -1]}},
    },
    "a length": {"tokenizer_args": {"model_max_length": 6}},
    "a length by its newer name": {"processor_kwargs": {"model_max_length": 6}},
    "a length before another": {"max_seq_length": 4, "tokenizer_args": {"model_max_length": 7}},
    "a length of calls": {"processing_kwargs": {"text": {"max_length": 5}}},
    "a length of all calls": {"max_seq_length": 9,
                              "processing_kwargs": {"common": {"max_length": 5}}},
    "special tokens as text": {"tokenizer_args": {"split_special_tokens": True}},
    "nothing of ours": {
        "model_args": {"attn_implementation": "eager", "trust_remote_code": True},
        "config_args": {"use_cache": False}, "tokenizer_args": {"use_fast": True},
        "query_length": None, "tokenizer_name_or_path": None,
    },
}  # fmt: skip


@pytest.mark.parametrize("name", APPLIED)
def test_keys_of_the_trunk_are_applied(name: str, folder: Path) -> None:
    """tokenizer_args were not read: texts were cut at 128 tokens and not at 16."""
    write_modules(folder, TRUNK, MEAN)
    update(folder / FILE, **APPLIED[name])
    close(embed(folder), reference(folder))


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "an inner layer": (
        {"modality_config": {"text": {**TEXT, "method_output_name": ["hidden_states", 1]}}},
        r"modality_config.text: method_output_name \['hidden_states', 1\]",
    ),
    "a pooler": (
        {"modality_config": {"text": {**TEXT, "method_output_name": "pooler_output"}}},
        "method_output_name 'pooler_output'",
    ),
    "a method": ({"modality_config": {"text": {**TEXT, "method": "encode_text"}}},
                 "method 'encode_text'"),
    "messages": ({"modality_config": {"text": TEXT, "message": TEXT}}, "modality_config: message"),
    "an output": ({"module_output_name": "sentence_embedding"}, "module_output_name"),
    "a task": ({"transformer_task": "fill-mask"}, "transformer_task 'fill-mask'"),
    "another config": ({"config_args": {"num_hidden_layers": 1}},
                       "config_args: num_hidden_layers 1"),
    "another model": ({"model_kwargs": {"subfolder": "onnx"}}, "model_kwargs: subfolder 'onnx'"),
    "tokens at the ends": ({"tokenizer_args": {"add_eos_token": True}},
                           "tokenizer_args: add_eos_token True"),
    "no special tokens": ({"processing_kwargs": {"text": {"add_special_tokens": False}}},
                          "processing_kwargs.text: add_special_tokens False"),
    "no cutting": ({"processing_kwargs": {"common": {"truncation": False}}},
                   "processing_kwargs.common: truncation False"),
    "a template": ({"processing_kwargs": {"chat_template": {"x": 1}}}, "chat_template"),
    "another tokenizer": ({"tokenizer_name_or_path": "bert-base-cased"}, "tokenizer_name_or_path"),
    "queries": ({"query_length": 32}, "query_length 32"),
    "documents": ({"document_length": 180}, "document_length 180"),
    "expansion": ({"query_expansion": {"strategy": "fixed"}}, "query_expansion"),
    "unknown": ({"pool_first": True}, "pool_first True is not supported"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_other_keys_of_the_trunk_are_refused(name: str, folder: Path) -> None:
    keys, message = REFUSED[name]
    write_modules(folder, TRUNK, MEAN)
    update(folder / FILE, **keys)
    refused(folder, UnsupportedModel, message)
    with pytest.raises(UnsupportedModel, match=message):
        read_model(folder)


@pytest.mark.parametrize("is_unit", [True, False])
@pytest.mark.parametrize("size", [5, 4800])
def test_truncate_dim(size: int, is_unit: bool, folder: Path) -> None:
    """The whole vector was answered, of another length than the files say."""
    write_modules(folder, TRUNK, MEAN)
    update(folder / OWN, truncate_dim=size)
    encoder = Embedder(folder, Settings())
    found = run(folder, TEXTS, encoder, EmbedOptions(is_unit, encoder.truncate_dim))
    ours = torch.stack([torch.from_numpy(row.vector) for row in found])
    close(ours, reference(folder, normalize_embeddings=is_unit))
    assert read_model(folder).embedding_size == ours.shape[1]


MODULES: dict[str, tuple[Any, str]] = {
    "a pooling's key": (pooling(pooling_mode_mean_tokens=True, weights=[1]), "weights"),
    "tokens made unit": (NORMALIZE._replace(config={"module_input_name": "token_embeddings"}),
                         "module_input_name 'token_embeddings'"),
    "another vector": (NORMALIZE._replace(config={"module_output_name": "unit"}),
                       "module_output_name 'unit'"),
    "a projection elsewhere": (
        (d := dense("2_Dense", 20, "linear.Identity", True))._replace(
            config={**(d.config or {}), "module_output_name": "other"}),
        "module_output_name 'other'"),
    "an activation of its own": (
        d._replace(config={**(d.config or {}), "activation_function": "own.GELU"}),
        "activation_function 'own.GELU'"),
}  # fmt: skip


@pytest.mark.parametrize("name", MODULES)
def test_keys_of_other_modules(name: str, folder: Path) -> None:
    part, message = MODULES[name]
    rest = [part] if part.type.endswith("Pooling") else [MEAN, part]
    write_modules(folder, TRUNK, *rest)
    refused(folder, UnsupportedModel, message)


@pytest.mark.parametrize(
    ("file", "key", "value"),
    [
        ("sentence_bert_config.json", "do_lower_case", "false"),
        ("sentence_bert_config.json", "do_lower_case", 1),
        ("config_sentence_transformers.json", "prompts", []),
        ("config_sentence_transformers.json", "prompts", 0),
        ("config_sentence_transformers.json", "default_prompt_name", []),
        ("config_sentence_transformers.json", "default_prompt_name", {"a": 1}),
        ("tokenizer_config.json", "model_input_names", "input_ids"),
        ("tokenizer_config.json", "model_input_names", {"a": 1}),
    ],
)
def test_values_of_the_wrong_kind(file: str, key: str, value: Any, folder: Path) -> None:
    """They were taken for their truth, left out, or ended in "unhashable type"."""
    path = folder / file
    old = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**old, key: value}))
    with pytest.raises(ConfigError, match=f"{key} is "):
        Embedder(folder, Settings(model_id=str(folder)))
        Tokenizer.load(folder)


def test_no_modules_are_no_model(folder: Path) -> None:
    """An empty modules.json was as good as none."""
    (folder / "modules.json").write_text("[]")
    with pytest.raises(ConfigError, match=r"modules\.json: expected a list of objects"):
        Embedder(folder, Settings(model_id=str(folder)))
