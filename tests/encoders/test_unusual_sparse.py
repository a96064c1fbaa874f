"""Sparse embedders as people publish them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from safetensors.torch import load_file
from tiny.checkpoint import Variant
from tiny.encoders import FILLERS as EVERY_FILLER
from tiny.encoders import SIZES
from tiny.sentence import (
    MEAN,
    TEXTS,
    TRUNK,
    Part,
    close,
    run,
    update,
    write_modules,
    write_trunk,
)
from torch import Tensor

from atoll.catalogue import read_model
from atoll.config import Settings
from atoll.encoders.sparse_embedder import SparseEmbedder
from atoll.errors import ConfigError, UnsupportedModel
from atoll.weights.files import resolve

FILLERS: dict[str, Callable[[], Any]] = {
    "bert": lambda: hf.BertForMaskedLM(hf.BertConfig(**SIZES)),
    "distilbert": next(v.build for v in EVERY_FILLER if v.name == "distilbert"),
    "roberta": lambda: hf.RobertaForMaskedLM(
        hf.RobertaConfig(**{**SIZES, "max_position_embeddings": 72}, hidden_act="relu")
    ),
}
NEW_TRUNK = Part("sentence_transformers.base.modules.transformer.Transformer")
SPLADE = "sentence_transformers.sparse_encoder"
SPARSE: dict[str, tuple[Part, Part]] = {
    "max": (
        Part(f"{SPLADE}.models.MLMTransformer"),
        Part(f"{SPLADE}.models.SpladePooling", "1_SpladePooling",
             {"pooling_strategy": "max", "activation_function": "relu"}),
    ),
    "sum": (
        Part(f"{SPLADE}.models.MLMTransformer.MLMTransformer"),
        Part(f"{SPLADE}.models.SpladePooling.SpladePooling", "pool",
             {"pooling_strategy": "sum", "activation_function": "relu",
              "word_embedding_dimension": 96}),
    ),
    "two-logs": (
        NEW_TRUNK,
        Part(f"{SPLADE}.modules.splade_pooling.SpladePooling", "1_SpladePooling",
             {"pooling_strategy": "max", "activation_function": "log1p_relu"}),
    ),
}  # fmt: skip


def sparse(folder: Path, **settings: Any) -> Tensor:
    """Atoll's weights, (texts, vocabulary)."""
    encoder = SparseEmbedder(folder, Settings(**settings))
    rows = torch.zeros(len(TEXTS), encoder.vocab_size)
    for row, found in zip(rows, run(folder, TEXTS, encoder, None), strict=True):
        row[torch.from_numpy(found.indices).long()] = torch.from_numpy(found.values)
    return rows


def sparse_reference(folder: Path) -> Tensor:
    from sentence_transformers import SparseEncoder

    model = SparseEncoder(str(folder), device="cpu", local_files_only=True)
    found: Tensor = model.encode(TEXTS, convert_to_tensor=True, convert_to_sparse_tensor=False)
    return found


@pytest.mark.parametrize("family", FILLERS)
@pytest.mark.parametrize("name", SPARSE)
def test_sparse_encoders_equal_sentence_transformers(
    name: str, family: str, tmp_path: Path
) -> None:
    write_trunk(Variant(family, FILLERS[family]), tmp_path)
    assert not [n for n in load_file(tmp_path / "model.safetensors") if "decoder.weight" in n]
    if "roberta" in family:
        update(tmp_path / "tokenizer_config.json", model_max_length=70, model_input_names=None)
    plain = sparse(tmp_path)
    write_modules(tmp_path, *SPARSE[name])
    settings = {"transformer_task": "fill-mask"} if name == "two-logs" else {}
    update(tmp_path / "sentence_bert_config.json", max_seq_length=70, **settings)
    update(tmp_path / "config_sentence_transformers.json", model_type="SparseEncoder")
    ours = sparse(tmp_path)
    close(ours, sparse_reference(tmp_path))
    assert (ours > 0).any() and read_model(tmp_path).task == "sparse"
    assert torch.equal(ours, plain) == (name == "max")


def test_a_saved_sparse_encoder(tmp_path: Path) -> None:
    from sentence_transformers import SparseEncoder

    write_trunk(Variant("bert", FILLERS["bert"]), tmp_path / "plain")
    model = SparseEncoder(str(tmp_path / "plain"), device="cpu")
    model.save_pretrained(str(tmp_path / "saved"))
    close(sparse(tmp_path / "saved"), sparse_reference(tmp_path / "saved"))
    assert read_model(tmp_path / "saved").task == "sparse"
    # A plain checkpoint is what the user says: TEI's flag is the pooling's.
    assert read_model(tmp_path / "plain").task == "embed"
    assert read_model(tmp_path / "plain", pooling="splade").task == "sparse"


def test_sparse_encoders_that_cannot_be_served_are_named(folder: Path) -> None:
    trunk, pool = SPARSE["max"]
    for config in ({"pooling_strategy": "mean"}, {"activation_function": "sqrt"}):
        write_modules(folder, trunk, pool._replace(config=config))
        with pytest.raises(ConfigError, match="supported: "):
            SparseEmbedder(folder, Settings())
    encoder = Part(f"{SPLADE}.models.SparseAutoEncoder", "2_SparseAutoEncoder")
    write_modules(folder, TRUNK, MEAN, encoder)
    with pytest.raises(UnsupportedModel, match="SparseAutoEncoder"):
        read_model(folder)
    write_modules(folder, Part("sentence_transformers.models.Router"))
    (folder / "config.json").unlink()
    with pytest.raises(ConfigError, match="router_config.json"):
        read_model(resolve(str(folder)))
