"""Checkpoints as people publish them, against sentence-transformers and transformers."""

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
    HIDDEN,
    MEAN,
    NORMALIZE,
    OLD,
    TEXTS,
    TRUNK,
    Part,
    close,
    dense,
    embed,
    encode,
    pooling,
    update,
    write_modules,
    write_trunk,
)
from tokenizers import Tokenizer as RustTokenizer
from torch import Tensor
from typer.testing import CliRunner

from atoll.catalogue import read_model
from atoll.cli.app import app
from atoll.cli.choose import entry_of
from atoll.config import Settings
from atoll.encoders.encoder import Embedder
from atoll.errors import AtollError, ConfigError, UnsupportedModel, WeightError
from atoll.text.encoding import TextEncoder
from atoll.text.tokenizer import Tokenizer
from atoll.weights.files import resolve

FAMILIES = ("roberta", "xlm-roberta", "camembert")


def reference(folder: Path, texts: list[str] = TEXTS, **options: Any) -> Tensor:
    """sentence-transformers' vectors."""
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(folder), device="cpu", local_files_only=True)
    found: Tensor = model.encode(texts, convert_to_tensor=True, **options)
    return found


def refused(folder: Path, kind: type[AtollError], match: str, **settings: Any) -> None:
    with pytest.raises(kind, match=match):
        Embedder(folder, Settings(**settings))


# Modules of sentence-transformers


