"""Tokenizers of GGUF files against those that the files were made from."""

import json
from typing import Any

import pytest
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from atoll.errors import UnsupportedModel, WeightError
from atoll.weights.gguf.tokenizer import build_tokenizer, end_ids, tokenizer_config

TEXTS = [
    "", " ", "Hello, world!", "  two spaces in front and one behind ",
    "1234567890, 3.14, 2024-01-31",
    "tabs\tand\nnewlines\r\n\n\n    indented = True  # code", "don't won't I'll we've HE'D it'S",
    "😀👩‍👩‍👧‍👦🏳️‍🌈 中文字符, にほんご, العربية, हिन्दी", "naïve café Ångström ﬁ ½ №", "x" * 70,
    "<|im_start|>user\nWhat?<|im_end|>\n<|im_start|>assistant\n", "a<tool>b <tool> c",
]  # fmt: skip
WORDS = ("the quick brown fox jumps over the lazy dog " * 3, "Hello world 12 123 1234 ")
CORPUS = [*TEXTS, *WORDS] * 4
CONTROL, TOOL = ["<|im_start|>", "<|im_end|>"], "<tool>"
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")


def _split(pattern: str) -> Any:
    words = pre_tokenizers.Split(Regex(pattern), "isolated")
    rest = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return pre_tokenizers.Sequence([words, rest])


def _digits() -> Any:
    words = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), words])


SPLITS = {
    "gpt-2": pre_tokenizers.ByteLevel(add_prefix_space=False),
    "llama-bpe": _split(LLAMA3), "qwen2": _split(QWEN2), "glm4": _split(LLAMA3),
    "smollm": _digits(), "command-r": _digits(),
}  # fmt: skip


def _trained(split: Any) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer, tokenizer.decoder = split, decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=600, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.add_special_tokens([AddedToken(t, normalized=False) for t in CONTROL])
    tokenizer.add_tokens([AddedToken(TOOL, normalized=False)])
    return tokenizer


def _metadata(tokenizer: Tokenizer, kind: str, **more: Any) -> dict[str, Any]:
    vocab = tokenizer.get_vocab()
    tokens = sorted(vocab, key=lambda token: vocab[token])
    model: Any = json.loads(tokenizer.to_str())["model"]
    types = {**dict.fromkeys(CONTROL, 3), TOOL: 4, "<unk>": 2, "<s>": 3, "</s>": 3}
    return {
        "tokenizer.ggml.model": kind, "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [types.get(token, 1) for token in tokens],
        "tokenizer.ggml.merges": [" ".join(merge) for merge in model["merges"]],
        **{f"tokenizer.ggml.{name}": value for name, value in more.items()},
    }  # fmt: skip


@pytest.mark.parametrize("split", SPLITS)
def test_byte_level(split: str) -> None:
    original = _trained(SPLITS[split])
    metadata = _metadata(original, "gpt2", pre=split, add_bos_token=False)
    found = build_tokenizer(metadata, "llama", "x.gguf")
    for text in TEXTS:
        ids = original.encode(text).ids
        assert found.encode(text).ids == ids, text
        assert found.decode(ids, skip_special_tokens=False) == text


def _words(split: str, text: str) -> list[str]:
    metadata = _metadata(_trained(SPLITS["gpt-2"]), "gpt2", pre=split)
    found = build_tokenizer(metadata, "deepseek2", "x.gguf")
    return [text[start:end] for _, (start, end) in found.pre_tokenizer.pre_tokenize_str(text)]


@pytest.mark.parametrize(
    ("split", "words"),
    [
        # Its class of punctuation has letters, too, which divides words once more.
        ("deepseek-llm", ["Hello", ",", " w", "ö", "rld", "世界", " ", "123", "\n"]),
        # Ideographs are apart from other letters, whose class is an intersection.
        (
            "kimi-k2",
            ["Hello", "世界", "かなIt's", " ABCdef", " ", "123", "45", "!!\n\n", " ", " x"],
        ),
        ("deepseek-coder", ["Hello", ",", " wörld", "世界", " ", "1", "2", "\n"]),
    ],
)
def test_words(split: str, words: list[str]) -> None:
    assert _words(split, "".join(words)) == words


