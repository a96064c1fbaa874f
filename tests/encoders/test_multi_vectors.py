"""Late interaction against sentence-transformers' MultiVectorEncoder: every kind of folder."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny.encoders import JinaReference
from tiny.late import (
    BY_NAME,
    METADATA,
    PYLATE,
    WIDTH,
    encode,
    write_colbert,
    write_own,
    write_pylate,
    write_two_layers,
)
from tiny.sentence import NORMALIZE, TEXTS, update
from torch import Tensor

from atoll.catalogue import read_model
from atoll.config import Settings
from atoll.encoders.multi_vector_encoder import MultiVectorEncoder
from atoll.encoders.packer import batch_of
from atoll.errors import ConfigError, UnsupportedModel, ValidationError, WeightError
from atoll.text.tokenizer import Tokenizer

Write = Callable[[Path], None]
LONG = [*TEXTS, "a b, c! d" * 9, ""]


def reference(folder: Path) -> Any:
    from sentence_transformers import MultiVectorEncoder as Reference

    return Reference(str(folder), device="cpu", local_files_only=True)


FOLDERS: dict[str, Write] = {
    "ColBERT": write_colbert,
    "ColBERT that attends": partial(write_colbert, attend_to_mask_tokens=True),
    "ColBERT with punctuation": partial(write_colbert, mask_punctuation=False),
    "ColBERT by default": partial(
        write_colbert, width=128, **{**dict.fromkeys(METADATA), "doc_maxlen": 20}
    ),
    **{
        f"PyLate of {name}": partial(write_pylate, variant=BY_NAME[name])
        for name in ("xlm-roberta", "mpnet", "electra", "modernbert-wide")
    },
    "PyLate": write_pylate,
    "PyLate that attends": partial(write_pylate, attend_to_expansion_tokens=True),
    "PyLate without filling": partial(write_pylate, do_query_expansion=False),
    "PyLate without a skiplist": partial(write_pylate, skiplist_words=None),
    "PyLate with prompts": partial(write_pylate, prompts={"query": "find x", "document": "it"}),
    "PyLate whose prefix is text": partial(write_pylate, query_prefix="Q: ", document_prefix=""),
    "PyLate of two layers": write_two_layers,
    "sentence-transformers": write_own,
    "at least a length": partial(
        write_own, query_expansion={"strategy": "min", "length": 12}, query_length=20
    ),
    "filled with a word": partial(
        write_own, query_expansion={"strategy": "fixed", "length": 30, "token": "x"}
    ),
    "queries lose words too": partial(
        write_own, mask={"skiplist_tasks": ["query", "document"]}, document_length=9,
        query_length=12,
    ),
    "a mean": partial(write_own, own={"similarity_fn_name": "meanmaxsim"}),
}  # fmt: skip


@pytest.mark.parametrize("name", FOLDERS)
def test_vectors_and_scores_equal_sentence_transformers(name: str, tmp_path: Path) -> None:
    FOLDERS[name](tmp_path)
    model, encoder = reference(tmp_path), MultiVectorEncoder(tmp_path, Settings())
    found = read_model(tmp_path)
    assert (found.task, found.embedding_size) == ("multi_vector", encoder.dimensions)
    sides = []
    for side, theirs in (("query", model.encode_query), ("document", model.encode_document)):
        expected = [vectors.numpy() for vectors in theirs(LONG)]
        ours = encode(tmp_path, LONG, side, encoder)
        for mine, other in zip(ours, expected, strict=True):
            assert mine.shape == other.shape
            np.testing.assert_allclose(mine, other, atol=5e-6)
        sides.append((ours, expected))
    (queries, others), (documents, passages) = sides
    scores = [[encoder.score(query, document) for document in documents] for query in queries]
    expected = model.similarity(others, passages).numpy()
    np.testing.assert_allclose(scores, expected, atol=1e-5 * max(map(len, queries)))


@pytest.mark.parametrize("name", ["bert", "xlm-roberta", "mpnet", "modernbert-wide"])
def test_queries_are_packed_with_documents(name: str, tmp_path: Path) -> None:
    """What is not attended to in one text must not be missing in another."""
    write_pylate(tmp_path, BY_NAME[name])
    encoder = MultiVectorEncoder(tmp_path, Settings())
    alone = [
        *encode(tmp_path, TEXTS, "query", encoder),
        *encode(tmp_path, TEXTS, "document", encoder),
    ]
    items = [
        *encode(tmp_path, TEXTS, "query", encoder, as_items=True),
        *encode(tmp_path, TEXTS, "document", encoder, as_items=True),
    ]
    order = [7, 0, 4, 9, 1, 5, 2, 3, 8, 6]
    pack = [items[i] for i in order]
    with torch.inference_mode():
        packed: list[Any] = encoder(batch_of(pack, torch.device("cpu")), pack)
    for index, found in zip(order, packed, strict=True):
        np.testing.assert_allclose(found.vectors, alone[index], atol=2e-6)


def test_positions_of_what_is_not_attended_to(tmp_path: Path) -> None:
    """JinaBERT's biases by distance, against its description with the filling masked."""
    write_pylate(tmp_path)
    model = JinaReference(4)
    (tmp_path / "config.json").write_text(json.dumps(model.config))
    save_file(model.tensors, tmp_path / "model.safetensors")
    encoder = MultiVectorEncoder(tmp_path, Settings())
    items = encode(tmp_path, TEXTS, "query", encoder, as_items=True)
    items += encode(tmp_path, TEXTS, "document", encoder, as_items=True)
    with torch.inference_mode():
        found: list[Any] = encoder(batch_of(items, torch.device("cpu")), items)
    weight = load_file(tmp_path / "1_Dense" / "model.safetensors")["linear.weight"].double()
    for item, ours in zip(items, found, strict=True):
        hidden = model.hidden(item.ids.tolist(), num_attended=item.num_attended)
        expected: Tensor = torch.nn.functional.normalize(hidden @ weight.T, dim=-1)
        kept = item.options.kept
        expected = expected if kept is None else expected[torch.from_numpy(kept)]
        np.testing.assert_allclose(ours.vectors, expected.numpy(), atol=1e-5)


