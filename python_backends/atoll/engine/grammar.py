"""What the engine needs to know of a constraint on an answer."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt

from atoll.errors import ValidationError


class Matcher(Protocol):
    """The state of one answer in its grammar."""

    @property
    def is_done(self) -> bool:
        """True once no further token is allowed."""

    def advance(self, token_id: int) -> None:
        """Accepts the next token."""

    def fill(self, bitmask: npt.NDArray[np.int32], row: int) -> None:
        """Marks the allowed tokens in a row of the bitmask (rows, words)."""

    def refusal(self) -> ValidationError:
        """The error of an answer that has no allowed token."""


class Grammar(Protocol):
    """A constraint on an answer. vocab_size: of its matchers' bitmasks, in bits."""

    vocab_size: int

    def matcher(self) -> Matcher:
        """A new matcher, at the beginning of an answer."""
