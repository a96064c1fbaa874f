"""Checkpoints as people publish them, against sentence-transformers and transformers."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from safetensors.torch import load_file, save_file
from tiny.checkpoint import Tensors, Variant
from tiny.encoders import (
    SIZES,
    TRUNKS,
    JinaReference,
    classifiers,
    prefixed,
    write_text_files,
)
from tiny.sentence import (
    OLD,
    TEXTS,
    Part,
    embed,
    encode,
    run,
    update,
    write_modules,
    write_trunk,
)
from torch import Tensor
from typer.testing import CliRunner

from atoll.catalogue import read_model
from atoll.cli.app import app
from atoll.cli.choose import entry_of
from atoll.config import Settings
from atoll.encoders.encoder import Classifier, Embedder, ScoreOptions, SparseEmbedder
from atoll.errors import AtollError, ConfigError, UnsupportedModel, WeightError
from atoll.weights.files import resolve

HIDDEN = 48


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bert")
    write_trunk(TRUNKS[0], folder)
    return folder


@pytest.fixture
def folder(bert: Path, tmp_path: Path) -> Path:
    """A plain BERT checkpoint that a test may change."""
    return Path(shutil.copytree(bert, tmp_path / "model"))


def reference(folder: Path, texts: list[str] = TEXTS, **options: Any) -> Tensor:
    """sentence-transformers' vectors."""
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(folder), device="cpu", local_files_only=True)
    found: Tensor = model.encode(texts, convert_to_tensor=True, **options)
    return found


def close(ours: Tensor, theirs: Tensor) -> None:
    assert ours.shape == theirs.shape
    limit = 2e-5 * max(1.0, float(theirs.std(correction=0)))
    assert float((ours.double() - theirs.double()).abs().max()) <= limit


def refused(folder: Path, kind: type[AtollError], match: str, **settings: Any) -> None:
    with pytest.raises(kind, match=match):
        Embedder(folder, Settings(**settings))


# Modules of sentence-transformers


def pooling(path: str = "1_Pooling", type: str = f"{OLD}.Pooling", **config: Any) -> Part:
    return Part(type, path, {"word_embedding_dimension": HIDDEN, **config})


def dense(path: str, size: int, activation: str | None, bias: bool, inputs: int = HIDDEN) -> Part:
    generator = torch.Generator().manual_seed(size)
    tensors = {"linear.weight": torch.randn(size, inputs, generator=generator) / 5}
    if bias:
        tensors["linear.bias"] = torch.randn(size, generator=generator)
    config = {"in_features": inputs, "out_features": size, "bias": bias}
    if activation is not None:
        config["activation_function"] = f"torch.nn.modules.{activation}"
    return Part(f"{OLD}.Dense", path, config, tensors)


TRUNK = Part(f"{OLD}.Transformer")
MEAN = pooling(pooling_mode_mean_tokens=True)
NORMALIZE = Part(f"{OLD}.Normalize", "9_Normalize")
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


# Cross encoders and classifiers

PAIRS = [("coral", "A ring of coral."), ("x", "y z"), ("A ring", "fish " * 30), ("ab", "ab")]
NAMED: dict[str, dict[str, Any]] = {
    "unnamed": {},
    "identity": {"sentence_transformers": {"activation_fn": "torch.nn.modules.linear.Identity"}},
    "sigmoid": {"sentence_transformers": {"activation_fn": "torch.nn.modules.activation.Sigmoid"}},
    "tanh": {"sentence_transformers": {"activation_fn": "torch.nn.modules.activation.Tanh"}},
    "old": {"sbert_ce_default_activation_function": "torch.nn.modules.linear.Identity"},
    "old-sigmoid": {"sbert_ce_default_activation_function": "torch.nn.Sigmoid"},
    "foreign": {"sentence_transformers": {"activation_fn": "my_code.Squash", "version": "4.1.0"}},
}


