"""Texts of a given length, the same on every machine, and how they are sent to be embedded."""

import random
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
# Texts -> unit vectors (texts, width).
Embed = Callable[[list[str]], Floats]
ROWS = 32

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
    """One text per length in words, from a seeded generator; a common word is about one token."""
    generator = random.Random(seed)
    return [" ".join(generator.choices(_WORDS, k=max(length, 1))) for length in lengths]


def mixed_lengths(count: int, shortest: int, longest: int, seed: int = 0) -> list[int]:
    """Log-uniform lengths, like those of real queries and passages."""
    generator = random.Random(seed)
    ratio = longest / shortest
    return [round(shortest * ratio ** generator.random()) for _ in range(count)]


def in_batches(embed: Embed) -> Embed:
    """Embeds texts by requests of ``ROWS``, eight at once."""

    def embed_all(documents: list[str]) -> Floats:
        batches = [documents[at : at + ROWS] for at in range(0, len(documents), ROWS)]
        if len(batches) == 1:
            return embed(documents)
        with ThreadPoolExecutor(min(8, len(batches))) as pool:
            return np.concatenate(list(pool.map(embed, batches)))

    return embed_all