NEW = "sentence_transformers.sentence_transformer.modules.pooling.Pooling"
LAYOUTS: dict[str, tuple[Part, ...]] = {
    "cls": (TRUNK, pooling(pooling_mode_cls_token=True, pooling_mode_mean_tokens=False)),
    "normalize": (TRUNK, MEAN, NORMALIZE),
    "dense-identity": (TRUNK, MEAN, dense("2_Dense", 20, "linear.Identity", True)),
    "dense-tanh": (TRUNK, MEAN, dense("2_Dense", 20, "activation.Tanh", False)),
    "dense-default": (TRUNK, MEAN, dense("2_Dense", 20, None, True)),
    "dense-twice": (
        TRUNK, MEAN, dense("2_Dense", 20, "activation.ReLU", True),
        dense("3_Dense", 12, "linear.Identity", False, 20), NORMALIZE,
    ),
    "normalize-then-dense": (
        TRUNK, MEAN, NORMALIZE, Part(f"{OLD}.Dropout", "3_Dropout", {"dropout": 0.5}),
        dense("4_Dense", 20, "activation.Tanh", True),
    ),
    "other-folder-names": (
        TRUNK, pooling("the pool", pooling_mode_cls_token=True),
        dense("projection", 20, "linear.Identity", True),
    ),
    "two-flags": (TRUNK, pooling(pooling_mode_mean_tokens=True, pooling_mode_cls_token=True)),
    "max": (TRUNK, pooling(pooling_mode_max_tokens=True)),
    "sqrt": (TRUNK, pooling(pooling_mode_mean_sqrt_len_tokens=True)),
    "weighted": (TRUNK, pooling(pooling_mode_weightedmean_tokens=True)),
    "last": (TRUNK, pooling(pooling_mode_lasttoken=True)),
    "no-flag": (TRUNK, pooling(pooling_mode_cls_token=False)),
    "new-types": (
        Part("sentence_transformers.base.modules.transformer.Transformer"),
        pooling("1_Pooling", NEW, pooling_mode="weightedmean", include_prompt=True),
        Part("sentence_transformers.base.modules.normalize.Normalize", "2_Normalize"),
    ),
    "new-list": (
        Part("sentence_transformers.base.modules.transformer.Transformer"),
        pooling("1_Pooling", NEW, pooling_mode=["lasttoken", "max", "cls"]),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", LAYOUTS)
def test_modules_equal_sentence_transformers(name: str, folder: Path) -> None:
    write_modules(folder, *LAYOUTS[name])
    is_unit = LAYOUTS[name][-1].type.endswith("Normalize")
    ours = embed(folder, normalize=is_unit)
    close(ours, reference(folder))
    detected = read_model(folder)
    assert (detected.task, detected.embedding_size) == ("embed", ours.shape[1])


def test_a_setting_wins_over_several_poolings(folder: Path) -> None:
    write_modules(folder, *LAYOUTS["two-flags"])
    vectors = embed(folder, pooling="mean")
    assert vectors.shape[1] == read_model(folder, pooling="mean").embedding_size == HIDDEN
    refused(folder, ConfigError, "pooling is 'median'; known: cls, max, mean", pooling="median")


def test_weights_below_the_top(folder: Path) -> None:
    """sentence-transformers before 2.0 kept the trunk in a folder of its own."""
    whole = folder.parent / "whole"
    whole.mkdir()
    folder.rename(whole / "0_Transformer")
    write_modules(whole, Part(f"{OLD}.Transformer", "0_Transformer"), MEAN)
    update(whole / "0_Transformer" / "sentence_bert_config.json", max_seq_length=9)
    assert resolve(str(whole)) == whole
    close(embed(whole), reference(whole))
    detected = read_model(whole)
    assert (detected.task, detected.hidden_size, detected.max_tokens) == ("embed", HIDDEN, 9)


@pytest.mark.parametrize(
    ("sentence", "tokenizer", "limit"),
    [
        ({"max_seq_length": 8}, {"model_max_length": 12}, 8),
        ({"max_seq_length": None}, {"model_max_length": 12}, 12),
        ({}, {"model_max_length": int(1e30)}, 70),
        ({"max_seq_length": 512}, {"model_max_length": 512}, 70),
        ({}, {"model_max_length": None}, 70),
    ],
)
def test_length_limits(
    sentence: dict[str, Any], tokenizer: dict[str, Any], limit: int, folder: Path
) -> None:
    write_modules(folder, TRUNK, MEAN)
    update(folder / "sentence_roberta_config.json", do_lower_case=False, **sentence)
    update(folder / "tokenizer_config.json", **tokenizer)
    assert Embedder(folder, Settings()).spec.max_length == limit
    assert read_model(folder).max_tokens == limit
    if limit < 70:
        close(embed(folder), reference(folder))


def test_lower_case(folder: Path) -> None:
    write_modules(folder, TRUNK, MEAN)
    upper = embed(folder)
    update(folder / "sentence_bert_config.json", do_lower_case=True)
    lower = embed(folder)
    close(lower, reference(folder))
    assert float((lower[1] - upper[1]).abs().max()) > 1e-3


def test_prompts(folder: Path) -> None:
    write_modules(folder, TRUNK, MEAN)
    update(
        folder / "config_sentence_transformers.json", similarity_fn_name="dot",
        prompts={"query": "ask: ", "document": "", "unset": None}, default_prompt_name="query",
        model_type="SentenceTransformer", __version__={"sentence_transformers": "6.2.0"},
    )  # fmt: skip
    close(embed(folder), reference(folder))
    close(embed(folder, prompt_name="document"), reference(folder, prompt_name="document"))
    assert float((embed(folder) - embed(folder, prompt_name="document")).abs().max()) > 1e-3
    update(folder / "config_sentence_transformers.json", default_prompt_name="nope")
    refused(folder, ConfigError, r"default_prompt_name is 'nope'.*'document', 'query'")


def test_modules_that_cannot_be_served_are_named(folder: Path) -> None:
    cases: dict[str, tuple[Part, ...]] = {
        r"\['Transformer', 'LSTM', 'Pooling'\]": (TRUNK, Part(f"{OLD}.LSTM", "1_LSTM"), MEAN),
        r"\['Transformer', 'Pooling', 'CNN'\]": (TRUNK, MEAN, Part(f"{OLD}.CNN", "2_CNN")),
        r"\['Transformer'\]": (TRUNK,),
        r"'custom_st.Transformer'.*never runs": (Part("custom_st.Transformer"), MEAN),
        r"'pylate.models.Dense.Dense'": (TRUNK, Part("pylate.models.Dense.Dense", "1_Dense")),
    }
    for match, parts in cases.items():
        write_modules(folder, *parts)
        refused(folder, UnsupportedModel, match)
    write_modules(folder, TRUNK, pooling(pooling_mode_median_tokens=True))
    refused(folder, ConfigError, r"pooling by \['pooling_mode_median_tokens'\] is not supported")
    write_modules(folder, TRUNK, pooling(pooling_mode="attention"))
    refused(folder, ConfigError, r"pooling by \['attention'\] is not supported; known: .*'cls'")
    write_modules(folder, TRUNK, Part(f"{OLD}.Pooling", "absent"))
    refused(folder, ConfigError, r"absent/config\.json is missing")
    write_modules(folder, TRUNK, Part(f"{OLD}.Pooling", ""), Part(f"{OLD}.Dense", "../elsewhere"))
    refused(folder, ConfigError, "leads out of the checkpoint")


def test_prompts_left_out_of_the_pooling_are_refused(folder: Path) -> None:
    write_modules(folder, TRUNK, pooling(pooling_mode="mean", include_prompt=False))
    close(embed(folder), reference(folder))
    refused(folder, UnsupportedModel, "include_prompt is false", default_prompt="ask: ")


def test_dense_modules_that_cannot_be_served_are_named(folder: Path) -> None:
    part = dense("2_Dense", 20, "linear.Identity", True)
    write_modules(folder, TRUNK, MEAN, part)
    config = folder / "2_Dense" / "config.json"
    for match, changes in {
        "module_input_name 'token_embeddings'": {"module_input_name": "token_embeddings"},
        "use_residual True": {"module_input_name": None, "use_residual": True},
        "activation_function is 'Softplus'": {
            "use_residual": None, "activation_function": "torch.nn.modules.activation.Softplus",
        },
    }.items():  # fmt: skip
        update(config, **changes)
        refused(folder, AtollError, match)


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
            model(torch.tensor([e.ids])).last_hidden_state[0, 0]
            for e in encode(tmp_path, TEXTS, encoder)
        ]
    close(embed(tmp_path), torch.stack(theirs))
    assert read_model(tmp_path).task == "embed"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("hidden_act", "quick_gelu"),
        ("is_decoder", True),
        ("position_embedding_type", "relative_key"),
        ("vocab_size", None),
    ],
)
def test_configs_that_cannot_be_served_are_named(field: str, value: Any, folder: Path) -> None:
    update(folder / "config.json", **{field: value})
    refused(folder, ConfigError, r"config\.json.*" + str(value if field == "hidden_act" else field))


