"""The candidates of beams: the most likely next tokens of each, with their log-probabilities."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import torch
from torch import Tensor

from atoll.sampling.inputs import BeamRows, Candidates, Ints, SamplingInput, TokenLogprobs
from atoll.sampling.logprobs import describe
from atoll.sampling.processors import process


def processed(logits: Tensor, given: SamplingInput, beams: BeamRows) -> Candidates:
    """Mutates logits (rows, vocab) as ``process`` does, and returns what beams may go on with.

    As in transformers, processors change a beam's log-probabilities, which are not made to add up
    to one again.
    """
    at = torch.tensor(beams.rows, device=logits.device)
    raw = logits[at].log_softmax(-1)
    logits[at] = raw
    process(logits, given)
    best = logits[at].topk(min(int(beams.counts.max()), logits.shape[1]), dim=-1)
    ids: Ints = best.indices.cpu().numpy()
    details = None if beams.num_top is None else _details(raw, ids, beams.num_top)
    return Candidates(ids, best.values.cpu().numpy(), details)


def _details(raw: Tensor, ids: Ints, num_top: Ints) -> TokenLogprobs:
    """Of all candidates (beams, candidates), beam by beam."""
    width = max(int(num_top.max()), 0)
    columns = [describe(raw, column, num_top.clip(0), width) for column in ids.T]
    values = []
    for field in fields(TokenLogprobs):
        found = np.stack([getattr(column, field.name) for column in columns], 1)
        values.append(found.reshape(ids.size, *found.shape[2:]))
    return TokenLogprobs(*values)
