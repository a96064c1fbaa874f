"""bge-m3's and GTE's further outputs against their descriptions, padded as there."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny.encoders import TRUNKS
from tiny.late import write_gte, write_m3
from tiny.sentence import HIDDEN, run, update
from tokenizers import decoders
from torch import Tensor, nn

from atoll.catalogue import entry_for, read_model, render
from atoll.config import Settings
from atoll.encoders.embedder import Embedder, EmbedOptions
from atoll.errors import WeightError
from atoll.text.tokenizer import Tokenizer
from atoll.text.vocabulary import joined_ids
from atoll.weights.files import wanted_files

TEXTS = ["coral coral", "A ring of coral, around; é", "x", "Two Reefs [MASK] two [UNK] reefs" * 2]
ALL = EmbedOptions(return_sparse=True, return_colbert_vecs=True)


def described(model: Any, heads: Mapping[str, Any], rows: list[list[int]]) -> list[Any]:
    """(vector, weights by id, vectors of tokens) of each text, float64."""
    width = max(map(len, rows))
    ids = torch.tensor([row + [1] * (width - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
    with torch.inference_mode():
        hidden = model.double()(input_ids=ids, attention_mask=mask).last_hidden_state
    found = []
    for row, states in zip(rows, hidden, strict=True):
        weights: dict[int, float] = {}
        sparse, colbert = heads["sparse_linear"], heads["colbert_linear"]
        for token, state in zip(row, states, strict=False):
            weight = float(sparse["weight"].double()[0] @ state + sparse["bias"].double()[0])
            # [CLS], [SEP], [PAD] and [UNK] of the tiny tokenizer.
            if token not in (2, 3, 0, 1) and weight > 0:
                weights[token] = max(weight, weights.get(token, 0.0))
        tokens: Tensor = states[1 : len(row)] @ colbert["weight"].double().T + colbert["bias"]
        unit = [v / v.norm() for v in (states[0], *tokens)]
        found.append((unit[0], weights, torch.stack(unit[1:])))
    return found


def test_three_outputs_equal_their_description(tmp_path: Path) -> None:
    model, heads = write_m3(tmp_path)
    encoder = Embedder(tmp_path, Settings())
    tokenizer = Tokenizer.load(tmp_path)
    encoder.heads.unused = np.array([2, 3, 0, 1], np.int32)
    rows = [tokenizer.encode(text) for text in TEXTS]
    for texts in (TEXTS, *([text] for text in TEXTS)):
        ours = run(tmp_path, texts, encoder, ALL)
        places = [TEXTS.index(text) for text in texts]
        theirs = described(model, heads, [rows[i] for i in places])
        for mine, (vector, weights, vectors) in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(mine.vector, vector.numpy(), atol=1e-5)
            assert mine.sparse.indices.tolist() == sorted(weights)
            expected = [weights[i] for i in sorted(weights)]
            np.testing.assert_allclose(mine.sparse.values, expected, atol=1e-5)
            np.testing.assert_allclose(mine.colbert_vecs, vectors.numpy(), atol=1e-5)
        assert len(texts) == 1 or sum(len(row.sparse.indices) > 0 for row in ours) > 1
    plain = run(tmp_path, TEXTS, encoder, EmbedOptions())
    assert all(row.sparse is None and row.colbert_vecs is None for row in plain)


def test_weights_of_gtes_words_are_its_scripts(tmp_path: Path) -> None:
    """Weights of texts: of two tokens that spell one, the greater counts."""
    model = write_gte(tmp_path)
    core = Tokenizer.load(tmp_path).core
    core.decoder = decoders.Replace("b", "a")
    encoder = Embedder(tmp_path, Settings())
    encoder.heads.unused = np.array([2, 3, 0, 1], np.int32)
    assert encoder.detected.heads == encoder.heads.names == ("sparse_linear",)
    assert encoder.heads.joins_texts and encoder.detected.notes == ()
    encoder.heads.words = joined_ids(core, encoder.vocab_size)
    texts = ["abba cab, a coral", "bb", "x [UNK] reef"]
    found = 0
    for text, row in zip(texts, run(tmp_path, texts, encoder, EmbedOptions(return_sparse=True)),
                         strict=True):  # fmt: skip
        ids = core.encode(text).ids
        with torch.inference_mode():
            logits = model(torch.tensor([ids])).logits[0, :, 0].relu().tolist()
        weights: dict[str, float] = {}
        for token, weight in zip(ids, logits, strict=True):
            word = core.decode([token], skip_special_tokens=False)
            if token not in (2, 3, 0, 1) and weight > 0:
                weights[word] = max(weight, weights.get(word, 0.0))
        ours = {
            core.decode([int(i)]): v
            for i, v in zip(row.sparse.indices, row.sparse.values, strict=True)
        }
        assert ours.keys() == weights.keys()
        np.testing.assert_allclose([ours[w] for w in weights], [*weights.values()], atol=1e-5)
        found += len(weights)
    assert found > 5
    update(tmp_path / "config.json", id2label={"0": "O", "1": "PER"})
    assert read_model(tmp_path, task="embed").heads == ()


def test_an_entry_lists_what_its_checkpoint_has(tmp_path: Path) -> None:
    write_m3(tmp_path)
    names = ["sparse_indices", "sparse_values", "colbert_vecs"]
    for has_sparse in (True, False):
        found = read_model(tmp_path, task="embed")
        config = render(entry_for("x", found, name="x"))["config.pbtxt"]
        assert [f'"{name}"' in config for name in names] == [has_sparse, has_sparse, True]
        (tmp_path / "sparse_linear.pt").unlink(missing_ok=True)
    files = ["colbert_linear.pt", "config.json", "pytorch_model.bin", "sparse_linear.pt"]
    assert wanted_files([*files, "long.jpg", "onnx/model.onnx"]) == files


class NotATensor:
    """Code would run if a file with one were loaded without care."""


DAMAGED: dict[str, tuple[str, Any, str]] = {
    "another name": ("sparse_linear", {"weights": torch.ones(1, HIDDEN)}, "expected weight and"),
    "another width": ("sparse_linear",
                      {"weight": torch.ones(2, HIDDEN), "bias": torch.ones(2)}, r"\(2, 48\)"),
    "another model": ("colbert_linear", {"weight": torch.ones(8, 8), "bias": torch.ones(8)},
                      r"\(8, 8\) and bias \(8,\)"),
    "no bias": ("colbert_linear", {"weight": torch.ones(8, HIDDEN)}, "expected weight and bias"),
    "a number": ("colbert_linear", {"weight": 1, "bias": 2}, "expected weight and bias"),
    "a list": ("sparse_linear", [torch.ones(1)], "holds a list"),
    "code": ("sparse_linear", NotATensor(), "sparse_linear.pt"),
    "a whole layer": ("sparse_linear", nn.Linear(2, 2), "sparse_linear.pt"),
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_heads_are_named(name: str, tmp_path: Path) -> None:
    head, content, message = DAMAGED[name]
    write_m3(tmp_path, TRUNKS[0])
    torch.save(content, tmp_path / f"{head}.pt")
    with pytest.raises(WeightError, match=message):
        Embedder(tmp_path, Settings())