# Architectures that are not served

QWEN = [TRUNK, pooling(pooling_mode_lasttoken=True), NORMALIZE]
UNSUPPORTED: dict[str, tuple[str, str, list[Part]]] = {
    "distilbert": ("DistilBertModel", "distilbert", []),
    "distilbert-st": ("DistilBertModel", "distilbert", [TRUNK, MEAN]),
    "distilbert-masked": ("DistilBertForMaskedLM", "distilbert", []),
    "mpnet": ("MPNetForMaskedLM", "mpnet", [TRUNK, MEAN, NORMALIZE]),
    "modernbert": ("ModernBertModel", "modernbert", [TRUNK, MEAN]),
    "modernbert-reranker": ("ModernBertForSequenceClassification", "modernbert", []),
    "nomic": ("NomicBertModel", "nomic_bert", [TRUNK, MEAN]),
    "gte": ("NewModel", "new", [TRUNK, MEAN, NORMALIZE]),
    "deberta": ("DebertaV2ForSequenceClassification", "deberta-v2", []),
    "deberta-plain": ("DebertaV2Model", "deberta-v2", []),
    "t5": ("T5EncoderModel", "t5", [TRUNK, MEAN]),
    "t5-plain": ("T5EncoderModel", "t5", []),
    "qwen": ("Qwen2Model", "qwen2", QWEN),
    "qwen-causal": ("Qwen2ForCausalLM", "qwen2", QWEN),
    "qwen-plain": ("Qwen2Model", "qwen2", []),
    "mistral": ("MistralModel", "mistral", QWEN),
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
    expected = [reference.hidden(e.ids).mean(0) for e in encode(tmp_path, texts, encoder)]
    close(embed(tmp_path, texts), torch.stack(expected))
    assert (read_model(tmp_path).task, read_model(tmp_path).max_tokens) == ("embed", 8192)


@pytest.mark.parametrize(
    "config",
    [
        {"_name_or_path": "jinaai/jina-bert-v2-qk-post-norm"},
        {"auto_map": {"AutoModel": "jinaai/jina-bert-v2-qk-post-norm--modeling_bert.Model"}},
    ],
)
def test_jina_of_code_is_refused(config: dict[str, Any], tmp_path: Path) -> None:
    write_jina(tmp_path, JinaReference(4), **config)
    refused(tmp_path, UnsupportedModel, "norms on queries and keys, is not supported")


def test_jina_without_gates_is_refused(tmp_path: Path) -> None:
    write_jina(tmp_path, JinaReference(4), feed_forward_type="original")
    refused(tmp_path, ConfigError, r"feed_forward_type is 'original'; supported: \['geglu', 'reg")


# Lengths


def test_limits_baked_into_the_tokenizer_do_not_act(folder: Path) -> None:
    """all-MiniLM-L6-v2's tokenizer.json cuts at 128 tokens and fills up; its model takes 256."""
    write_modules(folder, TRUNK, MEAN)
    expected = embed(folder)
    core = RustTokenizer.from_file(str(folder / "tokenizer.json"))
    core.enable_truncation(6)
    core.enable_padding(length=60)
    core.save(str(folder / "tokenizer.json"))
    assert len(core.encode(TEXTS[1]).ids) == 60
    assert torch.equal(embed(folder), expected)
    close(embed(folder), reference(folder))
    encoder = Embedder(folder, Settings())
    own = TextEncoder(Tokenizer.load(folder).core, encoder.spec.max_length)
    whole = own.encode(TEXTS, name="x", truncate=False)
    assert [e.ids for e in whole] == [e.ids for e in encode(folder, TEXTS, encoder)]
    assert max(len(e.ids) for e in whole) == 46


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("limit", [None, 20, 512, int(1e30)])
def test_positions_that_begin_late_are_never_passed(
    family: str, limit: int | None, tmp_path: Path
) -> None:
    """RoBERTa's 514 positions hold 512 tokens, whatever max_seq_length and the tokenizer say."""
    classes = {"roberta": "Roberta", "xlm-roberta": "XLMRoberta", "camembert": "Camembert"}
    config = getattr(hf, f"{classes[family]}Config")
    sizes = {**SIZES, "max_position_embeddings": 20}
    variant = Variant(
        family, lambda: getattr(hf, f"{classes[family]}Model")(config(**sizes, pad_token_id=1))
    )
    model = write_trunk(variant, tmp_path)
    write_modules(tmp_path, TRUNK, MEAN)
    update(tmp_path / "sentence_bert_config.json", max_seq_length=limit)
    encoder = Embedder(tmp_path, Settings())
    assert encoder.spec.max_length == read_model(tmp_path).max_tokens == 18
    encoded = encode(tmp_path, TEXTS, encoder)
    assert max(len(e.ids) for e in encoded) == 18
    with torch.inference_mode():
        theirs = [model(torch.tensor([e.ids])).last_hidden_state[0].mean(0) for e in encoded]
    close(embed(tmp_path), torch.stack(theirs))
