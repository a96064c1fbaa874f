"""Which tokens of texts that are too long are kept, without tokenizing all of a long text.

Only a piece of a text is tokenized: its first characters, or its last ones if it is cut on the
left. The tokens of the piece are those of the whole text up to a position that is ``settled``: a
word, as the tokenizer splits them, ends there, and enough of the piece follows that nothing beyond
its end could have moved the position. If a piece has no such position after the tokens to keep (a
text without words, or with hardly any tokens), a larger piece is used, and finally the whole text.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from tokenizers import Encoding, Tokenizer

# Characters of the first piece per token to keep, and their minimum.
CHARACTERS_PER_TOKEN, LEAST_CHARACTERS = 16, 2048
# Growth of the next piece.
GROWTH = 8
# Characters and words near the end of a piece that may differ from the whole text's.
_MARGIN, _MARGIN_WORDS = 64, 4
# Splitting by regular expressions restarts here, wherever it began.
_ANEW = re.compile(r"[^\W_]\W+[^\W_]")
_SOLID = re.compile(r"\S")
# sentencepiece's mark for a space.
_MARK = "▁"


class PieceRules(NamedTuple):
    """The properties of a tokenizer that decide where its pieces are settled.

    margin: characters near the end of a piece that may depend on what follows.
    is_local: whether single characters determine where words end, as in BERT's pre-tokenizer.
    has_words: whether nearby characters determine where words end. has_marks: whether a word begins
    at each mark instead, since no token of the vocabulary has one inside; neither merges nor a
    most likely segmentation then cross a mark.
    """

    margin: int
    is_local: bool
    has_words: bool
    has_marks: bool

    @classmethod
    def of(cls, core: Tokenizer) -> PieceRules:
        """The rules of a tokenizer, whose added tokens may cross the end of a piece."""
        added = core.get_added_tokens_decoder().values()
        longest = max((len(token.content) for token in added), default=0)
        splits = core.pre_tokenizer
        is_local = type(splits).__name__ == "BertPreTokenizer"
        # Words of a fixed length are counted from the start of the text.
        has_words = splits is not None and "FixedLength" not in repr(splits)
        has_marks = (splits is None or "split=False" in repr(splits)) and _is_marked(core)
        return cls(_MARGIN + 2 * longest, is_local, has_words, has_marks)

    def words(self, encoding: Encoding) -> Sequence[int | None]:
        """For each token, a number that changes where a word ends."""
        return _marked(encoding.tokens) if self.has_marks else encoding.word_ids


def _is_marked(core: Tokenizer) -> bool:
    """Whether sentencepiece's mark separates the model's words."""
    vocabulary = core.get_vocab(with_added_tokens=False)
    return _MARK in vocabulary and not any(_MARK in token.lstrip(_MARK) for token in vocabulary)


def _marked(tokens: Sequence[str]) -> list[int | None]:
    found: list[int | None] = []
    number, before = 0, ""
    for token in tokens:
        number += token.startswith(_MARK) and not before.endswith(_MARK)
        found.append(number)
        before = token
    return found


def piece(text: str, size: int, is_left: bool) -> str:
    """The part of a text that is tokenized first; ``is_left``: its end is kept."""
    return text[-size:] if is_left else text[:size]


def num_settled(
    encoding: Encoding, number: int, part: str, rules: PieceRules, is_left: bool
) -> int:
    """How many tokens of a piece, from the end that is kept, are those of the whole text.

    Args:
        number: which of the encoding's two texts the piece belongs to. part: the piece itself.
    """
    if not (rules.has_words or rules.has_marks):
        return 0
    rows = zip(encoding.sequence_ids, rules.words(encoding), encoding.offsets, strict=True)
    found = [(word, start, stop) for sequence, word, (start, stop) in rows if sequence == number]
    words = [word for word, _, _ in found]
    # Tokens at which a word begins; the first one of the piece may be half a word.
    begins = [at for at in range(1, len(words)) if words[at] != words[at - 1]]
    if is_left:
        for at in begins[_MARGIN_WORDS:]:
            start = found[at][1]
            seen = part[rules.margin : start]
            is_free = rules.is_local or rules.has_marks
            if start >= rules.margin and (_SOLID if is_free else _ANEW).search(seen):
                return len(found) - at
        return 0
    limit = len(part) - rules.margin
    for at in reversed(begins[: -_MARGIN_WORDS or None]):
        stop = found[at - 1][2]
        if stop <= limit and _SOLID.search(part[stop:limit]):
            return at
    return 0


def is_settled(settled: Sequence[int | None], counts: Sequence[int], room: int) -> bool:
    """Whether the pieces of one text or two are enough for the tokens to keep.

    Args:
        settled: ``num_settled`` of each text; None: all of the text was tokenized.
        counts: number of tokens of each piece. room: tokens of both texts to keep.
    """
    if any(number is not None and number < room for number in settled):
        return False
    half = room // 2
    if len(settled) < 2 or room % 2 == 0 or min(counts) <= half:
        return True
    # The longer of the two gets one more token, so it must be known which one it is.
    first, second = settled
    if first is None and second is None:
        return True
    if first is None:
        return second is not None and second > counts[0]
    return second is None and first > counts[1]


def kept(sequences: Sequence[int | None], max_length: int, is_left: bool) -> list[int]:
    """Positions of the tokens to keep when the longer of two texts is cut first.

    sequences: for each token the number of its text, None for special tokens around the texts; each
    text is contiguous. A text loses its first tokens if ``is_left``, otherwise its last ones.
    """
    counts = [sequences.count(number) for number in (0, 1)]
    room = max(0, max_length - sequences.count(None))
    # The shorter text gets up to half of the room, the longer one the rest.
    short = min(*counts, room // 2)
    sizes = [short, min(max(counts), room - short)]
    if counts[0] > counts[1]:
        sizes.reverse()
    places: list[int] = []
    at = 0
    for number, (count, size) in enumerate(zip(counts, sizes, strict=True)):
        start = sequences.index(number) if count else at
        first = start + count - size if is_left else start
        places += [*range(at, start), *range(first, first + size)]
        at = start + count
    return [*places, *range(at, len(sequences))]
