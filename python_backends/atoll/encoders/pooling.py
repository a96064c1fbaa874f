"""From the hidden states of a batch's tokens to one vector per text.

The poolings are those of sentence-transformers; the vectors of several poolings are concatenated.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from atoll.layers import Batch


def pool(hidden: Tensor, cu_seqlens: Tensor, pooling: str) -> Tensor:
    """One float32 vector per sequence, (num_seqs, hidden times the number of poolings).

    Args:
        hidden: (tokens, hidden). cu_seqlens: (num_seqs + 1,) int32.
        pooling: names of ``weights.modules.POOLING_MODES``, joined by "+".
    """
    starts = cu_seqlens.long()
    parts = [_pool(hidden, starts, mode) for mode in pooling.split("+")]
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)


def last_rows(batch: Batch, padding: int | None) -> Tensor:
    """The row of each text's last token, (texts,) int64, as transformers' heads of decoders choose.

    padding: an id that is passed over at the end, as where a tokenizer ends texts with the token
        that also pads them; of a text of nothing else, the first token is taken.
    """
    shared = batch.shared
    bounds = (batch.cu_seqlens if shared is None else shared.cu_seqlens).long()
    ends = bounds[1:] - 1
    if padding is None:
        return ends if shared is None else shared.last_rows
    ids = batch.input_ids if shared is None else batch.input_ids[shared.rows]
    places = torch.arange(len(ids), device=ids.device)
    found = torch.where(ids != padding, places, 0).cummax(0).values[ends].maximum(bounds[:-1])
    if shared is None:
        return found
    return shared.rows[found[torch.isin(shared.rows[ends], shared.last_rows)]]


def normalized(vectors: Tensor) -> Tensor:
    """Every row divided by its norm (float32)."""
    return F.normalize(vectors, dim=-1)


def _pool(hidden: Tensor, starts: Tensor, mode: str) -> Tensor:
    if mode == "cls":
        return hidden[starts[:-1]].float()
    if mode == "last-token":
        return hidden[starts[1:] - 1].float()
    lengths = starts.diff()
    if mode == "weighted-mean":
        # Token i of a text counts i + 1 times.
        first = starts[:-1].repeat_interleave(lengths)
        weights = torch.arange(1, len(hidden) + 1, device=hidden.device) - first
        total = _reduce(hidden.float() * weights[:, None], lengths, "sum")
        return total / (lengths * (lengths + 1) / 2)[:, None]
    if mode == "mean-sqrt-len":
        return _reduce(hidden.float(), lengths, "sum") / lengths.sqrt()[:, None]
    return _reduce(hidden.float(), lengths, mode)


def _reduce(rows: Tensor, lengths: Tensor, kind: str) -> Tensor:
    # For a single text, this is faster than a segmented reduction.
    if len(lengths) == 1 and kind == "mean":
        return rows.mean(0, keepdim=True)
    return torch.segment_reduce(rows, kind, lengths=lengths, axis=0)