@pytest.mark.parametrize(("split", "is_whole"), [("midm-2.0", True), ("qwen2", False)])
def test_splits_whose_words_are_not_merged(split: str, is_whole: bool) -> None:
    metadata = _metadata(_trained(SPLITS["llama-bpe"]), "gpt2", pre=split, bos_token_id=0)
    found = build_tokenizer(metadata, "llama", "x.gguf")
    assert json.loads(found.to_str())["model"]["ignore_merges"] is is_whole
    assert (found.encode("Hello").ids[0] == 0) is is_whole


def test_sentencepiece() -> None:
    """A vocabulary with scores in place of merges, and bytes for what it lacks."""
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256))]
    words = Tokenizer(models.BPE())
    words.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.BpeTrainer(vocab_size=400, show_progress=False)
    words.train_from_iterator(CORPUS[:4] * 3, trainer)
    vocab = words.get_vocab()
    pieces += sorted(vocab, key=lambda token: vocab[token])
    pieces = list(dict.fromkeys([*pieces, *CONTROL, TOOL]))
    types = {"<unk>": 2, "<s>": 3, "</s>": 3, **dict.fromkeys(CONTROL, 3), TOOL: 4}
    kinds = [6 if piece.startswith("<0x") else types.get(piece, 1) for piece in pieces]
    metadata = {
        "tokenizer.ggml.model": "llama", "tokenizer.ggml.tokens": pieces,
        "tokenizer.ggml.scores": [float(-i) for i in range(len(pieces))],
        "tokenizer.ggml.token_type": kinds, "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2, "tokenizer.ggml.unknown_token_id": 0,
    }  # fmt: skip
    from transformers import LlamaTokenizer
    from transformers.tokenization_utils_base import generate_merges

    ids = {piece: i for i, piece in enumerate(pieces)}
    merges = generate_merges(ids, {piece: float(-i) for i, piece in enumerate(pieces)})
    original = LlamaTokenizer(vocab=ids, merges=merges, add_bos_token=True)
    special = [AddedToken(token, normalized=False) for token in CONTROL]
    original.add_special_tokens({"additional_special_tokens": special})
    original.add_tokens([AddedToken(TOOL, normalized=False)])
    found = build_tokenizer(metadata, "llama", "x.gguf")
    bare = build_tokenizer({**metadata, "tokenizer.ggml.add_space_prefix": False,
                            "tokenizer.ggml.add_bos_token": False}, "llama", "x.gguf")  # fmt: skip
    for text in TEXTS:
        wanted = original(text)["input_ids"]
        assert found.encode(text).ids == wanted, text
        assert bare.decode(bare.encode(text).ids, skip_special_tokens=False) == text
    assert found.encode("x").ids[0] == 1 and bare.encode("x").ids[0] != 1


def test_templates_and_ends() -> None:
    original = _trained(SPLITS["gpt-2"])
    end = original.token_to_id("<|im_end|>")
    metadata = _metadata(original, "gpt2", pre="gpt-2", eos_token_id=3, eot_token_id=4)
    metadata |= {"tokenizer.chat_template": "A", "tokenizer.chat_template.tool_use": "B"}
    config = tokenizer_config(metadata, 64)
    assert config["chat_template"] == [
        {"name": "default", "template": "A"}, {"name": "tool_use", "template": "B"},
    ]  # fmt: skip
    assert config["eos_token"] == metadata["tokenizer.ggml.tokens"][3]
    assert end_ids(metadata) == [3, 4, end]


@pytest.mark.parametrize(
    ("change", "error", "named"),
    [
        ({"model": "rwkv"}, UnsupportedModel, "tokenizer 'rwkv'"),
        ({"pre": "jais-9"}, UnsupportedModel, "pre-tokenizer 'jais-9'"),
        ({"merges": None}, WeightError, "'tokenizer.ggml.merges' is missing"),
        ({"scores": [1.0]}, WeightError, "scores' has 1 values"),
        ({"eos_token_id": 9999}, WeightError, "eos_token_id' is 9999"),
        ({"new_kind_of_token_id": 1}, UnsupportedModel, "new_kind_of_token_id"),
    ],
)
def test_what_is_refused(change: dict[str, Any], error: type[Exception], named: str) -> None:
    metadata = _metadata(_trained(SPLITS["gpt-2"]), "gpt2", pre="gpt-2")
    metadata |= {f"tokenizer.ggml.{name}": value for name, value in change.items()}
    metadata = {name: value for name, value in metadata.items() if value is not None}
    with pytest.raises(error, match=rf"x\.gguf: .*{named}"):
        build_tokenizer(metadata, "llama", "x.gguf")