@pytest.mark.parametrize("name", ["bert", "mpnet", "modernbert-wide"])
def test_single_queries_are_replayed(name: str, tmp_path: Path) -> None:
    """A query alone, again and again: from a graph of its own for each number of its words."""
    write_pylate(tmp_path, BY_NAME[name])
    encoder = MultiVectorEncoder(tmp_path, Settings())
    texts = ["abc", "xyz", "abcd", "abc", "efg", "hij", "a b c d", "x"]
    alone = [encode(tmp_path, [text], "query", encoder)[0] for text in texts]
    encoder.hidden.graphs = None
    for text, found in zip(texts, alone, strict=True):
        (plain,) = encode(tmp_path, [text], "query", encoder)
        np.testing.assert_allclose(found, plain, atol=2e-6)


def test_the_marker_stays_when_the_end_is_kept(tmp_path: Path) -> None:
    write_colbert(tmp_path)
    encoder = MultiVectorEncoder(tmp_path, Settings())
    core = Tokenizer.load(tmp_path).core
    for side, marker in (("query", "[unused0]"), ("document", "[unused1]")):
        (item,) = encode(tmp_path, ["xyz" * 30], side, encoder, as_items=True, direction="left")
        assert len(item.ids) == (12 if side == "query" else 20)
        assert item.ids[:2].tolist() == [core.token_to_id(t) for t in ("[CLS]", marker)]
        assert item.ids[-2:].tolist() == [core.token_to_id(t) for t in ("z", "[SEP]")]


def test_too_long_a_text_is_told_its_length(tmp_path: Path) -> None:
    write_colbert(tmp_path)
    encoder = MultiVectorEncoder(tmp_path, Settings())
    with pytest.raises(ValidationError, match=r"has 23 tokens; the model accepts 20"):
        encode(tmp_path, ["x" * 20], "document", encoder, truncate=False)


REFUSED: dict[str, tuple[Write, type[Exception], str]] = {
    "another distance": (partial(write_colbert, similarity="l2"), UnsupportedModel,
                         "similarity 'l2' is not supported"),
    "another interaction": (partial(write_colbert, interaction="flipr"), UnsupportedModel,
                            "interaction 'flipr'"),
    "no number": (partial(write_colbert, doc_maxlen="180"), ConfigError, "doc_maxlen"),
    "another width": (partial(write_colbert, dim=8), WeightError, "linear"),
    "longer than the positions": (partial(write_colbert, query_maxlen=71), ConfigError,
                                  "queries have 71 tokens; the model accepts 70"),
    "special tokens alone": (partial(write_colbert, doc_maxlen=3), ConfigError,
                             "3 tokens, which are all special"),
    "images": (partial(write_own, mask={"keep_only_token_ids": [7]}), UnsupportedModel,
               r"keep_only_token_ids \[7\]"),
    "a key of the mask": (partial(write_own, mask={"other": 1}), UnsupportedModel, "other 1"),
    "a strategy": (partial(write_own, query_expansion={"strategy": "max", "length": 9}),
                   ConfigError, "strategy is \"max\""),
    "a key of the filling": (
        partial(write_own, query_expansion={"strategy": "min", "length": 9, "x": 1}),
        UnsupportedModel, r"query_expansion: \['x'\]"),
    "two lengths": (
        partial(write_own, query_expansion={"strategy": "min", "length": 9}, query_length=8),
        ConfigError, "query_length is 8"),
    "no such word": (
        partial(write_own, query_expansion={"strategy": "min", "length": 9, "token": "[X]"}),
        ConfigError, r"filled up with '\[X\]'"),
    "a length of calls": (
        partial(write_own, processing_kwargs={"text": {"max_length": 8}}), UnsupportedModel,
        "processing_kwargs.text: max_length 8"),
    "a narrow window": (
        partial(write_pylate, variant=BY_NAME["modernbert"]), UnsupportedModel,
        "with a window of 5 tokens, at most 5 are supported"),
    "one vector made unit": (partial(write_pylate, parts=[NORMALIZE]), UnsupportedModel,
                             "module_input_name None"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_served_is_refused_by_name(name: str, tmp_path: Path) -> None:
    write, kind, message = REFUSED[name]
    write(tmp_path)
    with pytest.raises(kind, match=message):
        encode(tmp_path, ["x"], "query", encoder := MultiVectorEncoder(tmp_path, Settings()))
        encode(tmp_path, ["x"], "document", encoder)


def test_every_key_of_pylates_file_matters(tmp_path: Path) -> None:
    """A key that was not read would leave the answer as it is."""
    write_pylate(tmp_path)
    before = MultiVectorEncoder(tmp_path, Settings())
    changes = {
        "query_prefix": "[unused1] ", "document_prefix": "[unused0] ", "query_length": 15,
        "document_length": 9, "attend_to_expansion_tokens": True, "do_query_expansion": False,
        "skiplist_words": ["a"],
    }  # fmt: skip
    assert changes.keys() == PYLATE.keys() - {"model_type", "prompts"}
    for key, value in changes.items():
        update(tmp_path / "config_sentence_transformers.json", **{**PYLATE, key: value})
        after = MultiVectorEncoder(tmp_path, Settings())
        assert after.late != before.late, key
    assert before.dimensions == WIDTH
