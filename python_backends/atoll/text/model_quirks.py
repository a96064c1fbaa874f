"""Special treatment of text or tokenizer for a few model families, which no JSON file describes.

Families are recognized by the tokens in their vocabularies, whatever a local copy is called.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

from tokenizers import AddedToken, Tokenizer

TextRule = Callable[[str], str]

# Galactica's tokenizer splits at this mark and removes it (Taylor et al. 2022, galai's source).
_SPLIT_MARK = "SPL1T-TH1S-Pl3A5E"
_SEQUENCE = re.compile(r"(\[START_(DNA|SMILES|I_SMILES|AMINO)])(.*?)(\[END_\2])")

# SantaCoder's repository leaves these out of its tokenizer; their ids follow the vocabulary's.
_SANTACODER_TOKENS = ("<|endoftext|>", "<fim-prefix>", "<fim-middle>", "<fim-suffix>", "<fim-pad>")


class MiddleTokens(NamedTuple):
    """The marks of a fill-in-the-middle prompt."""

    prefix: str
    suffix: str
    middle: str


_MIDDLE_TOKENS = (
    MiddleTokens("<fim_prefix>", "<fim_suffix>", "<fim_middle>"),  # StarCoder
    MiddleTokens("<fim-prefix>", "<fim-suffix>", "<fim-middle>"),  # SantaCoder
)


def complete(core: Tokenizer, architectures: Sequence[str] | None) -> None:
    """Adds the special tokens that SantaCoder's tokenizer lacks; mutates ``core``.

    architectures: config.json's.
    """
    is_santacoder = "GPT2LMHeadCustomModel" in (architectures or ())
    if is_santacoder and core.token_to_id("<fim-prefix>") is None:
        core.add_special_tokens([AddedToken(t, special=True) for t in _SANTACODER_TOKENS])


def text_rule(core: Tokenizer) -> TextRule | None:
    """The function applied to a text before it is tokenized; None: none."""
    is_galactica = core.token_to_id("[START_DNA]") is not None
    return split_sequences if is_galactica else None


def split_sequences(text: str) -> str:
    """Marks every character of DNA, SMILES and amino acid sequences as a token of its own."""

    def mark(match: re.Match[str]) -> str:
        start, _, sequence, end = match.groups()
        marked = "".join(_SPLIT_MARK + character for character in sequence)
        return f"{start}{marked}{_SPLIT_MARK}{end}"

    return _SEQUENCE.sub(mark, text)


def middle_tokens(core: Tokenizer) -> MiddleTokens | None:
    """The fill-in-the-middle marks of a code model, if its vocabulary has them."""
    for tokens in _MIDDLE_TOKENS:
        if all(core.token_to_id(token) is not None for token in tokens):
            return tokens
    return None


def fill_in_the_middle(core: Tokenizer, prefix: str, suffix: str) -> str | None:
    """The prompt that asks for the text between ``prefix`` and ``suffix``.

    None: the model was not trained for this.
    """
    tokens = middle_tokens(core)
    if tokens is None:
        return None
    return f"{tokens.prefix}{prefix}{tokens.suffix}{suffix}{tokens.middle}"
