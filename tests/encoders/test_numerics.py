"""Encoders against transformers: every family, every layout, every head; packed equals solo."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from devices import DEVICE
from safetensors.torch import save_file
from tiny.checkpoint import Variant, write
from tiny.described_encoders import DESCRIBED
from tiny.embedders import EMBEDDERS
from tiny.encoders import (
    FILLERS,
    TRUNKS,
    VOCAB,
    JinaReference,
    classifiers,
    write_text_files,
)
from torch import Tensor
from transformers.models.deberta_v2.modeling_deberta_v2 import make_log_bucket_position

from atoll.config import Settings
from atoll.encoders.classifier import Classifier, ScoreOptions
from atoll.encoders.embedder import Embedded, Embedder, EmbedOptions
from atoll.encoders.packer import Item, batch_of
from atoll.encoders.sparse_embedder import SparseEmbedder
from atoll.layers import Linear
from atoll.layers.disentangled import distance_rows

GENERATOR = torch.Generator().manual_seed(11)
TEXTS = [torch.randint(5, VOCAB, (n,), generator=GENERATOR).tolist() for n in (1, 17, 5, 60, 2)]


def _settings(**given: Any) -> Settings:
    return Settings(**{"dtype": "float32", "device": str(DEVICE), **given})


def _run(encoder: Any, texts: Sequence[list[int]], options: Any, types: Any = None) -> list[Any]:
    items = [
        Item(
            np.array(ids, np.int32),
            lambda result: None,
            None if types is None else np.array(types[i], np.int32),
            options,
        )  # fmt: skip
        for i, ids in enumerate(texts)
    ]
    with torch.inference_mode():
        results: list[Any] = encoder(batch_of(items, DEVICE), items)
    return results


def _tokens(encoder: Any, texts: Sequence[list[int]]) -> list[Tensor]:
    """Hidden states of every token, text by text."""
    found: list[Embedded] = _run(encoder, texts, EmbedOptions(return_token_embeddings=True))
    return [torch.from_numpy(row.token_vectors) for row in found]


def _close(ours: Tensor, reference: Tensor) -> None:
    limit = 2e-5 * max(1.0, float(reference.std(correction=0)))
    assert float((ours.double() - reference.double()).abs().max()) <= limit


@pytest.mark.parametrize("variant", [*TRUNKS, *EMBEDDERS], ids=lambda v: v.name)
def test_trunk_equals_transformers(variant: Variant, tmp_path: Path) -> None:
    reference = write(variant, tmp_path).model
    if variant.name.endswith("half"):
        reference = reference.half()
    # Its float32 is as far off as ours.
    reference = reference.double()
    encoder = Embedder(tmp_path, _settings(pooling="mean"))
    packed = _tokens(encoder, TEXTS)
    with torch.inference_mode():
        for ids, ours in zip(TEXTS, packed, strict=True):
            _close(ours, reference(torch.tensor([ids])).last_hidden_state[0])
            _close(_tokens(encoder, [ids])[0], ours)


@pytest.mark.parametrize(
    "variant",
    [v for v in (*TRUNKS, *EMBEDDERS) if "half" not in v.name][::3],
    ids=lambda v: v.name,
)
def test_bfloat16_is_as_good_as_transformers(variant: Variant, tmp_path: Path) -> None:
    reference = write(variant, tmp_path).model
    settings = _settings(dtype="bfloat16", pooling="mean")
    ours = torch.cat(_tokens(Embedder(tmp_path, settings), TEXTS))

    def run() -> Tensor:
        rows = [reference(torch.tensor([ids])).last_hidden_state[0] for ids in TEXTS]
        return torch.cat(rows).double()

    with torch.inference_mode():
        exact = run()
        reference.bfloat16()
        theirs = run()
    error = float((ours.double() - exact).square().mean().sqrt())
    assert error <= 1.5 * float((theirs - exact).square().mean().sqrt())


@pytest.mark.parametrize("sizes", [(512, 256, 512), (700, 32, 512), (90, 0, 60)], ids=str)
def test_rows_of_distances_equal_transformers(sizes: tuple[int, int, int]) -> None:
    """Of DeBERTa's published sizes, and of texts that are longer than its distances."""
    length, num_buckets, most = sizes
    rows = distance_rows(length, num_buckets or most, num_buckets, most)
    ahead = torch.arange(length - 1, -length, -1)
    if num_buckets:
        ahead = make_log_bucket_position(ahead, num_buckets, most).long()
    span = num_buckets or most
    assert torch.equal(rows, (ahead + span).clamp(0, 2 * span - 1).int())


