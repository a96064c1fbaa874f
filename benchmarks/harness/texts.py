"""Texts of a wanted length, the same on every machine: common words from a seeded generator."""

import random
from collections.abc import Sequence

_TEXT = """
the of and to in a is that for it as was with be by on not he his but at are this have from or had
an they which one you were all her she there would their we him been has when who will no more if
out so what up said about other into than its time only could new them man some these then two first
may any like now my such make over our even most me state after also made many did must before back
see through way where get much go well your know should down work year because come people just say
each those take day good how long little own part harbour island lagoon coral tide current anchor
reef sail market river mountain science language
"""
_WORDS = _TEXT.split()


def texts(lengths: Sequence[int], seed: int = 0) -> list[str]:
    """One text per length, in words; common words, so that a word is about one token."""
    generator = random.Random(seed)
    return [" ".join(generator.choices(_WORDS, k=max(length, 1))) for length in lengths]


def mixed_lengths(count: int, shortest: int, longest: int, seed: int = 0) -> list[int]:
    """Log-uniform lengths, the shape of real query and passage traffic."""
    generator = random.Random(seed)
    ratio = longest / shortest
    return [round(shortest * ratio ** generator.random()) for _ in range(count)]