def score(folder: Path, texts: Any, is_raw: bool = False) -> Tensor:
    """Atoll's scores, (texts, labels)."""
    found = run(folder, texts, Classifier(folder, Settings()), ScoreOptions(is_raw))
    return torch.stack([torch.from_numpy(row) for row in found])


def predicted(folder: Path, pairs: Any = PAIRS) -> Tensor:
    """What sentence-transformers' CrossEncoder.predict answers, (pairs, labels)."""
    from sentence_transformers import CrossEncoder

    model = CrossEncoder(str(folder), device="cpu", local_files_only=True)
    found: Tensor = model.predict(pairs, convert_to_tensor=True)
    return found if found.dim() == 2 else found[:, None]


@pytest.fixture(scope="module")
def cross(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """BERT cross encoders by their number of labels."""
    folders = {n: tmp_path_factory.mktemp(f"cross-{n}") for n in (1, 3)}
    for n, folder in folders.items():
        write_trunk(classifiers(n)[0], folder)
    return folders


@pytest.mark.parametrize("num_labels", [1, 3])
@pytest.mark.parametrize("name", NAMED)
def test_scores_equal_cross_encoder(
    name: str, num_labels: int, cross: dict[int, Path], tmp_path: Path
) -> None:
    """Where the files name no activation, several labels get the softmax of a pipeline."""
    folder = Path(shutil.copytree(cross[num_labels], tmp_path / "model"))
    update(folder / "config.json", **NAMED[name])
    expected = predicted(folder)
    if num_labels > 1 and name in ("unnamed", "foreign"):
        expected = expected.softmax(-1)
    close(score(folder, PAIRS), expected)
    assert read_model(folder).task == ("rerank" if num_labels == 1 else "classify")


def test_a_saved_cross_encoder(cross: dict[int, Path], tmp_path: Path) -> None:
    """Newer versions write modules.json, and the activation where the prompts are."""
    from sentence_transformers import CrossEncoder

    model = CrossEncoder(str(cross[1]), device="cpu", activation_fn=torch.nn.Identity())
    model.save_pretrained(str(tmp_path))
    expected = torch.from_numpy(model.predict(PAIRS))[:, None]
    assert (tmp_path / "modules.json").exists() and float(expected.max()) > 1
    close(score(tmp_path, PAIRS), expected)
    assert read_model(tmp_path).task == "rerank"
    update(
        tmp_path / "config_sentence_transformers.json", activation_fn="torch.nn.modules.Softplus"
    )
    with pytest.raises(ConfigError, match="activation_fn is 'torch.nn.modules.Softplus'; known"):
        Classifier(tmp_path, Settings())


def test_a_cross_encoder_of_other_modules_is_refused(folder: Path) -> None:
    """It would answer with one-dimensional vectors if it were taken for an embedder."""
    head = dense("2_Dense", 1, "linear.Identity", True)
    write_modules(folder, TRUNK, MEAN, head)
    update(folder / "config_sentence_transformers.json", model_type="CrossEncoder")
    match = r"\['Transformer', 'Pooling', 'Dense'\] are not supported for task 'rerank'"
    with pytest.raises(UnsupportedModel, match=match):
        read_model(folder)


@pytest.mark.parametrize(
    ("problem_type", "score_of"),
    [
        ("regression", lambda logits: logits),
        ("multi_label_classification", torch.sigmoid),
        ("single_label_classification", lambda logits: logits.softmax(-1)),
        (None, lambda logits: logits.softmax(-1)),
    ],
)
def test_problem_types_equal_the_pipeline(
    problem_type: str | None, score_of: Callable[[Tensor], Tensor], cross: dict[int, Path],
    tmp_path: Path,
) -> None:  # fmt: skip
    folder = Path(shutil.copytree(cross[3], tmp_path / "model"))
    update(folder / "config.json", problem_type=problem_type)
    classify = hf.pipeline("text-classification", model=str(folder), device="cpu", top_k=None)
    theirs = [{row["label"]: row["score"] for row in found} for found in classify(TEXTS)]
    labels = read_model(folder).labels
    expected = torch.tensor([[row[label] for label in labels] for row in theirs])
    close(score(folder, TEXTS), expected)
    close(score_of(score(folder, TEXTS, is_raw=True)), expected)


@pytest.mark.parametrize("num_labels", [1, 2, 3])
def test_labels_without_names(num_labels: int, tmp_path: Path) -> None:
    write_trunk(classifiers(num_labels)[0], tmp_path)
    count = None if num_labels == 2 else num_labels
    update(tmp_path / "config.json", id2label=None, label2id=None, num_labels=count)
    assert score(tmp_path, PAIRS).shape == (len(PAIRS), num_labels)
    assert read_model(tmp_path).labels == tuple(f"LABEL_{i}" for i in range(num_labels))


FAMILIES = ("roberta", "xlm-roberta", "camembert")


@pytest.mark.parametrize("family", FAMILIES)
def test_families_with_one_segment(family: str, tmp_path: Path) -> None:
    """Their tokenizers may number the second text of a pair 1, which has no vector."""
    variant = classifiers(1)[1 + FAMILIES.index(family)]
    write_trunk(variant, tmp_path)
    # transformers' limit, 70, leaves out that their positions begin at 2.
    update(
        tmp_path / "tokenizer_config.json", model_max_length=68,
        model_input_names=["input_ids", "attention_mask"],
    )  # fmt: skip
    close(score(tmp_path, PAIRS), predicted(tmp_path))


def test_a_five_star_camembert(tmp_path: Path) -> None:
    """distilcamembert-base-sentiment: the classes of CamembertForSequenceClassification."""
    stars = {i: f"{i + 1} star" for i in range(5)}
    config = hf.CamembertConfig(**SIZES, type_vocab_size=1, id2label=stars, layer_norm_eps=1e-5)
    variant = Variant("stars", lambda: hf.CamembertForSequenceClassification(config))
    model = write_trunk(variant, tmp_path)
    encoder = Classifier(tmp_path, Settings())
    assert encoder.spec.labels == tuple(stars.values())
    with torch.inference_mode():
        logits = [model(torch.tensor([e.ids])).logits[0] for e in encode(tmp_path, TEXTS, encoder)]
    close(score(tmp_path, TEXTS), torch.stack(logits).softmax(-1))


@pytest.mark.parametrize("has_types", [True, False])
def test_segments_are_given_where_the_tokenizer_gives_them(
    has_types: bool, cross: dict[int, Path], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(cross[1], tmp_path / "model"))
    names = ["input_ids", "token_type_ids", "attention_mask"]
    update(folder / "tokenizer_config.json", model_input_names=names if has_types else names[::2])
    ours = score(folder, PAIRS)
    close(ours, predicted(folder))
    is_same = torch.allclose(ours, score(cross[1], PAIRS))
    assert is_same == has_types


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


# Sparse embedders

FILLERS: dict[str, Callable[[], Any]] = {
    "bert": lambda: hf.BertForMaskedLM(hf.BertConfig(**SIZES)),
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
        with pytest.raises(ConfigError, match="supported: max or sum, and relu or log1p_relu"):
            SparseEmbedder(folder, Settings())
    encoder = Part(f"{SPLADE}.models.SparseAutoEncoder", "2_SparseAutoEncoder")
    write_modules(folder, TRUNK, MEAN, encoder)
    with pytest.raises(UnsupportedModel, match="SparseAutoEncoder"):
        read_model(folder)
    write_modules(folder, Part("sentence_transformers.models.Router"))
    (folder / "config.json").unlink()
    with pytest.raises(UnsupportedModel, match=r"\['Router'\] are not supported"):
        read_model(resolve(str(folder)))


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
