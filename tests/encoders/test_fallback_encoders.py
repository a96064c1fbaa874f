"""Encoders that only transformers knows, each as transformers computes a text alone, and those that
are refused."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from lookalikes import folder_of
from safetensors.torch import load_file, save_file
from tiny.foreign_encoders import alone, write_foreign
from tiny.sentence import TEXTS, close, encode, run, update

from atoll.config import Settings
from atoll.encoders.classifier import Classifier, ScoreOptions
from atoll.encoders.embedder import Embedder, EmbedOptions
from atoll.encoders.sparse_embedder import SparseEmbedder
from atoll.encoders.token_classifier import TokenClassifier
from atoll.errors import ConfigError, UnsupportedModel, WeightError
from atoll.models.detect import decide, read_model
from atoll.models.encoder_families import DECODERS_ON_TRANSFORMERS, ENCODERS_ON_TRANSFORMERS
from atoll.models.families import CAUSAL, ENCODERS

TABLES = (ENCODERS_ON_TRANSFORMERS, DECODERS_ON_TRANSFORMERS)
KINDS = [kind for table in TABLES for kinds in table.values() for kind in kinds]
DECODING = [kind for kinds in DECODERS_ON_TRANSFORMERS.values() for kind in kinds]
SEVERAL = ["abc", "an atoll is a ring", "abc", "x", "of coral"]
# A padded text of theirs would have other values.
ONE_LENGTH = ("convbert", "fnet", "funnel", "mobilebert", "nystromformer")


@pytest.mark.parametrize("kind", KINDS)
def test_embeddings(kind: str, tmp_path: Path) -> None:
    """Texts of one pack are as each alone, those of one length and the longest possible too."""
    assert kind not in ENCODERS and kind not in CAUSAL
    model = write_foreign(kind, tmp_path)
    encoder = Embedder(tmp_path, Settings(pooling="mean"))
    assert (encoder.trunk.can_pad) == (kind not in ONE_LENGTH)
    texts = [*TEXTS, *SEVERAL, "x" * 600]
    encoded = encode(tmp_path, texts, encoder)
    found = read_model(tmp_path, "embed", pooling="mean")
    assert len(encoded[-1].ids) == encoder.spec.max_length == found.max_tokens
    rows = run(tmp_path, texts, encoder, EmbedOptions(False, return_token_embeddings=True))
    for row, e in zip(rows, encoded, strict=True):
        wanted = alone(model, e)
        close(torch.from_numpy(row.token_vectors), wanted)
        close(torch.from_numpy(row.vector), wanted.mean(0))


@pytest.mark.parametrize("kind", DECODING)
def test_decoders_embed_alone_and_with_a_pooling(kind: str, tmp_path: Path) -> None:
    write_foreign(kind, tmp_path)
    with pytest.raises(UnsupportedModel, match="set it: --pooling last-token or mean"):
        read_model(tmp_path, task="embed")
    for task in ("rerank", "classify", "multi_vector"):
        with pytest.raises(UnsupportedModel, match=f"is not supported for task '{task}'"):
            read_model(tmp_path, task=task)
    update(tmp_path / "config.json", architectures=["OwnForRewards"])
    with pytest.raises(UnsupportedModel, match="OwnForRewards .*it is none of .*ForCausalLM"):
        read_model(tmp_path, task="embed", pooling="mean")


# A pair has segments; the head pools tokens, a layer per family of heads.
@pytest.mark.parametrize(
    "kind", ["megatron-bert", "convbert", "deberta", "xlm-roberta-xl", "fnet", "esm"]
)
@pytest.mark.parametrize("num_labels", [1, 3])
def test_scores(kind: str, num_labels: int, tmp_path: Path) -> None:
    model = write_foreign(kind, tmp_path, "classify", num_labels=num_labels)
    assert read_model(tmp_path).task == ("rerank" if num_labels == 1 else "classify")
    classifier = Classifier(tmp_path, Settings())
    assert len(classifier.spec.labels) == num_labels
    pairs = [("a query", "abc"), ("a query", "an atoll is a ring"), ("b", "x")]
    encoded = encode(tmp_path, pairs, classifier)
    for row, e in zip(run(tmp_path, pairs, classifier, ScoreOptions()), encoded, strict=True):
        wanted = alone(model, e)
        close(torch.from_numpy(row.logits), wanted)
        scores = wanted.sigmoid() if num_labels == 1 else wanted.softmax(-1)
        close(torch.from_numpy(row.scores), scores)


@pytest.mark.parametrize("kind", ["convbert", "xlm", "rembert", "esm"])
def test_sparse_vectors(kind: str, tmp_path: Path) -> None:
    model = write_foreign(kind, tmp_path, "sparse")
    encoder = SparseEmbedder(tmp_path, Settings(task="sparse"))
    for row, e in zip(
        run(tmp_path, SEVERAL, encoder, None), encode(tmp_path, SEVERAL, encoder), strict=True
    ):
        wanted = alone(model, e).amax(0).relu().log1p()
        found = torch.zeros_like(wanted)
        found[torch.from_numpy(row.indices).long()] = torch.from_numpy(row.values)
        close(found, wanted)
    # Without its head, it embeds.
    assert Embedder(tmp_path, Settings(pooling="cls")).dimensions == 48


@pytest.mark.parametrize("kind", ["convbert", "big_bird"])
def test_scores_of_tokens(kind: str, tmp_path: Path) -> None:
    model = write_foreign(kind, tmp_path, "token_classify", num_labels=3)
    assert read_model(tmp_path).task == "token_classify"
    tagger = TokenClassifier(tmp_path, Settings())
    encoded = encode(tmp_path, SEVERAL, tagger)
    for row, e in zip(run(tmp_path, SEVERAL, tagger, None), encoded, strict=True):
        close(torch.from_numpy(row.scores), alone(model, e).softmax(-1))


BASE: dict[str, Any] = {"vocab_size": 96, "hidden_size": 48, "num_hidden_layers": 2,
                        "num_attention_heads": 4, "intermediate_size": 80}  # fmt: skip
REFUSED: Mapping[str, tuple[dict[str, Any], str, str]] = {
    "places": ({"model_type": "layoutlm", "architectures": ["LayoutLMModel"]}, "embed",
               r"LayoutLMModel .*its tokens need places on a page \(bbox\)"),
    "cells": ({"model_type": "tapas", "architectures": ["TapasModel"]}, "embed",
              "rows and columns"),
    "images": ({"model_type": "vit", "architectures": ["ViTModel"]}, "embed",
               "ViTModel .*is not supported for task 'embed'"),
    "sound": ({"model_type": "wav2vec2", "architectures": ["Wav2Vec2Model"]}, "embed",
              "Wav2Vec2Model .*is not supported for task 'embed'"),
    "an encoder-decoder": ({"model_type": "bart", "architectures": ["BartModel"]}, "embed",
                           "BartModel .*is not supported for task 'embed'"),
    "a generator's scores": ({"model_type": "t5", "architectures": ["T5ForSequenceClassification"]},
                             "classify", "T5ForSequenceClassification .*no class for it"),
    "a decoder": ({"model_type": "stablelm", "architectures": ["StableLmModel"]}, "embed",
                  "StableLmModel .*is not supported for task 'embed'"),
    "an encoder made a decoder": (
        {"model_type": "rembert", "architectures": ["RemBertModel"], "is_decoder": True}, "embed",
        "RemBertModel: is_decoder is true: it is no encoder"),
    "a causal XLM": ({"model_type": "xlm", "architectures": ["XLMModel"], "causal": True}, "embed",
                     "causal is true"),
    "languages": ({"model_type": "xlm", "architectures": ["XLMModel"], "n_langs": 15}, "embed",
                  "use_lang_emb is true for 15 languages"),
    "an adapter for a language": (
        {"model_type": "xmod", "architectures": ["XmodModel"], "languages": ["en_XX", "de_DE"]},
        "embed", "default_language is null; it has en_XX, de_DE"),
    "landmarks": ({"model_type": "nystromformer", "architectures": ["NystromformerModel"],
                   "segment_means_seq_len": 512}, "embed", "segment_means_seq_len is 512 and num_"),
    "code of its own": (
        {"model_type": "eurobert", "architectures": ["OwnModel"],
         "auto_map": {"AutoModel": "modeling_own.OwnModel"}}, "embed",
        "auto_map names OwnModel.*never run"),
    "words of an encoder alone": ({"model_type": "umt5", "architectures": ["UMT5EncoderModel"]},
                                  "sparse", "UMT5EncoderModel .*no class for it"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_would_be_wrong_is_refused_by_name(case: str, tmp_path: Path) -> None:
    config, task, message = REFUSED[case]
    folder = folder_of(tmp_path, {**BASE, **config})
    with pytest.raises(UnsupportedModel, match=message):
        decide(folder, Settings(model_id="x", task=task))
    kind = {"embed": Embedder, "sparse": SparseEmbedder}.get(task, Classifier)
    with pytest.raises(UnsupportedModel, match=message):
        kind(folder, Settings(model_id="x", task=task))


@pytest.mark.parametrize(
    "settings", [{"dtype": "int8"}, {"quantize": "gptq"}, {"num_shard": "2"}], ids=str
)
def test_settings_without_effect_are_refused(settings: dict[str, str], tmp_path: Path) -> None:
    folder = folder_of(
        tmp_path, {**BASE, "model_type": "megatron-bert", "architectures": ["MegatronBertModel"]}
    )
    asked = Settings.read({"model_id": "x", **settings}, {})
    with pytest.raises(
        ConfigError, match=f"{next(iter(settings))} is .* transformers' MegatronBertModel"
    ):
        Embedder(folder, asked)


def test_words_of_a_library(tmp_path: Path) -> None:
    """The saved tokenizer.json of these splits texts as BERT's: Chinese into characters."""
    write_foreign("roformer", tmp_path)
    update(tmp_path / "tokenizer_config.json", tokenizer_class="RoFormerTokenizerFast")
    with pytest.raises(UnsupportedModel, match="RoFormerTokenizerFast finds words with jieba"):
        read_model(tmp_path)


