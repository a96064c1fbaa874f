"""Samples a step's tokens from its logits.

The order is that of transformers: logit bias, repetition penalty, frequency and presence penalties,
no-repeat n-grams, minimum length, grammar, a forced token; then temperature, top-k, top-p, min-p,
typical-p; then the watermark. A batch in which every row is greedy skips all of it.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

import atoll_kernels as kernels
from atoll.sampling.candidates import processed
from atoll.sampling.inputs import (
    Bools,
    Candidates,
    Floats,
    Ints,
    Sampled,
    SamplingInput,
    TokenLogprobs,
)
from atoll.sampling.logprobs import describe, picked, spread
from atoll.sampling.processors import process
from atoll.sampling.warpers import WarperParameters, shortlist, warp
from atoll.sampling.watermark import Watermark

# Scores per part in ``most_likely``.
_PART = 256
# SplitMix64's increment and multipliers.
_STEP, _FIRST, _SECOND = (
    np.uint64(x) for x in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
)


class Sampler:
    """Chooses tokens. Stateless, except for what it caches from the last step's input."""

    def __init__(self, watermark: Watermark) -> None:
        self._watermark = watermark
        self._columns: tuple[Bools | Floats | Ints | None, ...] = (None,) * 6
        self._warpers: WarperParameters | None = None

    def sample(self, logits: Tensor, given: SamplingInput) -> Sampled:
        """The next tokens. logits: (rows, vocab) float32; may be mutated."""
        if given.is_greedy:
            ids, usable = most_likely(logits)
            is_empty = np.zeros(len(logits), bool)
            return _verified(given, ids.cpu().numpy(), usable.cpu().numpy(), is_empty)
        usable = logits.amax(-1).isfinite()
        wanting = np.arange(0) if given.num_top is None else np.flatnonzero(given.num_top >= 0)
        raw = logits[torch.from_numpy(wanting).to(logits.device)] if len(wanting) else None
        beams: Candidates | None = None
        if given.beams is None:
            process(logits, given)
        else:
            beams = processed(logits, given, given.beams)
        is_empty = np.zeros(len(logits), bool)
        if given.may_remove_all:
            empty = logits.amax(-1) == float("-inf")
            logits.masked_fill_(empty.unsqueeze(1), 0.0)  # a choice that is not used
            is_empty = empty.cpu().numpy()
        token_ids: Ints = self._choose(logits, given).cpu().numpy()
        logprobs = None
        if raw is not None and given.num_top is not None:
            num_top = given.num_top[wanting]
            found = describe(raw, token_ids[wanting], num_top, int(num_top.max()))
            logprobs = spread(found, wanting, len(token_ids))
        return _verified(given, token_ids, usable.cpu().numpy(), is_empty, logprobs, beams)

    def _choose(self, logits: Tensor, given: SamplingInput) -> Tensor:
        """(rows,) int64."""
        if given.do_sample is None:
            self._mark(logits, given, np.arange(len(logits)))
            return most_likely(logits)[0]
        drawing = np.flatnonzero(given.do_sample)
        if len(drawing) == len(logits):
            return self._draw(logits, given, drawing)
        ids = torch.empty(len(logits), dtype=torch.int64, device=logits.device)
        for rows, choose in (
            (drawing, self._draw), (np.flatnonzero(~given.do_sample), self._most_likely),
        ):  # fmt: skip
            at = torch.from_numpy(rows).to(logits.device)
            ids[at] = choose(logits[at], given, rows)
        return ids

    def _most_likely(self, scores: Tensor, given: SamplingInput, rows: Ints) -> Tensor:
        self._mark(scores, given, rows)
        return most_likely(scores)[0]

    def _draw(self, scores: Tensor, given: SamplingInput, rows: Ints) -> Tensor:
        """(rows,) int64: rows that the fused kernel supports by it, the others by sorting.

        scores: of these rows only.
        """
        assert given.seeds is not None and given.positions is not None
        points = uniforms(given.seeds[rows], given.positions[rows])
        fused = is_fused(given, rows, scores.device)
        if not fused.any():
            return self._warp_and_draw(scores, given, rows, points)
        if fused.all():
            return draw_fused(scores, given, rows, points)
        ids = torch.empty(len(rows), dtype=torch.int64, device=scores.device)
        for kept, draw_rows in ((fused, draw_fused), (~fused, self._warp_and_draw)):
            at = torch.from_numpy(np.flatnonzero(kept)).to(scores.device)
            ids[at] = draw_rows(scores[at], given, rows[kept], points[kept])
        return ids

    def _warp_and_draw(
        self, scores: Tensor, given: SamplingInput, rows: Ints, points: Floats
    ) -> Tensor:
        """(rows,) int64; the same tokens, whether drawn from top-k's shortlist or from all."""
        parameters = self._parameters(given, rows, scores)
        is_marked = given.watermark is not None and bool((given.watermark[rows] >= 0).any())
        few = None if is_marked else shortlist(scores, parameters)
        at = torch.tensor(points, device=scores.device)
        if few is not None:
            best, ids = few
            return ids.gather(-1, draw(warp(best, parameters), at).unsqueeze(-1)).squeeze(-1)
        scores = warp(scores, parameters)
        self._mark(scores, given, rows)
        return draw(scores, at)

    def _parameters(self, given: SamplingInput, rows: Ints, scores: Tensor) -> WarperParameters:
        """Reuses those of the last step if the same requests draw."""
        columns = (
            given.do_sample, given.temperature, given.top_k, given.top_p, given.min_p,
            given.typical_p,
        )  # fmt: skip
        if any(a is not b for a, b in zip(columns, self._columns, strict=True)):
            vocab_size, device = scores.shape[-1], scores.device
            self._warpers = WarperParameters.of(given, rows, vocab_size, device)
            self._columns = columns
        assert self._warpers is not None
        return self._warpers

    def _mark(self, scores: Tensor, given: SamplingInput, rows: Ints) -> None:
        """Mutates scores of the rows that are watermarked."""
        if given.watermark is not None:
            for row, last_token in enumerate(given.watermark[rows].tolist()):
                if last_token >= 0:
                    self._watermark.apply(scores[row], last_token)


