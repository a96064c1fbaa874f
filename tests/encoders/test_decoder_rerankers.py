"""Decoders as rerankers: ids and scores of their authors' code and of sentence-transformers."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from devices import DEVICE
from lookalikes import LLAMA, QWEN3, folder_of
from sentence_transformers import CrossEncoder
from sentence_transformers.base.modules import Transformer
from sentence_transformers.cross_encoder.modules import LogitScore
from tiny.checkpoint import write
from tiny.rerankers import (
    CAUSAL,
    CHAT_TEMPLATE,
    SIZES,
    scored,
    write_reranker,
    write_tokenizer,
)
from tiny.tokenizer import write_tokenizer as write_characters

from atoll.config import Settings
from atoll.encoders.classifier import Classifier, Scored, ScoreOptions
from atoll.encoders.decoder_reranker import DecoderReranker
from atoll.encoders.packer import Item, batch_of, take
from atoll.errors import AtollError, ConfigError, UnsupportedModel, ValidationError
from atoll.layers import Linear
from atoll.models.detect import decide
from atoll.text.pair_encoder import with_prefixes
from atoll.text.text_encoder import Encoded
from atoll.text.tokenizer import Tokenizer

QUERY = "What is the capital of France?"
DOCUMENTS = ["Paris is the capital.", "", "A ring of coral, of sand. " * 3, "yes", "A ring of no"]


def load(folder: Path, **settings: Any) -> DecoderReranker:
    given = Settings(dtype="float32", device=str(DEVICE), task="rerank", **settings)
    return DecoderReranker(folder, given, Tokenizer.load(folder))


def encode(
    reranker: DecoderReranker, documents: Sequence[str] = DOCUMENTS, query: str = QUERY,
    truncate: bool = True, **options: Any,
) -> list[list[int]]:  # fmt: skip
    assert reranker.pairs is not None
    pairs = [(query, document) for document in documents]
    found = reranker.pairs.encode(pairs, name="text_input", truncate=truncate, **options)
    return [one.ids.tolist() for one in found]


def score(
    reranker: DecoderReranker, rows: Sequence[list[int]], is_shared: bool = False
) -> tuple[list[float], int]:
    """Logits of rows of ids in one pack, and how many tokens were computed for them."""
    encoded = [Encoded(np.array(row, np.int32), None) for row in rows]
    if is_shared:
        encoded = with_prefixes(encoded, [QUERY] * len(rows))
    items = [
        Item(one.ids, lambda result: None, options=ScoreOptions(), prefix=one.prefix)
        for one in encoded
    ]
    with torch.inference_mode():
        batch = batch_of(items, DEVICE)
        results: list[Any] = reranker(batch, items)
    assert all(isinstance(one, Scored) for one in results)
    logits = [float(one.logits[0]) for one in results]
    for one, logit in zip(results, logits, strict=True):
        assert one.scores[0] == pytest.approx(1 / (1 + np.exp(-logit)), abs=1e-6)
    return logits, len(batch.input_ids)


def assert_close(ours: Sequence[float], theirs: Sequence[float]) -> None:
    limit = 2e-5 * max(1.0, float(np.std(theirs)))
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=limit)


@pytest.mark.parametrize("name", CAUSAL)
def test_ids_and_scores_are_those_of_the_card(name: str, tmp_path: Path) -> None:
    """A query's tokens are computed once for all its documents, with the same scores."""
    folder = tmp_path / name
    reference = write_reranker(name, folder)
    reranker = load(folder)
    for instruction in (None, "Judge strictly"):
        rows = encode(reranker, instruction=instruction)
        assert rows == [reference.ids(QUERY, one, instruction) for one in DOCUMENTS]
        expected = [reference.score(row) for row in rows]
        whole, count = score(reranker, rows)
        shared, fewer = score(reranker, rows, is_shared=True)
        alone = [score(reranker, [row])[0][0] for row in rows]
        assert_close(whole, expected)
        assert_close(shared, whole)
        assert_close(alone, whole)
        beginning = next(i for i, some in enumerate(zip(*rows, strict=False)) if len({*some}) > 1)
        assert count == sum(map(len, rows))
        assert fewer == count - (len(rows) - 1) * min(beginning, min(map(len, rows)) - 1)