@pytest.mark.parametrize("num_heads", [4, 8, 12])
def test_jina_equals_its_description(num_heads: int, tmp_path: Path) -> None:
    reference = JinaReference(num_heads)
    save_file(reference.tensors, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(reference.config))
    encoder = Embedder(tmp_path, _settings())
    long = TEXTS[3] * 5
    for ids, ours in zip([*TEXTS, long], _tokens(encoder, [*TEXTS, long]), strict=True):
        _close(ours, reference.hidden(ids))


@pytest.mark.parametrize("name", DESCRIBED)
def test_trunk_equals_its_description(name: str, tmp_path: Path) -> None:
    reference = DESCRIBED[name]()
    reference.write(tmp_path)
    encoder = Embedder(tmp_path, _settings())
    for ids, ours in zip(TEXTS, _tokens(encoder, TEXTS), strict=True):
        _close(ours, reference.hidden(ids))
        _close(_tokens(encoder, [ids])[0], ours)


@pytest.mark.parametrize("variant", classifiers(3) + classifiers(1), ids=lambda v: v.name)
def test_heads_equal_transformers(variant: Variant, tmp_path: Path) -> None:
    reference = write(variant, tmp_path).model
    raw = _run(Classifier(tmp_path, _settings()), TEXTS, ScoreOptions(raw=True))
    scored = _run(Classifier(tmp_path, _settings()), TEXTS, ScoreOptions())
    for ids, logits, scores in zip(TEXTS, raw, scored, strict=True):
        with torch.inference_mode():
            expected = reference(torch.tensor([ids])).logits[0]
        _close(torch.from_numpy(logits.scores), expected)
        _close(torch.from_numpy(scores.logits), expected)
        both = expected.softmax(-1) if len(expected) > 1 else expected.sigmoid()
        _close(torch.from_numpy(scores.scores), both)


def test_multi_label_scores_are_sigmoids(tmp_path: Path) -> None:
    """TEI answers softmax whatever the config says; transformers' pipeline does not."""
    variant = classifiers(4)[1]
    model = write(variant, tmp_path).model
    config = json.loads((tmp_path / "config.json").read_text())
    config["problem_type"] = "multi_label_classification"
    (tmp_path / "config.json").write_text(json.dumps(config))
    ours = _run(Classifier(tmp_path, _settings()), TEXTS[1:2], ScoreOptions())[0].scores
    with torch.inference_mode():
        _close(torch.from_numpy(ours), model(torch.tensor(TEXTS[1:2])).logits[0].sigmoid())


def test_pairs_have_two_segments(tmp_path: Path) -> None:
    model = write(classifiers(1)[0], tmp_path).model
    types = [[0] * 9 + [1] * 8]
    ours = _run(Classifier(tmp_path, _settings()), TEXTS[1:2], ScoreOptions(raw=True), types)[
        0
    ].scores
    with torch.inference_mode():
        ids = torch.tensor(TEXTS[1:2])
        expected = model(ids, token_type_ids=torch.tensor(types)).logits[0]
        assert float((expected - model(ids).logits[0]).abs().max()) > 1e-3
    _close(torch.from_numpy(ours), expected)


