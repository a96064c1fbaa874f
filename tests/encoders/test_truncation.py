"""Long texts are tokenized by pieces, and keep exactly the tokens of the whole text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

from atoll.errors import EmptyInputError, ValidationError
from atoll.text import text_encoder as encoding_module
from atoll.text.text_encoder import TextEncoder

CORPUS = [
    "An atoll is a ring of coral around a lagoon, isn't it?", "Récif, 环礁, 🏝 and 1234567 fish",
    "aaaa bb 11111 22 ... --- a,b,c", "  two   spaces\n\nlines",
] * 10  # fmt: skip
SPECIAL = ["<s>", "</s>", "<unk>", "<mask>"]
# Digits three by three from the left, as in Llama 3 and Qwen.
THREES = r"(?i:'s|'t|'re)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"


def _framed(core: Tokenizer, trainer: Any) -> Tokenizer:
    core.train_from_iterator(CORPUS, trainer)
    core.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> $B:1 </s>:1",
        special_tokens=[("<s>", 0), ("</s>", 1)],
    )  # fmt: skip
    return core


def _bert() -> Tokenizer:
    core = Tokenizer(models.WordPiece(unk_token="<unk>"))
    core.normalizer = normalizers.BertNormalizer(lowercase=True)
    core.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return _framed(core, trainers.WordPieceTrainer(special_tokens=SPECIAL))


def _byte_level() -> Tokenizer:
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=420, special_tokens=SPECIAL, initial_alphabet=alphabet)
    return _framed(core, trainer)


def _threes() -> Tokenizer:
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(THREES), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=420, special_tokens=SPECIAL, initial_alphabet=alphabet)
    return _framed(core, trainer)


def _unigram() -> Tokenizer:
    core = Tokenizer(models.Unigram())
    core.normalizer = normalizers.Sequence(
        [normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")]
    )
    core.pre_tokenizer = pre_tokenizers.Metaspace()
    return _framed(
        core,
        trainers.UnigramTrainer(vocab_size=120, special_tokens=SPECIAL, unk_token="<unk>"),
    )


def _no_words() -> Tokenizer:
    core = Tokenizer(models.BPE(unk_token="<unk>"))
    core.normalizer = normalizers.Replace(" ", "▁")
    return _framed(core, trainers.BpeTrainer(vocab_size=150, special_tokens=SPECIAL))


def _marked(model: Any, trainer: Any) -> Tokenizer:
    """As sentencepiece's models are converted: nothing splits a text but the model."""
    core = Tokenizer(model)
    core.normalizer = normalizers.Sequence(
        [normalizers.NFKC(), normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    core.pre_tokenizer = pre_tokenizers.Metaspace()
    _framed(core, trainer)
    core.pre_tokenizer = None
    return core


def _marked_unigram() -> Tokenizer:
    trainer = trainers.UnigramTrainer(
        vocab_size=130, special_tokens=SPECIAL, unk_token="<unk>", initial_alphabet=["▁"]
    )
    return _marked(models.Unigram(), trainer)


def _marked_bpe() -> Tokenizer:
    trainer = trainers.BpeTrainer(vocab_size=170, special_tokens=SPECIAL, initial_alphabet=["▁"])
    return _marked(models.BPE(unk_token="<unk>", fuse_unk=True), trainer)


def _fixed_length() -> Tokenizer:
    core = Tokenizer(models.BPE(unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.FixedLength(length=5)
    return _framed(core, trainers.BpeTrainer(vocab_size=150, special_tokens=SPECIAL))


FAMILIES: dict[str, Callable[[], Tokenizer]] = {
    "bert": _bert, "byte-level": _byte_level, "threes": _threes, "unigram": _unigram,
    "no-words": _no_words, "fixed-length": _fixed_length, "marked-unigram": _marked_unigram,
    "marked-bpe": _marked_bpe,
}  # fmt: skip
WORDS = st.sampled_from(
    ["atoll", "a", "coral", "isn't", " ", "  ", "\n", "1", "1234567", "环", "礁", "🏝", "é",
     "e\u0301", ",", "...", "<mask>", "-", "lagoon", "\u0301", "Ünïcödé", "x" * 120]
)  # fmt: skip
SEPARATORS = st.sampled_from(["", " ", "  ", ", "])
TEXTS = st.one_of(
    st.builds(
        lambda words, separator, times: separator.join(words * times),
        st.lists(WORDS, min_size=1, max_size=12), SEPARATORS, st.integers(1, 60),
    ),
    # Runs, whose words a tokenizer may count from the start of the text.
    st.builds(
        lambda runs: "".join(word * times for word, times in runs),
        st.lists(st.tuples(WORDS, st.integers(1, 150)), min_size=1, max_size=4),
    ),
)  # fmt: skip


class Counting:
    """A tokenizer that counts the characters it is given."""

    def __init__(self, core: Tokenizer) -> None:
        self.core, self.num_characters = core, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.core, name)

    def encode_batch(self, texts: Sequence[Any], **options: Any) -> Any:
        self.num_characters += sum(len("".join(text)) for text in texts)
        return self.core.encode_batch(texts, **options)


@pytest.fixture(scope="module", params=FAMILIES)
def core(request: pytest.FixtureRequest) -> Tokenizer:
    """A tokenizer that does not cut."""
    return FAMILIES[request.param]()


def _expected(core: Tokenizer, texts: Sequence[str], max_length: int, direction: str) -> list[int]:
    """The whole texts' tokens, cut by the rule of ``tokenizers`` (utils/truncation.rs, 0.23)."""
    rows = [core.encode(text, add_special_tokens=False).ids for text in texts]
    room = max(0, max_length - 1 - len(rows))
    sizes = [len(row) for row in rows]
    if len(rows) == 1:
        sizes = [min(sizes[0], room)]
    elif sum(sizes) > room:
        is_swapped = sizes[0] > sizes[1]
        short = min(*sizes, room // 2)
        sizes = [short, min(max(sizes), room - short)]
        sizes = sizes[::-1] if is_swapped else sizes
    found = [0]
    for row, size in zip(rows, sizes, strict=True):
        found += [*(row[len(row) - size :] if direction == "left" else row[:size]), 1]
    return found


@pytest.fixture(scope="module", autouse=True)
def small_pieces() -> Any:
    """So that texts of a few hundred characters are long ones."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encoding_module, "LEAST_CHARACTERS", 200)
        patch.setattr(encoding_module, "CHARACTERS_PER_TOKEN", 8)
        patch.setattr(encoding_module, "GROWTH", 2)
        yield


QUICK = settings(
    max_examples=20, deadline=None, derandomize=True, database=None,
    suppress_health_check=list(HealthCheck),
)  # fmt: skip


@pytest.mark.parametrize("direction", ["left", "right"])
def test_a_cut_text_has_the_tokens_of_the_whole(core: Tokenizer, direction: str) -> None:
    @QUICK
    @given(TEXTS, st.sampled_from([3, 8, 17]))
    def check(text: str, max_length: int) -> None:
        (found,) = TextEncoder(core, max_length).encode(
            [text], name="x", truncate=True, direction=direction
        )
        assert found.ids.tolist() == _expected(core, [text], max_length, direction)

    check()


@pytest.mark.parametrize("direction", ["left", "right"])
def test_cut_pairs_have_the_tokens_of_whole_ones(core: Tokenizer, direction: str) -> None:
    """Also which of two long texts is longer, and gets the odd token, is as of the whole texts."""

    @QUICK
    @given(TEXTS, TEXTS, st.sampled_from([7, 8, 16, 17]))
    def check(first: str, second: str, max_length: int) -> None:
        (found,) = TextEncoder(core, max_length).encode(
            [(first, second)], name="x", truncate=True, direction=direction
        )
        assert found.ids.tolist() == _expected(core, [first, second], max_length, direction)

    check()


@pytest.mark.parametrize("direction", ["left", "right"])
@pytest.mark.parametrize(
    "family", ["bert", "byte-level", "threes", "unigram", "marked-unigram", "marked-bpe"]
)
@pytest.mark.parametrize("unit", ["word ", "ring, of coral. ", "1234567 ", "环礁 "])
def test_little_of_a_long_text_is_tokenized(family: str, unit: str, direction: str) -> None:
    """2 MB of text were tokenized whole, for seconds, to keep 256 tokens of them."""
    counting: Any = Counting(FAMILIES[family]())
    encoder = TextEncoder(counting, 16)
    text = unit * 20_000
    (found,) = encoder.encode([text], name="x", truncate=True, direction=direction)
    assert len(found.ids) == 16
    assert counting.num_characters <= 2000
    counting.num_characters = 0
    encoder.encode([("query", text)], name="x", truncate=True, direction=direction)
    assert counting.num_characters <= 2000
    # Where nothing may be cut, a text is refused by its length alone.
    counting.num_characters = 0
    with pytest.raises(ValidationError, match=rf"{len(text)} characters; .* at most 4000"):
        encoder.encode([text], name="x", truncate=False)
    assert counting.num_characters == 0


@pytest.mark.parametrize("direction", ["left", "right"])
@pytest.mark.parametrize("family", FAMILIES)
def test_endless_words_are_bounded(
    family: str, direction: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """5 MB without a blank were tokenized whole: half a minute on a thread, and 700 MB."""
    monkeypatch.setattr(encoding_module, "LEAST_LOOKED_THROUGH", 5_000)
    side = "last" if direction == "left" else "first"
    for texts in (["x" * 20_000], ["环礁" * 10_000], ["query", "x" * 20_000], [" " * 20_000]):
        counting: Any = Counting(FAMILIES[family]())
        text: Any = texts[0] if len(texts) == 1 else tuple(texts)
        try:
            (found,) = TextEncoder(counting, 16).encode(
                [text], name="x", truncate=True, direction=direction
            )
        except ValidationError as error:
            assert f"whose {side} 5000 do not tell which 16 tokens stay" in str(error)
        else:
            assert found.ids.tolist() == _expected(counting.core, texts, 16, direction)
        assert counting.num_characters <= 25_000


def test_the_limit_grows_with_the_model() -> None:
    encoder = TextEncoder(FAMILIES["byte-level"](), 500)
    with pytest.raises(ValidationError, match=r"x\[1\] has 200000 .* first 125000 .* 500 tokens"):
        encoder.encode(["a b", "x" * 200_000], name="x", truncate=True)
    (found,) = encoder.encode(["x" * 90_000], name="x", truncate=True)
    assert len(found.ids) == 500


def test_chinese_without_blanks_is_cut_where_every_character_is_a_word() -> None:
    for direction in ("left", "right"):
        counting: Any = Counting(_bert())
        TextEncoder(counting, 16).encode(
            ["环" * 50_000], name="x", truncate=True, direction=direction
        )
        assert counting.num_characters <= 2000


@pytest.mark.parametrize("truncate", [True, False])
def test_texts_without_tokens_are_refused(truncate: bool) -> None:
    """A text of blanks, in a tokenizer without special tokens, has no token: a model that pools the
    first one answered it with the vector of the text behind it."""
    core = _bert()
    core.post_processor = processors.TemplateProcessing(
        single="$A", pair="$A $B", special_tokens=[]
    )
    encoder = TextEncoder(core, 16)
    for texts in (["coral", " "], [("coral", "reef"), ("\n", "\t ")], ["reef", "\u200b" * 3000]):
        with pytest.raises(EmptyInputError, match=r"x\[1\] is .* no token"):
            encoder.encode(texts, name="x", truncate=truncate)
    (found,) = encoder.encode([(" ", "reef")], name="x", truncate=truncate)
    assert len(found.ids)