def is_fused(given: SamplingInput, rows: Ints, device: torch.device) -> Bools:
    """(rows,) whether the kernel draws it: on a GPU, if the kernel supports all of its options.

    Depends only on the row, so that a seed gives the same tokens in any batch.
    """
    kept = np.full(len(rows), device.type != "cpu")
    if given.min_p is not None:
        kept &= given.min_p[rows] <= 0
    if given.typical_p is not None:
        kept &= given.typical_p[rows] >= 1
    if given.watermark is not None:
        kept &= given.watermark[rows] < 0
    return kept


def draw_fused(scores: Tensor, given: SamplingInput, rows: Ints, points: Floats) -> Tensor:
    """(rows,) int64 for scores (rows, vocab) and points (rows,); with temperature, top-k and top-p
    only."""
    p = WarperParameters.of(given, rows, scores.shape[-1], scores.device)
    return kernels.sample(
        scores,
        scores.new_ones(len(rows)) if p.temperature is None else p.temperature.squeeze(1),
        None if p.top_k is None else p.top_k.squeeze(1).int(),
        None if p.top_p is None else p.top_p.squeeze(1),
        torch.tensor(points, device=scores.device),
    )


def uniforms(seeds: npt.NDArray[np.uint64], positions: Ints) -> Floats:
    """Numbers in (0, 1), both ends excluded: the 48 high bits of SplitMix64 (Steele et al. 2014).

    A counter-based generator needs no state: a token is the same whatever the batch, after
    preemption, and whether speculation guessed it or not. The seed is mixed before the position is
    added, so that neighbouring seeds give unrelated streams.
    """
    bits = _mix(_mix(seeds) + (positions.astype(np.uint64) + np.uint64(1)) * _STEP)
    found: Floats = ((bits >> np.uint64(16)) + 0.5) * 2.0**-48
    return found


def _mix(bits: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    bits = bits + _STEP
    bits = (bits ^ (bits >> np.uint64(30))) * _FIRST
    bits = (bits ^ (bits >> np.uint64(27))) * _SECOND
    return bits ^ (bits >> np.uint64(31))


def most_likely(scores: Tensor) -> tuple[Tensor, Tensor]:
    """(rows,) int64 ids, and (rows,) bool: whether the row is usable (no NaN, no infinity).

    Of equal scores, the first. A maximum propagates NaN, so that the check costs nothing extra.
    """
    vocab_size = scores.shape[-1]
    if scores.device.type != "cpu" or vocab_size <= _PART:
        best, ids = scores.max(-1)
        return ids, best.isfinite()
    # torch's CPU argmax is not vectorized, but its max is: the maximum of each part first, then the
    # argmax within one part. For 32 rows of 49,152: 0.1 ms instead of 0.65.
    whole = vocab_size // _PART * _PART
    parts = scores[:, :whole].unflatten(1, (-1, _PART)).amax(-1)
    if whole < vocab_size:
        parts = torch.cat([parts, scores[:, whole:].amax(-1, keepdim=True)], 1)
    best, part = parts.max(-1)
    places = (_PART * part).unsqueeze(1) + torch.arange(_PART)
    places.clamp_(max=vocab_size - 1)
    within = scores.gather(1, places).argmax(-1, keepdim=True)
    return places.gather(1, within).squeeze(1), best.isfinite()


def draw(scores: Tensor, points: Tensor) -> Tensor:
    """Draws by the inverse of the cumulative distribution, in the order of the vocabulary.

    scores: (rows, vocab) float32, -inf for removed tokens. points: (rows,) float64 in (0, 1).
    Returns (rows,) int64; a token of probability 0 is never drawn.
    """
    mass = scores.softmax(-1).cumsum(-1, dtype=torch.float64)
    point = points.unsqueeze(1) * mass[:, -1:]
    ids = torch.searchsorted(mass, point, right=True)
    return ids.squeeze(1).clamp(max=scores.shape[-1] - 1)


def _verified(
    given: SamplingInput,
    ids: Ints,
    usable: Bools,
    is_empty: Bools,
    logprobs: TokenLogprobs | None = None,
    candidates: Candidates | None = None,
) -> Sampled:
    """Accepts rows as long as the draft before them was right and they have a token left."""
    if len(given.draft_ids) == 0:
        kept = usable & ~is_empty
        num_accepted = np.where(usable & is_empty, -1, usable.astype(np.int64))
    else:
        kept, num_accepted = np.zeros(len(ids), bool), np.zeros(len(given.num_rows), np.int64)
        start = draft = 0
        for index, count in enumerate(given.num_rows.tolist()):
            guesses = given.draft_ids[draft : draft + count - 1]
            is_right = guesses == ids[start : start + count - 1]
            right = (is_right & ~is_empty[start + 1 : start + count]).cumprod().sum()
            if is_empty[start] and usable[start : start + count].all():
                num_accepted[index] = -1
            elif usable[start : start + count].all():
                num_accepted[index] = 1 + right
                kept[start : start + 1 + right] = True
            start, draft = start + count, draft + count - 1
    found = None if logprobs is None else picked(logprobs, kept)
    return Sampled(ids[kept], num_accepted, found, candidates)
