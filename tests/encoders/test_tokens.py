"""Token ids are those of tokenizer.json, for every tokenizer family, pairs and both cut sides."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

from atoll.errors import ValidationError
from atoll.text.text_encoder import Encoded, TextEncoder
from atoll.text.tokenizer import Tokenizer as Loaded

CORPUS = ["An atoll is a ring of coral around a lagoon.", "Récif, 环礁, 🏝 and 1234 fish"] * 20
TEXTS = [
    "An atoll",
    " leading space",
    "a",
    "环礁 🏝\u200d",
    "ring of coral " * 20,
    "  ",
    "Ünïcödé\n",
]
PAIRS = [(a, b) for a, b in zip(TEXTS, reversed(TEXTS), strict=True) if a.strip() and b.strip()]


def _word_piece() -> Tokenizer:
    core = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    core.normalizer = normalizers.BertNormalizer(lowercase=True)
    core.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    core.decoder = decoders.WordPiece()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    core.train_from_iterator(CORPUS, trainers.WordPieceTrainer(special_tokens=special))
    core.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return core


def _byte_level() -> Tokenizer:
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=special, initial_alphabet=alphabet)
    core.train_from_iterator(CORPUS, trainer)
    core.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    return core


def _unigram() -> Tokenizer:
    core = Tokenizer(models.Unigram())
    core.normalizer = normalizers.NFKC()
    core.pre_tokenizer = pre_tokenizers.Metaspace()
    core.decoder = decoders.Metaspace()
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    trainer = trainers.UnigramTrainer(vocab_size=120, special_tokens=special, unk_token="<unk>")
    core.train_from_iterator(CORPUS, trainer)
    core.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>",
        pair="<s> $A </s> </s> $B </s>",
        special_tokens=[("<s>", 0), ("</s>", 2)],
    )
    return core


FAMILIES: dict[str, Callable[[], Tokenizer]] = {
    "word-piece": _word_piece, "byte-level": _byte_level, "unigram": _unigram
}  # fmt: skip


@pytest.fixture(scope="module", params=FAMILIES)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Saved with padding and truncation on, as many checkpoints are: neither may show."""
    path: Path = tmp_path_factory.mktemp(request.param)
    core = FAMILIES[request.param]()
    core.enable_padding(length=64)
    core.enable_truncation(8)
    core.save(str(path / "tokenizer.json"))
    return path


def _oracle(folder: Path) -> Tokenizer:
    core: Tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    core.no_padding()
    core.no_truncation()
    return core


def _types(encoded: Encoded) -> list[int]:
    found = encoded.type_ids
    return [0] * len(encoded.ids) if found is None else found.tolist()


def _encoder(folder: Path, max_length: int) -> TextEncoder:
    return TextEncoder(Loaded.load(folder).core, max_length)


def test_texts_and_pairs(folder: Path) -> None:
    oracle, encoder = _oracle(folder), _encoder(folder, 512)
    found = encoder.encode(TEXTS, name="x", truncate=False)
    assert [e.ids.tolist() for e in found] == [oracle.encode(text).ids for text in TEXTS]
    pairs = encoder.encode(PAIRS, name="x", truncate=False)
    assert [e.ids.tolist() for e in pairs] == [oracle.encode(*pair).ids for pair in PAIRS]
    types = [oracle.encode(*pair).type_ids for pair in PAIRS]
    assert [_types(e) for e in pairs] == types


@pytest.mark.parametrize("direction", ["left", "right"])
@pytest.mark.parametrize("max_length", [5, 16])
def test_cuts_keep_special_tokens(folder: Path, direction: str, max_length: int) -> None:
    oracle, encoder = _oracle(folder), _encoder(folder, max_length)
    oracle.enable_truncation(max_length, direction=direction)
    found = encoder.encode(TEXTS, name="x", truncate=True, direction=direction)
    assert [e.ids.tolist() for e in found] == [oracle.encode(text).ids for text in TEXTS]
    pairs = encoder.encode(PAIRS, name="x", truncate=True, direction=direction)
    assert [e.ids.tolist() for e in pairs] == [oracle.encode(*pair).ids for pair in PAIRS]
    assert max(len(e.ids) for e in [*found, *pairs]) == max_length


@pytest.mark.parametrize("direction", ["left", "right"])
def test_pairs_of_all_lengths_are_cut_as_tokenizers_cuts_them(folder: Path, direction: str) -> None:
    pairs = [("a " * first, "ring " * second) for first in range(1, 14) for second in range(1, 14)]
    for max_length in (5, 6, 9, 12, 17):
        oracle, encoder = _oracle(folder), _encoder(folder, max_length)
        oracle.enable_truncation(max_length, direction=direction)
        found = encoder.encode(pairs, name="x", truncate=True, direction=direction)
        expected = [oracle.encode(*pair) for pair in pairs]
        assert [e.ids.tolist() for e in found] == [e.ids for e in expected]
        assert [_types(e) for e in found] == [e.type_ids for e in expected]


def test_long_pairs_take_no_longer_than_their_texts(folder: Path) -> None:
    """A query and a passage of 200 kB each took minutes to cut, until the model was restarted."""
    encoder = _encoder(folder, 64)
    long, started = "coral " * 30_000, time.process_time()
    encoder.encode([long, long], name="x", truncate=True)
    single = time.process_time() - started
    (found,) = encoder.encode([(long, long)], name="x", truncate=True)
    assert len(found.ids) == 64
    assert time.process_time() - started < 5 * single + 1


def test_too_long_is_named(folder: Path) -> None:
    with pytest.raises(ValidationError, match=r"x\[4\] has \d+ tokens; the model accepts 16"):
        _encoder(folder, 16).encode(TEXTS, name="x", truncate=False)


def test_tokens_that_the_model_lacks_are_named(folder: Path) -> None:
    """A tokenizer with more tokens than the model has vectors for: one of them failed the texts of
    all other requests in its pack, and on a GPU would have ended the process."""
    core, oracle = Loaded.load(folder).core, _oracle(folder)
    ids = [oracle.encode(text).ids for text in TEXTS]
    size = max(map(max, ids))
    wrong = next(i for i, row in enumerate(ids) if size in row)
    short, whole = TextEncoder(core, 512, None, size), TextEncoder(core, 512, None, 10_000)
    with pytest.raises(ValidationError, match=rf"x\[{wrong}\] has the token .* {size}; .* {size}$"):
        short.encode(TEXTS, name="x", truncate=False)
    fine = [text for text, row in zip(TEXTS, ids, strict=True) if max(row) < size]
    for encoder in (short, whole):
        found = encoder.encode(fine, name="x", truncate=True)
        assert [e.ids.tolist() for e in found] == [row for row in ids if max(row) < size]