@pytest.mark.parametrize("name", CAUSAL)
def test_of_a_text_that_is_too_long_the_document_is_cut(name: str, tmp_path: Path) -> None:
    folder = tmp_path / name
    reference = write_reranker(name, folder)
    reranker = load(folder, max_input_tokens=220)
    long = [f"{word} " * 400 for word in ("coral", "Paris")] + ["atoll " * 9000, "reef " * 20]
    rows = encode(reranker, long)
    empty = reference.ids(QUERY, "", None)
    ends = [row for row in rows if len(row) == 220]
    assert len(ends) == 3 and rows[3] == reference.ids(QUERY, long[3], None)
    for row, document in zip(rows[:3], long, strict=False):
        whole = reference.ids(QUERY, document[:4000], None)
        num_after = next(i for i in range(1, 220) if row[-i] != empty[-i]) - 1
        assert num_after >= 4 and row == whole[: 220 - num_after] + empty[-num_after:]
    # The end of a document is kept if asked for.
    (left,) = encode(reranker, ["coral " * 400 + "Paris, Paris."], direction="left")
    assert len(left) == 220 and left != rows[0]
    assert Tokenizer.load(folder).decode(left).count("Paris") == 2
    with pytest.raises(ValidationError, match=r"text_input\[0\] has \d+ .*accepts 220 tokens"):
        encode(reranker, long, truncate=False)
    with pytest.raises(ValidationError, match=r"query has \d+ tokens with its prompt; the model"):
        encode(reranker, ["x"], query="What? " * 400)


def write_cross_encoder(folder: Path, false: str | None = "no", **options: Any) -> CrossEncoder:
    """A folder as sentence-transformers 6 saves it; options: of its prompts."""
    start = folder.parent / "start"
    write_reranker("Qwen3-Reranker-0.6B", start)
    (start / "chat_template.jinja").write_text(CHAT_TEMPLATE)
    trunk = Transformer(str(start), transformer_task="text-generation")
    ids = trunk.tokenizer.convert_tokens_to_ids
    head = LogitScore(ids("yes"), None if false is None else ids(false))
    CrossEncoder(modules=[trunk, head], device="cpu", **options).save_pretrained(str(folder))
    return CrossEncoder(str(folder), device="cpu")


@pytest.mark.parametrize("form", ["as published", "one word and a prompt"])
def test_folders_of_sentence_transformers(form: str, tmp_path: Path) -> None:
    """Ids with their chat template, cut or not, and scores by their LogitScore module."""
    options: dict[str, Any] = {}
    if form != "as published":
        options = {"false": None, "prompts": {"p": "Find cats"}, "default_prompt_name": "p"}
    theirs = write_cross_encoder(tmp_path / "saved", **options)
    ours = load(tmp_path / "saved")
    assert decide(tmp_path / "saved", Settings(model_id="x")).task == "rerank"
    prompt = theirs.prompts.get(theirs.default_prompt_name)
    for documents in (DOCUMENTS, ["coral reefs. " * 300, "Paris"]):
        pairs = [(QUERY, document) for document in documents]
        rows = encode(ours, documents)
        for row, pair in zip(rows, pairs, strict=True):
            assert row == theirs.preprocess([pair], prompt=prompt)["input_ids"][0].tolist()
        logits, _ = score(ours, rows, is_shared=True)
        assert_close(logits, theirs.predict(pairs, activation_fn=torch.nn.Identity()))
        np.testing.assert_allclose(1 / (1 + np.exp(-np.array(logits))), theirs.predict(pairs),
                                   atol=1e-5)  # fmt: skip
    asked = encode(ours, ["Paris"], instruction="Find dogs")
    expected = theirs.preprocess([(QUERY, "Paris")], prompt="Find dogs")["input_ids"]
    assert asked == expected.tolist()


@pytest.mark.parametrize("kind", ["qwen2", "qwen3", "llama", "mistral", "gemma"])
def test_heads_of_decoders_equal_transformers(kind: str, tmp_path: Path) -> None:
    folder = tmp_path / "Qwen3-Reranker-0.6B-seq-cls"
    folder.mkdir()
    model = write(scored(kind), folder).model.double()
    write_tokenizer(folder)
    reranker = load(folder)
    rows = encode(reranker)
    # Tokens that pad are passed over, as at the end of texts whose tokenizer adds such a token.
    rows += [rows[0] + [0], rows[0] + [0, 0]]
    with torch.inference_mode():
        expected = [float(model(torch.tensor([row])).logits[0, 0]) for row in rows]
    for some in (slice(None), slice(-2, None)):
        assert_close(score(reranker, rows[some], is_shared=True)[0], expected[some])
    assert_close(score(reranker, rows)[0], expected)


def test_several_labels_make_a_classifier(tmp_path: Path) -> None:
    model = write(scored("qwen3", num_labels=3), tmp_path).model.double()
    write_tokenizer(tmp_path)
    settings = Settings(dtype="float32", device=str(DEVICE))
    assert decide(tmp_path, settings).task == "classify"
    classifier, tokenizer = Classifier(tmp_path, settings), Tokenizer.load(tmp_path)
    rows = [tokenizer.encode(text) for text in ("Paris", "A ring of coral. " * 4)]
    rows += [[*rows[0], 0], [0, 0]]
    items = [Item(np.array(r, np.int32), lambda _: None, options=ScoreOptions()) for r in rows]
    with torch.inference_mode():
        found: list[Any] = classifier(batch_of(items, DEVICE), items)
        for row, one in zip(rows, found, strict=True):
            expected = model(torch.tensor([row])).logits[0]
            assert_close(one.logits, expected.numpy())
            np.testing.assert_allclose(one.scores, expected.softmax(-1), atol=1e-5)


