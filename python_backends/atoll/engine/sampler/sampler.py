"""One step's tokens from one step's logits.

Order, as transformers has it: logit bias, repetition penalty, frequency and presence penalties,
no-repeat n-grams, minimum length, grammar; then temperature, top-k, top-p, min-p, typical-p; then
the watermark. A batch in which everybody takes the most likely token skips all of it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from atoll.engine.request import SamplingOptions, Token
from atoll.engine.request import Sequence as TokenSequence
from atoll.engine.sampler.fused import draw_fused, is_fused
from atoll.engine.sampler.logprobs import describe
from atoll.engine.sampler.processors import Processors
from atoll.engine.sampler.random import uniform
from atoll.engine.sampler.selection import draw, most_likely
from atoll.engine.sampler.warpers import WarperParameters, shortlist, warp
from atoll.errors import AtollError, GenerationError, ValidationError

# What a sequence gets: one token, more where its draft was right, or why it cannot go on.
Sampled = list[Token] | AtollError


class Sampler:
    """Chooses tokens. Keeps nothing between steps but tables of the vocabulary's size."""

    def __init__(self, processors: Processors) -> None:
        self._processors = processors

    def sample(self, sequences: Sequence[TokenSequence], logits: Tensor) -> list[Sampled]:
        """What each sequence's text continues with.

        logits: (rows, vocab) float32, ``1 + len(draft)`` rows for each sequence; may be mutated.
        """
        owners = [s for s in sequences for _ in range(1 + len(s.draft))]
        if all(s.request.options.is_plain_greedy and s.matcher is None for s in sequences):
            ids, usable = most_likely(logits)
            tokens: list[Token | None] = [Token(i) for i in ids.tolist()]
        else:
            tokens, usable = self._general(sequences, owners, logits)
        return _verified(sequences, tokens, usable.tolist())

    def _general(
        self, sequences: Sequence[TokenSequence], owners: list[TokenSequence], logits: Tensor
    ) -> tuple[list[Token | None], Tensor]:
        """A token for each row, None where all are banned; and whether the row can be used."""
        options = [s.request.options for s in owners]
        usable = logits.amax(-1).isfinite()
        wanting = [i for i, o in enumerate(options) if o.logprobs]
        raw = logits[wanting] if wanting else None
        self._processors.process(logits, owners)
        banned = [False] * len(owners)
        if any(s.request.options.changes_logits or s.matcher is not None for s in owners):
            is_banned = logits.amax(-1) == float("-inf")
            logits.masked_fill_(is_banned.unsqueeze(1), 0.0)  # a choice that is not used
            banned = is_banned.tolist()
        ids = self._choose(logits, sequences, owners, options)
        tokens = [Token(i) for i in ids.tolist()]
        if raw is not None:
            tops = [options[i].top_logprobs for i in wanting]
            described = describe(raw, [tokens[i].id for i in wanting], tops)
            for i, token in zip(wanting, described, strict=True):
                tokens[i] = token
        left = [None if none else token for token, none in zip(tokens, banned, strict=True)]
        return left, usable

    def _choose(
        self,
        logits: Tensor,
        sequences: Sequence[TokenSequence],
        owners: list[TokenSequence],
        options: list[SamplingOptions],
    ) -> Tensor:
        """(rows,) int64."""
        sampling = [i for i, o in enumerate(options) if o.do_sample]
        scores = logits
        if sampling:
            points = _uniforms(sequences)
            uniforms = torch.tensor(
                [points[i] for i in sampling], dtype=torch.float64, device=logits.device
            )
            rows = scores[sampling] if len(sampling) < len(options) else scores
            drawn = self._draw(rows, [owners[i] for i in sampling], uniforms)
            if len(sampling) == len(options):
                return drawn
        greedy = [i for i, o in enumerate(options) if not o.do_sample]
        rest = scores[greedy] if sampling else scores
        self._processors.watermark(rest, [owners[i] for i in greedy])
        ids = torch.empty(len(options), dtype=torch.int64, device=logits.device)
        ids[greedy] = most_likely(rest)[0]
        if sampling:
            ids[sampling] = drawn
        return ids

    def _draw(self, rows: Tensor, owners: list[TokenSequence], uniforms: Tensor) -> Tensor:
        """(rows,) int64: in one kernel what it can draw, the rest by sorting."""
        options = [owner.request.options for owner in owners]
        fused = [i for i, o in enumerate(options) if is_fused(o, rows.device)]
        if not fused:
            return self._warp_and_draw(rows, owners, uniforms)
        if len(fused) == len(owners):
            return draw_fused(rows, options, uniforms)
        rest = [i for i, o in enumerate(options) if not is_fused(o, rows.device)]
        ids = torch.empty(len(owners), dtype=torch.int64, device=rows.device)
        ids[fused] = draw_fused(rows[fused], [options[i] for i in fused], uniforms[fused])
        ids[rest] = self._warp_and_draw(rows[rest], [owners[i] for i in rest], uniforms[rest])
        return ids

    def _warp_and_draw(self, rows: Tensor, owners: list[TokenSequence], uniforms: Tensor) -> Tensor:
        """(rows,) int64; the same token, whether by way of the few that top-k leaves or of all."""
        options = [owner.request.options for owner in owners]
        parameters = WarperParameters.of(options, rows.shape[-1], rows.device)
        is_marked = any(o.watermark for o in options)
        few = None if is_marked else shortlist(rows, parameters)
        if few is not None:
            scores, ids = few
            at = draw(warp(scores, parameters), uniforms)
            return ids.gather(-1, at.unsqueeze(-1)).squeeze(-1)
        rows = warp(rows, parameters)
        self._processors.watermark(rows, owners)
        return draw(rows, uniforms)


def _uniforms(sequences: Sequence[TokenSequence]) -> list[float]:
    """One number per row, from the seed and the row's place in the output."""
    return [
        uniform(s.request.options.seed, s.num_output_tokens + offset)
        for s in sequences
        for offset in range(1 + len(s.draft))
    ]


def _verified(
    sequences: Sequence[TokenSequence], tokens: list[Token | None], usable: list[bool]
) -> list[Sampled]:
    """Splits the rows by sequence; a token counts as long as the draft before it was right."""
    results: list[Sampled] = []
    start = 0
    for sequence in sequences:
        draft = sequence.draft
        rows = range(start, start + 1 + len(draft))
        start = rows.stop
        if not all(usable[i] for i in rows):
            results.append(GenerationError("the model's logits are not finite"))
            continue
        first = tokens[rows.start]
        if first is None:
            results.append(_nothing_left(sequence))
            continue
        accepted = [first]
        for guess, row in zip(draft, rows[1:], strict=True):
            token = tokens[row]
            if accepted[-1].id != guess or token is None:
                break
            accepted.append(token)
        results.append(accepted)
    return results


def _nothing_left(sequence: TokenSequence) -> ValidationError:
    """Why a text cannot go on where no token has a score."""
    if sequence.matcher is not None:
        return sequence.matcher.refusal()
    return ValidationError(
        f"the answer cannot go on after {sequence.num_output_tokens} tokens: options of the "
        "request, and tokens that the model's files ban, leave none"
    )
