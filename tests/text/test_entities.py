"""Entities of token scores beside those of transformers, over strategies and tokenizers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, PreTrainedTokenizerFast, pipeline
from transformers.models.bert import BertForTokenClassification

from atoll.text.entities import STRATEGIES, EntityOptions, EntityReader
from atoll.text.text_encoder import TextEncoder

LABELS = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC", "MISC", "B-PER-ID", "I-PER-ID")
TEXTS = (
    "Zoë Müller lives in New York, not in Köln.",
    "naïve café 😀 x😀y",
    "東京 is Tokyo",
    "a  b\tc\n d",
    "",
    "unaffable Wolfgang, wolf-gang; (wolf) [SEP] gang",
    "ﬁne e\u0301te\u0301 İstanbul",
)
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def _finished(core: Tokenizer) -> Tokenizer:
    core.add_special_tokens(SPECIAL)
    core.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        special_tokens=[(t, core.token_to_id(t)) for t in ("[CLS]", "[SEP]")],
    )
    return core


def _word_piece() -> Tokenizer:
    """Words in lower case without accents; some letters are unknown."""
    letters = [chr(code) for code in range(33, 127)]
    words = ["wolf", "##gang", "un", "##aff", "##able", "new", "york", "##x", "東", "mull", "##er"]
    vocabulary = [*SPECIAL, *letters, *(f"##{c}" for c in letters if c.islower()), *words]
    core = Tokenizer(
        models.WordPiece({t: i for i, t in enumerate(dict.fromkeys(vocabulary))}, unk_token="[UNK]")
    )
    core.normalizer = normalizers.BertNormalizer()
    core.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    core.decoder = decoders.WordPiece()
    return _finished(core)


def _byte_level() -> Tokenizer:
    """Bytes with few merges, as RoBERTa's: several tokens have the same character."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("w", "o"), ("l", "f"), ("Ġ", "w"), ("Ġ", "N"), ("g", "a"), ("Y", "o")]
    vocabulary = [*SPECIAL, *alphabet, *("".join(pair) for pair in merges)]
    core = Tokenizer(models.BPE({t: i for i, t in enumerate(vocabulary)}, merges))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    return _finished(core)


def _unigram() -> Tokenizer:
    """Pieces with marks, as XLM-RoBERTa's."""
    pieces = [*SPECIAL, "▁", "▁wolf", "gang", "▁New", "▁York", "▁in", "af", "able", "K", "ö", "ln"]
    pieces += [chr(code) for code in range(33, 127)]
    scores = [(piece, -float(i)) for i, piece in enumerate(dict.fromkeys(pieces))]
    core = Tokenizer(models.Unigram(scores, unk_id=1))
    core.normalizer = normalizers.NFKC()
    core.pre_tokenizer = pre_tokenizers.Metaspace()
    core.decoder = decoders.Metaspace()
    return _finished(core)


def _whole_words() -> Tokenizer:
    core = Tokenizer(
        models.WordLevel({t: i for i, t in enumerate([*SPECIAL, "in", "New"])}, "[UNK]")
    )
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    return _finished(core)


@pytest.mark.parametrize("make", [_word_piece, _byte_level, _unigram, _whole_words])
def test_entities_are_those_of_transformers(make: Callable[[], Tokenizer]) -> None:
    """Over all strategies, with tags that begin anew, and with other labels that are left out."""
    core = make()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=make(), unk_token="[UNK]")
    config = BertConfig(
        hidden_size=4, num_hidden_layers=0, num_attention_heads=1, intermediate_size=4,
        vocab_size=8, id2label=dict(enumerate(LABELS)),
    )  # fmt: skip
    model = BertForTokenClassification(config)
    pipe: Any = pipeline("token-classification", model=model, tokenizer=tokenizer)
    reader, encoder = EntityReader(core, "[UNK]", LABELS), TextEncoder(core, 512)
    generator, num_entities = np.random.default_rng(5), 0
    for text in TEXTS:
        (encoded,) = encoder.encode([text], name="t", truncate=True, with_places=True)
        (prepared,) = pipe.preprocess(text, is_split_into_words=False)
        assert prepared["input_ids"][0].tolist() == encoded.ids.tolist()
        for _ in range(3):
            logits = generator.normal(size=(len(encoded.ids), len(LABELS))).astype(np.float32) * 3
            # Neighbours with the same label are rare otherwise.
            logits[1::2] += logits[::2][: len(logits[1::2])]
            scores = torch.from_numpy(logits).softmax(-1).numpy()
            for strategy in STRATEGIES:
                for ignored in (("O",), ("PER", "MISC", "I-LOC"), ()):
                    options = EntityOptions(strategy, ignored)
                    assert encoded.places is not None
                    ours = reader.entities(text, encoded.ids, encoded.places, scores, options)
                    theirs = pipe.postprocess(
                        [{**prepared, "logits": torch.from_numpy(logits)[None]}],
                        pipe._sanitize_parameters(aggregation_strategy=strategy)[2][
                            "aggregation_strategy"
                        ],
                        list(ignored),
                    )
                    num_entities += len(ours)
                    assert [
                        (e.label, e.start, e.end, e.word, e.index) for e in ours
                    ] == [
                        (e.get("entity", e.get("entity_group")), e["start"], e["end"], e["word"],
                         e.get("index", -1))
                        for e in theirs
                    ]  # fmt: skip
                    np.testing.assert_allclose(
                        [e.score for e in ours], [e["score"] for e in theirs], atol=1e-6
                    )
    assert num_entities > 500


@pytest.mark.parametrize("direction", ["left", "right"])
def test_places_in_a_text_that_is_cut(direction: str) -> None:
    """Only a piece of a long text is tokenized; its end does not begin at 0."""
    core = _word_piece()
    words = [f"{'wolf' if i % 3 else 'x'}{i}" for i in range(3000)]
    text = " ".join(words)
    encoder = TextEncoder(core, 12)
    (cut,) = encoder.encode([text], name="t", truncate=True, direction=direction, with_places=True)
    whole = core.encode(text)
    rows = range(1, 11) if direction == "right" else range(len(whole.ids) - 11, len(whole.ids) - 1)
    assert cut.places is not None
    assert cut.places.is_special.tolist() == [True, *[False] * 10, True]
    assert cut.places.offsets[1:-1].tolist() == [list(whole.offsets[row]) for row in rows]
