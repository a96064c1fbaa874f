"""The input and output of a step's sampler, as arrays: knows neither requests nor torch.

A row is a row of logits. A request that samples has one row, and one more per token of its draft.
An option that no row uses is None, so that a batch without options stays small.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Singles = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class RowTokens:
    """Tokens of rows: rows, tokens (n,); a token may come more than once."""

    rows: Ints
    tokens: Ints


@dataclass(frozen=True)
class RowAmounts:
    """Tokens of rows, and by how much their scores change: rows, tokens, amounts (n,)."""

    rows: Ints
    tokens: Ints
    amounts: Singles


@dataclass(frozen=True)
class BeamRows:
    """Rows of beams: rows (beams,); counts (beams,) how many candidates each needs.

    num_top: (beams,) alternatives reported with a candidate; -1: no log-probability. None: no row
    needs any.
    """

    rows: Ints
    counts: Ints
    num_top: Ints | None = None


@dataclass(frozen=True)
class SamplingInput:
    """How the tokens of a step are chosen.

    num_rows: (requests,) how many rows each has. draft_ids: (rows - requests,) the drafts,
        concatenated.
    do_sample: (rows,) whether a token is drawn; None: all rows are greedy. seeds, positions:
        (rows,) determine the random numbers; the output's first token has position 0.
    temperature to typical_p: (rows,) used where a token is drawn.
    watermark: (rows,) the token that the green list depends on; -1: no watermark.
    num_top: (rows,) alternatives reported with the token; -1: no log-probability.
    bias: added. repetition: penalties of tokens in the text. penalties: subtracted.
    banned: removed. late_ends: removed unless the grammar allows no other token.
    first_times: from which id on the tokens of a row are times, see ``SamplingOptions``.
    bitmask: (constrained, words) int32, bit b of word w for token 32 w + b; masked_rows:
        (constrained,) the rows that it applies to.
    forced: the only token that is left of a row.
    beams: rows whose log-probabilities are processed in place of logits, and that get candidates.
    """

    num_rows: Ints
    draft_ids: Ints
    do_sample: Bools | None = None
    seeds: npt.NDArray[np.uint64] | None = None
    positions: Ints | None = None
    temperature: Floats | None = None
    top_k: Ints | None = None
    top_p: Floats | None = None
    min_p: Floats | None = None
    typical_p: Floats | None = None
    watermark: Ints | None = None
    num_top: Ints | None = None
    bias: RowAmounts | None = None
    repetition: RowAmounts | None = None
    penalties: RowAmounts | None = None
    banned: RowTokens | None = None
    late_ends: RowTokens | None = None
    first_times: RowTokens | None = None
    masked_rows: Ints | None = None
    bitmask: npt.NDArray[np.int32] | None = None
    forced: RowTokens | None = None
    beams: BeamRows | None = None

    @property
    def is_greedy(self) -> bool:
        """True if the argmax of the unchanged logits is all that is needed."""
        options = (
            self.do_sample, self.num_top, self.watermark, self.bias, self.repetition,
            self.penalties, self.banned, self.masked_rows, self.forced, self.beams,
            self.first_times,
        )  # fmt: skip
        return all(option is None for option in options)

    @property
    def may_remove_all(self) -> bool:
        """True if options could leave a row without any token."""
        options = (self.bias, self.penalties, self.banned, self.late_ends, self.masked_rows)
        return any(option is not None for option in options)


@dataclass(frozen=True)
class PromptTokens:
    """Prompt tokens whose log-probabilities are needed.

    first_tokens: (prompts,) the row of hidden states that predicts each prompt's first token.
    num_tokens: (prompts,). token_ids: (sum of num_tokens,). num_top: (prompts,) alternatives
    reported with each token.
    """

    first_tokens: Ints
    num_tokens: Ints
    token_ids: Ints
    num_top: Ints


@dataclass(frozen=True)
class TokenLogprobs:
    """Log-probabilities of tokens.

    logprobs, ranks: (tokens,); rank 1 is the most likely token, 0 means that the token has no
    log-probability. num_top: (tokens,) how many of the alternatives count. top_ids, top_logprobs:
    (tokens, most alternatives), most likely first.
    """

    logprobs: Singles
    ranks: Ints
    num_top: Ints
    top_ids: Ints
    top_logprobs: Singles


@dataclass(frozen=True)
class Candidates:
    """The most likely next tokens of beams: token_ids, logprobs (beams, candidates), best first.

    logprobs: after all processors; minus infinity: no candidate. details: (beams * candidates,
    ...) under the model's own logits.
    """

    token_ids: Ints
    logprobs: Singles
    details: TokenLogprobs | None = None


@dataclass(frozen=True)
class Sampled:
    """The tokens of a step.

    num_accepted: (requests,) tokens that each gets: one, or more if its draft was right; 0: its
    logits are not finite. token_ids: (accepted,) requests concatenated. logprobs: of these tokens;
    None if no row needs them. candidates: of ``SamplingInput.beams``, whose tokens do not count.
    """

    token_ids: Ints
    num_accepted: Ints
    logprobs: TokenLogprobs | None = None
    candidates: Candidates | None = None
