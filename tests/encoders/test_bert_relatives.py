"""Families built like BERT as sentence-transformers publishes them, and with quantized weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from rounded import take_over
from tiny.bert_relatives import TRUNKS
from tiny.checkpoint import Variant
from tiny.sentence import MEAN, NORMALIZE, TEXTS, TRUNK, close, embed, run, update, write_modules
from tiny.sentence import write_trunk as write_plain

from atoll.config import Settings
from atoll.encoders.embedder import Embedder, EmbedOptions
from atoll.models.detect import read_model

_WITHOUT_SEGMENTS = ("mpnet", "distilbert", "data2vec")


def write_trunk(variant: Variant, folder: Path) -> None:
    """With modules.json, and a tokenizer that says whether there are segments."""
    write_plain(variant, folder)
    names = ["input_ids", "token_type_ids", "attention_mask"]
    if variant.name in _WITHOUT_SEGMENTS:
        names.remove("token_type_ids")
    # Some of their positions begin late.
    update(folder / "tokenizer_config.json", model_input_names=names, model_max_length=68)
    write_modules(folder, TRUNK, MEAN, NORMALIZE)


@pytest.mark.parametrize("variant", TRUNKS, ids=lambda v: v.name)
def test_vectors_equal_sentence_transformers(variant: Variant, tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer

    write_trunk(variant, tmp_path)
    found = read_model(tmp_path)
    assert (found.task, found.runs_on, found.pooling) == ("embed", "native", "mean")
    assert (found.hidden_size, found.max_tokens) == (48, 68)
    model = SentenceTransformer(str(tmp_path), device="cpu", local_files_only=True)
    close(embed(tmp_path, normalize=True), model.encode(TEXTS, convert_to_tensor=True))


@pytest.mark.parametrize("scheme", ["int8", "int4"])
@pytest.mark.parametrize("variant", TRUNKS, ids=lambda v: v.name)
def test_quantized_weights_give_much_the_same(
    variant: Variant, scheme: str, tmp_path: Path
) -> None:
    write_trunk(variant, tmp_path)
    vectors, exact = embed(tmp_path, normalize=True, dtype=scheme), embed(tmp_path, normalize=True)
    if scheme == "int8":
        assert _similarity(vectors, exact) > 0.99
    else:
        # What rounding to 4 bits costs is the weights' own; which layers it meets, the machine's.
        found, plain = Embedder(tmp_path, Settings(dtype=scheme)), Embedder(tmp_path, Settings())
        take_over(plain.trunk, found.trunk, scheme, 0.15)
        rows = run(tmp_path, TEXTS, plain, EmbedOptions(True))
        assert _similarity(vectors, torch.stack([torch.from_numpy(r.vector) for r in rows])) > 0.99
    assert not torch.equal(vectors, exact)


def _similarity(found: torch.Tensor, expected: torch.Tensor) -> float:
    """The least of the rows'."""
    return float(torch.nn.functional.cosine_similarity(found, expected).min())
