"""The limits of requests, and of the work in one step."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class EngineLimits:
    """Limits of a loaded model, for serving and the scheduler; names as in ``config.Settings``.

    max_total_tokens: prompt and answer. max_answer_tokens: of an encoder-decoder, whose answers
        have positions of their own. decoder_start_token_id: what its decoder starts with.
        forced_bos_token_id: what its answers begin with, unless a request says something else.
    input_vocab_size: of an encoder-decoder's inputs, if answers have a vocabulary of their own.
    banned_tokens: ids that are never generated. bad_words: two or more ids, of which the last never
        follows the others. begin_suppress_tokens: what no answer begins with. forced_eos_token_id:
        what answers of full length end with. max_length: of an encoder-decoder, the tokens of an
        answer with what its decoder is given, where a request does not say how many.
    max_beams: of a beam search. search: options of one that requests have unless they say something
        else; empty: they are greedy. has_states: whether layers are recurrent.
    max_mixed_prefill_tokens: prompt tokens in a step with decoding requests, limited so that a long
        prompt does not stall running streams.
    priority_aging_s: see ``engine.waiting``. fair_scheduling: see ``engine.fair_schedule``.
    """

    max_input_tokens: int = sys.maxsize
    max_total_tokens: int = sys.maxsize
    max_answer_tokens: int = sys.maxsize
    vocab_size: int = sys.maxsize
    input_vocab_size: int | None = None
    decoder_start_token_id: int | None = None
    forced_bos_token_id: int | None = None
    banned_tokens: tuple[int, ...] = ()
    bad_words: tuple[tuple[int, ...], ...] = ()
    begin_suppress_tokens: tuple[int, ...] = ()
    forced_eos_token_id: int | None = None
    max_length: int | None = None
    max_beams: int = sys.maxsize
    search: Mapping[str, Any] = field(default_factory=dict)
    has_states: bool = False
    max_batch_size: int = 256
    max_batch_prefill_tokens: int = 2048
    max_mixed_prefill_tokens: int = 2048
    waiting_served_ratio: float = 0.0
    max_waiting_tokens: int = 20
    priority_aging_s: float = 30.0
    fair_scheduling: bool = True
