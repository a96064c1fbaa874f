"""Encoders that transformers alone has saved, and those that cannot be served, by their names."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from safetensors.torch import load_file, save_file
from tiny.checkpoint import Tensors, Variant
from tiny.encoders import SIZES, JinaReference, prefixed, write_text_files
from tiny.sentence import (
    MEAN,
    NORMALIZE,
    TEXTS,
    TRUNK,
    Part,
    close,
    embed,
    encode,
    refused,
    update,
    write_modules,
    write_trunk,
)
from typer.testing import CliRunner

from atoll.catalogue import read_model
from atoll.cli.app import app
from atoll.cli.choose import entry_of
from atoll.config import Settings
from atoll.encoders.embedder import Embedder
from atoll.errors import ConfigError, UnsupportedModel, WeightError

# Checkpoints of transformers alone


def rewrite(folder: Path, change: Callable[[Tensors], Tensors]) -> None:
    path = folder / "model.safetensors"
    save_file({k: v.contiguous() for k, v in change(load_file(path)).items()}, path)


def add_buffers(tensors: Tensors) -> Tensors:
    """What older versions of transformers wrote, and heads that an embedder has no use for."""
    extra = {
        "embeddings.position_ids": torch.arange(70)[None],
        "embeddings.token_type_ids": torch.zeros(1, 70, dtype=torch.int64),
        "cls.predictions.bias": torch.zeros(96), "cls.seq_relationship.weight": torch.zeros(2, 48),
    }  # fmt: skip
    return {**tensors, **extra}


def old_norms(tensors: Tensors) -> Tensors:
    names = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
    for new, old in names.items():
        tensors = {name.replace(new, old): tensor for name, tensor in tensors.items()}
    return tensors


def without_pooler(tensors: Tensors) -> Tensors:
    return {name: tensor for name, tensor in tensors.items() if "pooler" not in name}


CHANGES: dict[str, Callable[[Tensors], Tensors]] = {
    **{p: prefixed(p) for p in ("bert.", "model.", "module.", "0.auto_model.", "xlm-roberta.")},
    "no-pooler": without_pooler,
    "buffers": add_buffers,
    "gamma-beta": old_norms,
    "prefixed-old": lambda tensors: prefixed("bert.")(old_norms(add_buffers(tensors))),
}


@pytest.mark.parametrize("name", CHANGES)
def test_tensor_names(name: str, folder: Path) -> None:
    expected = embed(folder)
    rewrite(folder, CHANGES[name])
    assert torch.equal(embed(folder), expected)


@pytest.mark.parametrize(
    "name", ["attention.self.layer_norm_q.weight", "attention.self.query.lora_A.weight"]
)
def test_layers_with_unknown_parts_are_refused(name: str, folder: Path) -> None:
    """They were left out, and every vector was wrong."""
    rewrite(folder, lambda t: prefixed("bert.")({**t, f"encoder.layer.1.{name}": torch.ones(48)}))
    refused(folder, WeightError, rf"left over.*bert\.encoder\.layer\.1\.{name}")


@pytest.mark.parametrize("is_zip", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_bin_files(is_zip: bool, dtype: torch.dtype, folder: Path) -> None:
    path = folder / "model.safetensors"
    tensors = {name: tensor.to(dtype) for name, tensor in load_file(path).items()}
    save_file(tensors, path)
    expected = embed(folder)
    path.unlink()
    torch.save(tensors, folder / "pytorch_model.bin", _use_new_zipfile_serialization=is_zip)
    assert torch.equal(embed(folder), expected)


@pytest.mark.parametrize("is_safe", [True, False])
def test_shards(is_safe: bool, folder: Path) -> None:
    expected = embed(folder)
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    stem, end = ("model", "safetensors") if is_safe else ("pytorch_model", "bin")
    places = {name: f"{stem}-0000{i % 3 + 1}-of-00003.{end}" for i, name in enumerate(tensors)}
    for shard in set(places.values()):
        part = {name: tensors[name] for name in tensors if places[name] == shard}
        save_file(part, folder / shard) if is_safe else torch.save(part, folder / shard)
    (folder / f"{stem}.{end}.index.json").write_text(json.dumps({"weight_map": places}))
    assert torch.equal(embed(folder), expected)
    (folder / sorted(set(places.values()))[1]).unlink()
    refused(folder, WeightError, f"{stem}-00002-of-00003.{end} missing")


def test_a_whole_file_needs_no_index(folder: Path) -> None:
    """A download takes model.safetensors and every .json of a repository that has shards too."""
    expected = embed(folder)
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert torch.equal(embed(folder), expected)


PLAIN: dict[str, Callable[[], Any]] = {
    "bert-no-pooler": lambda: hf.BertModel(hf.BertConfig(**SIZES), add_pooling_layer=False),
    "bert-masked": lambda: hf.BertForMaskedLM(hf.BertConfig(**SIZES)),
    "bert-pretraining": lambda: hf.BertForPreTraining(hf.BertConfig(**SIZES)),
    "bert-python-gelu": lambda: hf.BertModel(hf.BertConfig(**SIZES, hidden_act="gelu_python")),
    "roberta-masked": lambda: hf.RobertaForMaskedLM(hf.RobertaConfig(**SIZES)),
    "camembert-masked": lambda: hf.CamembertForMaskedLM(hf.CamembertConfig(**SIZES)),
    "xlm-roberta-masked": lambda: hf.XLMRobertaForMaskedLM(hf.XLMRobertaConfig(**SIZES)),
}


@pytest.mark.parametrize("name", PLAIN)
def test_plain_checkpoints_equal_transformers(name: str, tmp_path: Path) -> None:
    model = write_trunk(Variant(name, PLAIN[name]), tmp_path).base_model
    update(tmp_path / "config.json", architectures=None, pad_token_id=None, type_vocab_size=None)
    encoder = Embedder(tmp_path, Settings())
    with torch.inference_mode():
        theirs = [
            model(torch.tensor(e.ids[None])).last_hidden_state[0, 0]
            for e in encode(tmp_path, TEXTS, encoder)
        ]
    close(embed(tmp_path), torch.stack(theirs))
    assert read_model(tmp_path).task == "embed"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("hidden_act", "mish"),
        ("is_decoder", True),
        ("position_embedding_type", "relative_key"),
        ("vocab_size", None),
    ],
)
def test_configs_that_cannot_be_served_are_named(field: str, value: Any, folder: Path) -> None:
    update(folder / "config.json", **{field: value})
    refused(folder, ConfigError, r"config\.json.*" + str(value if field == "hidden_act" else field))


# Architectures that are not served

UNSUPPORTED: dict[str, tuple[str, str, list[Part]]] = {
    "xlnet": ("XLNetModel", "xlnet", []),
    "xlnet-st": ("XLNetModel", "xlnet", [TRUNK, MEAN, NORMALIZE]),
    "reformer-masked": ("ReformerForMaskedLM", "reformer", []),
}


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_unsupported_architectures_are_named(name: str, tmp_path: Path) -> None:
    architecture, model_type, modules = UNSUPPORTED[name]
    update(tmp_path / "config.json", architectures=[architecture], model_type=model_type)
    if modules:
        write_modules(tmp_path, *modules)
    match = rf"{architecture} \(model_type '{model_type}'\) is not supported.*BERT.*CamemBERT"
    with pytest.raises(UnsupportedModel, match=match):
        read_model(tmp_path)
    with pytest.raises(UnsupportedModel, match=match):
        entry_of(str(tmp_path), {})
    with pytest.raises(UnsupportedModel, match=match):
        entry_of(str(tmp_path), {"task": "embed"})
    info = CliRunner().invoke(app, ["info", str(tmp_path)])
    assert isinstance(info.exception, UnsupportedModel)
    # An entry that was written by hand meets the same in the server.
    refused(
        tmp_path,
        UnsupportedModel,
        rf"{architecture} \(model_type '{model_type}'\) is not .*roberta",
    )


# Classes that pool


@pytest.mark.parametrize(("config", "how"), [
    ({}, "mean"), ({"pooling": "average"}, "mean"), ({"pooling": "cls"}, "cls"),
])  # fmt: skip
def test_contriever_is_pooled_as_its_class_does(
    config: dict[str, str], how: str, tmp_path: Path
) -> None:
    model = write_trunk(Variant("bert", lambda: hf.BertModel(hf.BertConfig(**SIZES))), tmp_path)
    update(tmp_path / "config.json", architectures=["Contriever"], **config)
    found = read_model(tmp_path)
    assert (found.task, found.pooling, found.notes) == ("embed", how, ())
    encoder = Embedder(tmp_path, Settings())
    with torch.inference_mode():
        states = [
            model(torch.tensor(e.ids[None])).last_hidden_state[0]
            for e in encode(tmp_path, TEXTS, encoder)
        ]
    wanted = [rows.mean(0) if how == "mean" else rows[0] for rows in states]
    close(embed(tmp_path), torch.stack(wanted))
    update(tmp_path / "config.json", pooling="sqrt")
    refused(tmp_path, ConfigError, "pooling is 'sqrt'; supported: ")


@pytest.mark.parametrize("name", ["DPRQuestionEncoder", "DPRContextEncoder"])
@pytest.mark.parametrize("size", [0, 20])
def test_dpr(name: str, size: int, tmp_path: Path) -> None:
    """The first token's vector, projected if the config says so; beside it a pooler, unused."""
    config = hf.DPRConfig(**SIZES, projection_dim=size)
    model = write_trunk(Variant("dpr", lambda: getattr(hf, name)(config)), tmp_path)
    prefix = {"DPRQuestionEncoder": "question_encoder", "DPRContextEncoder": "ctx_encoder"}[name]
    pooler = f"{prefix}.bert_model.pooler.dense.weight"
    rewrite(tmp_path, lambda tensors: {**tensors, pooler: torch.zeros(48, 48)})
    update(tmp_path / "tokenizer_config.json", tokenizer_class=f"{name}Tokenizer")
    found = read_model(tmp_path)
    assert (found.task, found.pooling, found.notes) == ("embed", "cls", ())
    assert (found.hidden_size, found.embedding_size) == (48, size or 48)
    encoder = Embedder(tmp_path, Settings())
    with torch.inference_mode():
        wanted = [
            model(torch.tensor(e.ids[None])).pooler_output[0]
            for e in encode(tmp_path, TEXTS, encoder)
        ]
    close(embed(tmp_path), torch.stack(wanted))