def test_sparse_attention_is_not_reached(tmp_path: Path) -> None:
    """BigBird's depended on the texts before: the first short one changed it for good."""
    write_foreign("big_bird", tmp_path)
    found = read_model(tmp_path)
    assert found.max_tokens == 28 and "28 of its 70 positions" in found.notes[-2]
    update(tmp_path / "config.json", attention_type="original_full")
    assert read_model(tmp_path).max_tokens == 70


def test_adapters_that_are_not_applied_are_told(tmp_path: Path) -> None:
    write_foreign("jina_embeddings_v3", tmp_path)
    notes = read_model(tmp_path, "embed", pooling="mean").notes
    assert len(notes) == 3 and "adapters (LoRA) for tasks" in notes[2]


def test_it_is_told_everywhere(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_foreign("megatron-bert", tmp_path)
    with caplog.at_level(logging.WARNING):
        encoder = Embedder(tmp_path, Settings(pooling="cls"))
    assert encoder.detected.runs_on == "transformers' MegatronBertModel"
    assert all(note in caplog.text for note in encoder.detected.notes)
    assert "best effort" in encoder.detected.notes[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("encoder.layer.1.output.dense.bias"), "encoder.layer.1.* not in the che"),
        (lambda t: t.update({"encoder.layer.1.more": torch.ones(2)}), "left over: encoder.layer.1"),
    ],
)
def test_damaged_weights_are_named(change: Any, message: str, tmp_path: Path) -> None:
    """transformers answers with random numbers in place of a missing tensor."""
    write_foreign("megatron-bert", tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    change(tensors)
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(WeightError, match=message):
        Embedder(tmp_path, Settings(pooling="cls"))
