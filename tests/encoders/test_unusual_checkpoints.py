"""Checkpoints as people publish them, against sentence-transformers and transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from tiny.checkpoint import Variant
from tiny.encoders import SIZES
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
    refused,
    update,
    write_modules,
    write_trunk,
)
from tokenizers import Tokenizer as RustTokenizer
from torch import Tensor

from atoll.catalogue import read_model
from atoll.config import Settings
from atoll.encoders.embedder import Embedder
from atoll.errors import AtollError, ConfigError, UnsupportedModel
from atoll.text.text_encoder import TextEncoder
from atoll.text.tokenizer import Tokenizer
from atoll.weights.files import resolve
from atoll.weights.modules import length_limit

# Families whose positions begin late, and what their classes are called.
FAMILIES = {
    "roberta": "Roberta", "xlm-roberta": "XLMRoberta", "camembert": "Camembert", "mpnet": "MPNet",
}  # fmt: skip


def reference(folder: Path, texts: list[str] = TEXTS, **options: Any) -> Tensor:
    """sentence-transformers' vectors."""
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(folder), device="cpu", local_files_only=True)
    found: Tensor = model.encode(texts, convert_to_tensor=True, **options)
    return found


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
    "dense-then-norm": (
        TRUNK, MEAN, dense("2_Dense", 20, "linear.Identity", True),
        Part(f"{OLD}.LayerNorm", "3_LayerNorm", {"dimension": 20},
             {"norm.weight": torch.linspace(-1, 2, 20), "norm.bias": torch.linspace(1, 0, 20)}),
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
    found = read_model(folder)
    assert found.max_tokens == limit
    # Of a model without positions, as BLOOM, this is all that there is.
    assert (length_limit(folder) is None) == (tokenizer["model_max_length"] in (None, int(1e30)))
    told = [note for note in found.notes if "max_seq_length is 512, more than the model's" in note]
    assert len(told) == (sentence.get("max_seq_length") == 512)
    if limit < 70:
        close(embed(folder), reference(folder))


def test_a_limit_beyond_the_positions_is_told(folder: Path) -> None:
    """sentence-transformers fails at such texts; up to the positions, vectors are its own."""
    write_modules(folder, TRUNK, MEAN)
    texts = ["x" * 200, *TEXTS]
    update(folder / "sentence_bert_config.json", max_seq_length=512)
    ours = embed(folder, texts)
    with pytest.raises((IndexError, RuntimeError)):
        reference(folder, texts)
    update(folder / "sentence_bert_config.json", max_seq_length=70)
    close(ours, reference(folder, texts))


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
        "residual.weight.*use_residual": {"module_input_name": None, "use_residual": True},
        "activation_function is .*Softplus": {
            "use_residual": None, "activation_function": "torch.nn.modules.activation.Softplus",
        },
    }.items():  # fmt: skip
        update(config, **changes)
        refused(folder, AtollError, match)


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
    assert [e.ids.tolist() for e in whole] == [
        e.ids.tolist() for e in encode(folder, TEXTS, encoder)
    ]
    assert max(len(e.ids) for e in whole) == 46


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("limit", [None, 20, 512, int(1e30)])
def test_positions_that_begin_late_are_never_passed(
    family: str, limit: int | None, tmp_path: Path
) -> None:
    """RoBERTa's 514 positions hold 512 tokens, whatever max_seq_length and the tokenizer say."""
    config = getattr(hf, f"{FAMILIES[family]}Config")
    sizes = {**SIZES, "max_position_embeddings": 20}
    variant = Variant(
        family, lambda: getattr(hf, f"{FAMILIES[family]}Model")(config(**sizes, pad_token_id=1))
    )
    model = write_trunk(variant, tmp_path)
    write_modules(tmp_path, TRUNK, MEAN)
    update(tmp_path / "sentence_bert_config.json", max_seq_length=limit)
    encoder = Embedder(tmp_path, Settings())
    assert encoder.spec.max_length == read_model(tmp_path).max_tokens == 18
    encoded = encode(tmp_path, TEXTS, encoder)
    assert max(len(e.ids) for e in encoded) == 18
    with torch.inference_mode():
        theirs = [model(torch.tensor(e.ids[None])).last_hidden_state[0].mean(0) for e in encoded]
    close(embed(tmp_path), torch.stack(theirs))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("padding", [1, 3])
def test_padding_tokens_in_a_text_are_not_counted(
    family: str, padding: int, tmp_path: Path
) -> None:
    """RoBERTa counts positions from the ids. Texts that spell <pad>, and every text of a tokenizer
    that pads with what ends a text ([SEP], 3), had later positions than transformers gives them."""
    config = getattr(hf, f"{FAMILIES[family]}Config")(**SIZES, pad_token_id=padding)
    variant = Variant(family, lambda: getattr(hf, f"{FAMILIES[family]}Model")(config))
    model = write_trunk(variant, tmp_path)
    encoder = Embedder(tmp_path, Settings(pooling="mean"))
    texts = ["coral", "a [UNK] reef [SEP] of [UNK] [UNK] coral", "[UNK]", "[SEP]", "coral"]
    ids = [e.ids.tolist() for e in encode(tmp_path, texts, encoder)]
    assert sum(row.count(padding) for row in ids) > 2
    with torch.inference_mode():
        theirs = [model(torch.tensor([row])).last_hidden_state[0].mean(0) for row in ids]
    close(embed(tmp_path, texts, pooling="mean"), torch.stack(theirs))