@pytest.mark.parametrize("has_own_decoder", [False, True])
@pytest.mark.parametrize("variant", FILLERS, ids=lambda v: v.name)
def test_splade_equals_its_formula(variant: Variant, has_own_decoder: bool, tmp_path: Path) -> None:

    def set_decoder(model: Any, tensors: dict[str, Tensor]) -> None:
        decoder = model.get_output_embeddings()
        name = next(name for name, module in model.named_modules() if module is decoder)
        for part, old in list(decoder.named_parameters()):
            value = torch.randn(old.shape, generator=GENERATOR) * 0.1
            tensors[f"{name}.{part}"] = value
            setattr(decoder, part, torch.nn.Parameter(value))

    if has_own_decoder:
        variant = replace(variant, hooks=set_decoder)
    model = write(variant, tmp_path).model
    found = _run(SparseEmbedder(tmp_path, _settings(task="sparse")), TEXTS, None)
    for ids, sparse in zip(TEXTS, found, strict=True):
        with torch.inference_mode():
            logits = model(torch.tensor([ids])).logits[0]
        expected = logits.relu().log1p().amax(0)
        ours = torch.zeros(VOCAB)
        ours[torch.from_numpy(sparse.indices).long()] = torch.from_numpy(sparse.values)
        _close(ours, expected)
        assert (sparse.values > 0).all()


@pytest.mark.parametrize("pooling", ["cls", "mean", "last-token"])
def test_poolings(pooling: str, tmp_path: Path) -> None:
    model = write(TRUNKS[0], tmp_path).model
    write_text_files(tmp_path, pooling)
    encoder = Embedder(tmp_path, _settings())
    assert encoder.spec.pooling == pooling
    for ids, found in zip(TEXTS, _run(encoder, TEXTS, EmbedOptions()), strict=True):
        with torch.inference_mode():
            hidden = model(torch.tensor([ids])).last_hidden_state[0]
        picked = {"cls": hidden[0], "mean": hidden.mean(0), "last-token": hidden[-1]}[pooling]
        _close(torch.from_numpy(found.vector), picked / picked.norm())
    assert Embedder(tmp_path, _settings(pooling="cls")).spec.pooling == "cls"


def test_dense_module(tmp_path: Path) -> None:
    model = write(TRUNKS[0], tmp_path).model
    write_text_files(tmp_path, "mean")
    modules = json.loads((tmp_path / "modules.json").read_text())
    modules.append({"idx": 2, "path": "2_Dense", "type": "sentence_transformers.models.Dense"})
    (tmp_path / "modules.json").write_text(json.dumps(modules))
    weight, bias = torch.randn(20, 48), torch.randn(20)
    (tmp_path / "2_Dense").mkdir()
    save_file(
        {"linear.weight": weight, "linear.bias": bias}, tmp_path / "2_Dense/model.safetensors"
    )
    config = {
        "in_features": 48, "out_features": 20, "bias": True,
        "activation_function": "torch.nn.modules.activation.Tanh",
    }  # fmt: skip
    (tmp_path / "2_Dense" / "config.json").write_text(json.dumps(config))
    encoder = Embedder(tmp_path, _settings())
    assert encoder.dimensions == 20
    ours = _run(encoder, TEXTS[1:2], EmbedOptions(normalize=False))[0].vector
    with torch.inference_mode():
        pooled = model(torch.tensor(TEXTS[1:2])).last_hidden_state[0].mean(0)
    _close(torch.from_numpy(ours), (weight @ pooled + bias).tanh())


def test_linear_layers_see_no_padding(tmp_path: Path) -> None:
    """Rows that reach the linear layers: as many as there are tokens, however lengths differ."""
    write(TRUNKS[0], tmp_path)
    encoder = Embedder(tmp_path, _settings())
    rows: list[int] = []
    for module in encoder.trunk.modules():
        if isinstance(module, Linear):
            module.register_forward_pre_hook(lambda m, inputs: rows.append(inputs[0].shape[0]))
    _run(encoder, TEXTS, EmbedOptions())
    assert rows and set(rows) == {sum(map(len, TEXTS))}


def test_a_nan_fails_its_text_alone(tmp_path: Path) -> None:
    model = write(TRUNKS[0], tmp_path).model
    tensors = {k: v.clone() for k, v in model.state_dict().items()}
    tensors["embeddings.word_embeddings.weight"][7] = float("nan")
    save_file(tensors, tmp_path / "model.safetensors")
    texts = [[5, 6], [5, 7, 6], [8]]
    found = _run(Embedder(tmp_path, _settings()), texts, EmbedOptions())
    assert isinstance(found[1], Exception) and "not finite" in str(found[1])
    assert np.isfinite(found[0].vector).all() and np.isfinite(found[2].vector).all()
