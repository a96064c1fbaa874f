"""Which tokens Whisper may write next: what an answer begins with, and times in order.

Source: transformers' ``WhisperTimeStampLogitsProcessor``, ``SuppressTokensLogitsProcessor`` and
``SuppressTokensAtBeginLogitsProcessor``. A language that is to be detected is an answer's first
token; the task and what follows it are then the only ones allowed. That a time is taken where times
together are likelier than any other token is for the sampler: ``SamplingOptions.first_time``.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from atoll.errors import ValidationError
from atoll.text.speech import SpeechTokens

Allowed = npt.NDArray[np.bool_]


class SpeechGrammar:
    """A constraint on answers; see ``engine.request.Grammar``. Immutable."""

    def __init__(self, tokens: SpeechTokens, task: str, *, detects: bool, has_times: bool) -> None:
        """detects: whether the answer begins with the language, which is not known."""
        self.vocab_size = tokens.vocab_size
        self._tokens = tokens
        # What each of the first steps allows.
        self._told: list[Sequence[int]] = []
        if detects:
            self._told = [tuple(tokens.languages.values()), (tokens.tasks[task],)]
            self._told += [] if has_times else [(tokens.no_times,)]
        self._has_times = has_times
        self._always = np.ones(tokens.vocab_size, bool)
        self._always[list(tokens.suppressed)] = False
        if has_times:
            self._always[tokens.no_times] = False

    @property
    def num_told(self) -> int:
        """Tokens of an answer that come before what it says."""
        return len(self._told)

    def matcher(self) -> SpeechMatcher:
        """See ``Grammar``."""
        return SpeechMatcher(self)

    def allowed(self, answer: Sequence[int]) -> Allowed:
        """(vocab_size,) what may follow."""
        if len(answer) < len(self._told):
            found = np.zeros(self.vocab_size, bool)
            found[list(self._told[len(answer)])] = True
            return found
        found, said = self._always.copy(), answer[len(self._told) :]
        if not said:
            found[list(self._tokens.suppressed_first)] = False
        if self._has_times:
            self._order_times(found, said)
        return found

    def _order_times(self, allowed: Allowed, said: Sequence[int]) -> None:
        """Times come in pairs, except before the end, and never go back; mutates ``allowed``."""
        first = self._tokens.first_time
        is_last = bool(said) and said[-1] >= first
        is_before = len(said) < 2 or said[-2] >= first
        if is_last and is_before:
            allowed[first:] = False
        elif is_last:
            allowed[: min(self._tokens.ends)] = False
        latest = next((token for token in reversed(said) if token >= first), None)
        if latest is not None:
            # A second time of a pair may be the same; later ones may not.
            allowed[first : latest if is_last and not is_before else latest + 1] = False
        if not said:
            allowed[:first] = False
            if self._tokens.max_first_time is not None:
                allowed[first + self._tokens.max_first_time + 1 :] = False


class SpeechMatcher:
    """One answer's state; see ``engine.request.Matcher``."""

    is_done = False

    def __init__(self, grammar: SpeechGrammar) -> None:
        self._grammar, self._answer = grammar, list[int]()

    def advance(self, token_id: int) -> None:
        """See ``Matcher``."""
        self._answer.append(token_id)

    def fill(self, bitmask: npt.NDArray[np.int32], row: int) -> None:
        """See ``Matcher``."""
        bits = np.packbits(self._grammar.allowed(self._answer), bitorder="little")
        words = np.zeros(bitmask.shape[1] * 4, np.uint8)
        words[: len(bits)] = bits
        bitmask[row] = words.view("<i4")

    def refusal(self) -> ValidationError:
        """See ``Matcher``."""
        return ValidationError("the model can write no token: its files suppress all that may come")