def test_only_the_rows_of_scored_words_are_kept(tmp_path: Path) -> None:
    folder = tmp_path / "mxbai-rerank-base-v2"
    write_reranker(folder.name, folder)
    heads = [m for m in load(folder).trunk.modules() if isinstance(m, Linear)][-1:]
    assert [head.weight.shape[0] for head in heads] == [SIZES["vocab_size"]]  # on the meta device
    assert heads[0].packed is not None
    assert sum(t.numel() for t in heads[0].packed.tensors) <= 16 * SIZES["hidden_size"]


def test_packs_count_a_shared_beginning_once() -> None:
    """And stop before the keys of its texts, which are not shared in memory, are too many."""
    prefix = np.arange(10, dtype=np.int32)
    items = [Item(np.arange(12, dtype=np.int32), lambda r: None, prefix=prefix) for _ in range(9)]
    assert len(take(deque(items), 20, None)) == 5
    assert len(take(deque(items), 12, None)) == 1
    long = np.arange(100, dtype=np.int32)
    many = [Item(np.arange(101, dtype=np.int32), lambda r: None, prefix=long) for _ in range(9)]
    assert len(take(deque(many), 200, None)) == 7


@pytest.mark.parametrize(("config", "files", "settings", "message"), [
    (QWEN3, {}, {"task": "rerank"}, "no roles query and document; set reranker_template to one"),
    (QWEN3, {}, {"task": "rerank", "reranker_template": "x"}, "reranker_template is 'x'; known"),
    (QWEN3, {}, {"task": "rerank", "reranker_template": "pair"}, "does not say which words"),
    ({**LLAMA, "architectures": ["EagleLlamaForSequenceClassification"]}, {}, {},
     "none of the family's classes"),
    (LLAMA, {}, {"task": "classify"}, "LlamaForCausalLM is not supported for task 'classify'"),
    ({**LLAMA, "architectures": ["LlamaForSequenceClassification"], "num_labels": 1}, {}, {},
     "a decoder is to rerank, and no file says how"),
])  # fmt: skip
def test_what_is_not_known_is_refused_with_a_hint(
    config: dict[str, Any], files: dict[str, Any], settings: dict[str, Any], message: str,
    tmp_path: Path,
) -> None:  # fmt: skip
    folder = folder_of(tmp_path, config, files)
    with pytest.raises((ConfigError, UnsupportedModel), match=message):
        decide(folder, Settings(model_id="x", **settings))


@pytest.mark.parametrize(("file", "keys", "message"), [
    ("1_LogitScore/config.json", {"true_token_id": 9999}, "true_token_id is 9999"),
    ("1_LogitScore/config.json", {"false_token_id": "no"}, 'false_token_id is "no"'),
    ("1_LogitScore/config.json", {"module_input_name": "x"}, 'module_input_name is "x"'),
    ("sentence_bert_config.json", {"transformer_task": "fill-mask"}, "task 'fill-mask'"),
    ("sentence_bert_config.json", {"processing_kwargs": {"chat_template": {"max_length": 9}}},
     "chat_template: max_length 9 is not supported"),
    ("sentence_bert_config.json", {"processing_kwargs": {"chat_template": {"chat_template": "s"}}},
     'chat_template is "s"; expected one of default'),
])  # fmt: skip
def test_damaged_files_are_refused_by_name(
    file: str, keys: dict[str, Any], message: str, tmp_path: Path
) -> None:
    folder = tmp_path / "saved"
    folder.mkdir()
    write(CAUSAL["Qwen3-Reranker-0.6B"], folder)
    write_tokenizer(folder, CHAT_TEMPLATE)
    kinds = {"": "base.modules.transformer.Transformer",
             "1_LogitScore": "cross_encoder.modules.logit_score.LogitScore"}  # fmt: skip
    found: dict[str, Any] = {
        "modules.json": [
            {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.{kind}"}
            for i, (path, kind) in enumerate(kinds.items())
        ],
        "1_LogitScore/config.json": {"true_token_id": 5, "false_token_id": 6},
        "sentence_bert_config.json": {"transformer_task": "text-generation"},
    }
    found[file] |= keys
    for name, content in found.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(json.dumps(content))
    with pytest.raises(AtollError, match=message):
        load(folder)


def test_words_that_the_tokenizer_lacks_are_named(tmp_path: Path) -> None:
    folder = tmp_path / "bge-reranker-v2-gemma"
    write_reranker(folder.name, folder)
    write_characters(folder)
    with pytest.raises(ConfigError, match="the word 'Yes' is asked for"):
        load(folder)
