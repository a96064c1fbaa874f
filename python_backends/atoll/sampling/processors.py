"""Changes to the logits that depend on the text so far, as sparse updates of the whole batch.

Every processor turns into flat indices ``row * vocab + token`` and one gather, one operation and
one scatter over all rows that use it: the cost follows the tokens touched, not the vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from atoll.engine.request import RequestState, SamplingOptions
from atoll.sampling.grammar import mask
from atoll.sampling.watermark import Watermark

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]


class Processors:
    """Applies what the options of each row ask for."""

    def __init__(self, watermark: Watermark) -> None:
        self._watermark = watermark

    def process(self, logits: Tensor, owners: Sequence[RequestState]) -> None:
        """Mutates logits (rows, vocab); ``owners`` is the sequence of each row."""
        changing = [(r, s) for r, s in enumerate(owners) if s.request.options.changes_logits]
        if changing:
            _bias(logits, changing)
            _penalize_repetition(logits, changing)
            _penalize_frequency(logits, changing)
            _ban(logits, changing, _repeated_ngrams)
            _ban(logits, changing, _early_ends)
        constrained = [(r, s.matcher) for r, s in enumerate(owners) if s.matcher is not None]
        if constrained:
            rows, matchers = zip(*constrained, strict=True)
            mask(logits, rows, matchers)
            _delay_ends(logits, [(r, s) for r, s in changing if s.matcher is not None])

    def watermark(self, scores: Tensor, owners: Sequence[RequestState]) -> None:
        """Mutates warped scores (rows, vocab) of the rows that are watermarked."""
        for row, sequence in enumerate(owners):
            if sequence.request.options.watermark:
                self._watermark.apply(scores[row], sequence.token_ids[-1])


Rows = Sequence[tuple[int, RequestState]]


def _bias(logits: Tensor, rows: Rows) -> None:
    """Adds logit_bias (transformers' sequence_bias for single tokens)."""
    indices, amounts = [], []
    for row, sequence in rows:
        for token, amount in sequence.request.options.logit_bias:
            indices.append(row * logits.shape[1] + token)
            amounts.append(amount)
    if indices:
        at = torch.tensor(indices, device=logits.device)
        logits.view(-1).index_add_(0, at, torch.tensor(amounts, device=logits.device))


def _penalize_repetition(logits: Tensor, rows: Rows) -> None:
    """Keskar et al. 2019: positive scores of tokens in prompt and output are divided."""
    picked = [(r, s) for r, s in rows if s.request.options.repetition_penalty != 1.0]
    if not picked:
        return
    at, sizes = _flat(logits, [(r, _unique(s.token_ids)) for r, s in picked])
    penalty = _spread([s.request.options.repetition_penalty for _, s in picked], sizes, logits)
    flat = logits.view(-1)
    scores = flat[at]
    flat[at] = torch.where(scores < 0, scores * penalty, scores / penalty)


def _penalize_frequency(logits: Tensor, rows: Rows) -> None:
    """OpenAI's: subtracts ``count * frequency_penalty + presence_penalty`` of generated tokens."""
    picked = []
    for row, s in rows:
        o = s.request.options
        if (o.frequency_penalty or o.presence_penalty) and s.num_output_tokens:
            output = np.array(s.token_ids[s.num_prompt_tokens :], np.int64)
            picked.append((row, o, *np.unique(output, return_counts=True)))
    if not picked:
        return
    at, _ = _flat(logits, [(row, ids) for row, _, ids, _ in picked])
    amounts = [
        (counts * o.frequency_penalty + o.presence_penalty).astype(np.float32)
        for _, o, _, counts in picked
    ]
    logits.view(-1)[at] -= torch.from_numpy(np.concatenate(amounts)).to(logits.device)


def _repeated_ngrams(sequence: RequestState) -> list[int]:
    """Tokens that would complete an n-gram that the text already holds."""
    size, ids = sequence.request.options.no_repeat_ngram_size, sequence.token_ids
    if size == 0 or len(ids) < size:
        return []
    tail = ids[len(ids) - size + 1 :]
    ends = range(size - 1, len(ids))
    return [ids[end] for end in ends if ids[end - size + 1 : end] == tail]


def _early_ends(sequence: RequestState) -> list[int]:
    """Ending tokens, as long as the answer is shorter than min_new_tokens.

    A grammar comes first: see ``_delay_ends``.
    """
    return _too_early(sequence) if sequence.matcher is None else []


def _delay_ends(logits: Tensor, rows: Rows) -> None:
    """The same where a grammar allows something else than the end."""
    for row, sequence in rows:
        ends = _too_early(sequence)
        if ends:
            at = torch.tensor(ends, device=logits.device)
            others = logits[row].index_fill(0, at, float("-inf"))
            can_go_on = others.amax() > float("-inf")
            logits[row] = torch.where(can_go_on, others, logits[row])


def _too_early(sequence: RequestState) -> list[int]:
    options: SamplingOptions = sequence.request.options
    is_long_enough = sequence.num_output_tokens >= options.min_new_tokens
    return [] if is_long_enough else sorted(options.ending_token_ids)


def _ban(logits: Tensor, rows: Rows, banned: Callable[[RequestState], list[int]]) -> None:
    indices = [row * logits.shape[1] + token for row, s in rows for token in banned(s)]
    if indices:
        logits.view(-1)[torch.tensor(indices, device=logits.device)] = float("-inf")


def _unique(ids: Sequence[int]) -> Ints:
    return np.unique(np.array(ids, np.int64))


def _flat(logits: Tensor, rows: Sequence[tuple[int, Ints]]) -> tuple[Tensor, list[int]]:
    """Flat indices of tokens by row, and how many each row has."""
    width = logits.shape[1]
    indices = np.concatenate([row * width + ids for row, ids in rows])
    return torch.from_numpy(indices).to(logits.device), [len(ids) for _, ids in rows]


def _spread(values: list[float], sizes: list[int], logits: Tensor) -> Tensor:
    """Each value, as often as its row has indices."""
    spread: Floats = np.repeat(np.array(values, np.float32), sizes)
    return torch.from_numpy(spread).to(logits.device)