def test_a_reader_is_refused_and_its_trunk_embeds(tmp_path: Path) -> None:
    config = hf.DPRConfig(**SIZES)
    model = write_trunk(Variant("dpr", lambda: hf.DPRReader(config)), tmp_path)
    refused(tmp_path, UnsupportedModel, "DPRReader is not supported: .* --task embed serves its tr")
    settings = Settings(task="embed", pooling="cls")
    encoded = encode(tmp_path, TEXTS, Embedder(tmp_path, settings))
    with torch.inference_mode():
        trunk = model.span_predictor.encoder.bert_model
        wanted = [trunk(torch.tensor(e.ids[None])).last_hidden_state[0, 0] for e in encoded]
    close(embed(tmp_path, task="embed", pooling="cls"), torch.stack(wanted))


# JinaBERT v2


def write_jina(folder: Path, reference: JinaReference, **config: Any) -> None:
    save_file(reference.tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({**reference.config, **config}))
    write_text_files(folder)
    update(folder / "tokenizer_config.json", model_max_length=2147483648)


@pytest.mark.parametrize("gate", ["geglu", "reglu"])
@pytest.mark.parametrize("num_heads", [8, 12])
def test_jina_gates_and_sizes(num_heads: int, gate: str, tmp_path: Path) -> None:
    """The files of the small and the base model; emb_pooler stands for an absent Pooling module."""
    reference = JinaReference(num_heads, gate=gate)
    write_jina(tmp_path, reference, emb_pooler="mean", model_max_length=8192)
    encoder = Embedder(tmp_path, Settings())
    assert (encoder.spec.pooling, encoder.spec.max_length) == ("mean", 8192)
    texts = [*TEXTS, "long " * 60]
    expected = [reference.hidden(e.ids.tolist()).mean(0) for e in encode(tmp_path, texts, encoder)]
    close(embed(tmp_path, texts), torch.stack(expected))
    assert (read_model(tmp_path).task, read_model(tmp_path).max_tokens) == ("embed", 8192)


def test_jina_without_gates_is_refused(tmp_path: Path) -> None:
    write_jina(tmp_path, JinaReference(4), feed_forward_type="original")
    refused(tmp_path, ConfigError, r"feed_forward_type is 'original'; supported: \['geglu', 'reg")
