"""Tokenizers of encoders inside GGUF files: BERT's words in parts, and SentencePiece's unigrams.

transformers' table has no builder of the first, and that of the second leaves the normalization of
texts out. Both are built as the hub's tokenizer.json of the same model has them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
)

_PREFIX = "tokenizer.ggml."
_UNKNOWN, _CONTROL = 2, 3
_START, _PART = "\u2581", "##"
# What llama.cpp has them for where a file does not say it.
_DEFAULTS = {"bert": {"cls": 101, "sep": 102, "unknown": 100}}
# Keys of tokenizer_config.json -> ids.
ENCODER_NAMES = {
    "cls_token": "cls_token_id", "sep_token": "seperator_token_id", "mask_token": "mask_token_id",
}  # fmt: skip
# T5 writes blanks as <extra_id_0> and on, which files call [PAD32000] and on.
_BLANK, _BLANKS = "<extra_id_", 100


def encoder_template(metadata: Mapping[str, Any]) -> Any:
    """The special tokens around a text of an encoder, and around a pair.

    BERT's: ``[CLS] a [SEP] b [SEP]``, with a segment each; RoBERTa's and XLM-RoBERTa's ``<s> a </s>
    </s> b </s>``.
    """
    tokens, kind = metadata[f"{_PREFIX}tokens"], metadata[f"{_PREFIX}model"]
    default = _DEFAULTS.get(kind, {})
    first = _id(metadata, ("cls_token_id", "bos_token_id"), default.get("cls"))
    last = _id(metadata, ("seperator_token_id", "eos_token_id"), default.get("sep"))
    start, end = tokens[first], tokens[last]
    is_doubled = start == "<s>"
    segment = "" if is_doubled else ":1"
    between = [end, end] if is_doubled else [end]
    return processors.TemplateProcessing(
        single=[start, "$A", end],
        pair=[start, "$A", *between, f"$B{segment}", f"{end}{segment}"],
        special_tokens=[(start, first), (end, last)],
    )


def _id(metadata: Mapping[str, Any], names: Sequence[str], default: int | None) -> int:
    """Raises KeyError: no key says it."""
    for name in names:
        if f"{_PREFIX}{name}" in metadata:
            return int(metadata[f"{_PREFIX}{name}"])
    if default is None:
        raise KeyError(_PREFIX + names[0])
    return default


def word_pieces(metadata: Mapping[str, Any]) -> Tokenizer:
    """BERT's: words of the file begin with a mark, parts of words have none.

    Texts get small letters, unless the vocabulary has words with capitals.
    """
    tokens = metadata[f"{_PREFIX}tokens"]
    kinds = metadata.get(f"{_PREFIX}token_type") or [1] * len(tokens)
    is_special = [kind in (_UNKNOWN, _CONTROL) for kind in kinds]
    texts = [
        token if special else token.removeprefix(_START) if token.startswith(_START)
        else f"{_PART}{token}"
        for token, special in zip(tokens, is_special, strict=True)
    ]  # fmt: skip
    words = (t for t, special in zip(texts, is_special, strict=True) if not special)
    is_cased = any(word != word.lower() and "[" not in word for word in words)
    unknown = texts[_id(metadata, ("unknown_token_id",), _DEFAULTS["bert"]["unknown"])]
    vocabulary = {text: i for i, text in enumerate(texts)}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token=unknown))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=not is_cased)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    return _with_special(tokenizer, [t for t, s in zip(texts, is_special, strict=True) if s])


def unigrams(metadata: Mapping[str, Any]) -> Tokenizer:
    """SentencePiece's unigrams, with the normalization that the file has."""
    tokens = _named_blanks(metadata[f"{_PREFIX}tokens"])
    kinds = metadata.get(f"{_PREFIX}token_type") or [1] * len(tokens)
    first = kinds.index(_UNKNOWN) if _UNKNOWN in kinds else 0
    unknown = _id(metadata, ("unknown_token_id",), first)
    scored = list(zip(tokens, map(float, metadata[f"{_PREFIX}scores"]), strict=True))
    tokenizer = Tokenizer(models.Unigram(scored, unk_id=unknown, byte_fallback=False))
    steps: list[Any] = []
    if charsmap := metadata.get(f"{_PREFIX}precompiled_charsmap"):
        steps.append(normalizers.Precompiled(bytes(int(b) & 255 for b in charsmap)))
    if metadata.get(f"{_PREFIX}remove_extra_whitespaces", False):
        steps.append(normalizers.Replace(Regex(r"\A +| +\z"), ""))
        steps.append(normalizers.Replace(Regex(" {2,}"), " "))
    has_prefix = metadata.get(f"{_PREFIX}add_space_prefix", True)
    if has_prefix:
        steps.append(normalizers.Prepend(_START))
    tokenizer.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", _START)])
    parts: list[Any] = [decoders.Replace(_START, " "), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence(
        [*parts, decoders.Strip(" ", left=1)] if has_prefix else parts
    )
    special = [
        token for token, kind in zip(tokens, kinds, strict=True)
        if kind in (_UNKNOWN, _CONTROL) or token.startswith(_BLANK)
    ]  # fmt: skip
    return _with_special(tokenizer, special)


def _named_blanks(tokens: Sequence[str]) -> list[str]:
    """T5's blanks by the names that its prompts have; other vocabularies have none."""
    found = list(tokens)
    blanks = [i for i, token in enumerate(found) if token == f"[PAD{i}]"][:_BLANKS]
    if "<s>" in found:
        return found
    for offset, index in enumerate(blanks):
        found[index] = f"{_BLANK}{_BLANKS - 1 - offset}>"
    return found


def _with_special(tokenizer: Tokenizer, special: Sequence[str]) -> Tokenizer:
    tokenizer.add_special_tokens([AddedToken(t, normalized=False, special=True) for t in special])
    return tokenizer


BUILDERS: Mapping[str, Callable[[Mapping[str, Any]], Tokenizer]] = {
    "bert": word_pieces, "t5": unigrams,
}  # fmt: skip
