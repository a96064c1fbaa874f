"""Selective state spaces in plain torch, in float32.

A step of one token per sequence computes all sequences at once and reads nothing on the host, so
that it can be captured. Longer texts are computed one after the other: Mamba-2's in chunks of
tokens (the "state space dual" form), Mamba-1's token by token.
"""

import torch
from torch import Tensor

from atoll_kernels.recurrent import Past
from atoll_kernels.reference.states import (
    first_states,
    is_step,
    keep_states,
    sequences,
    skip_padding,
)

# Tokens whose outputs are computed at once, by a matrix of this size for each head.
_CHUNK = 64


def selective_scan2(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None,
    state: Tensor | None, past: Past,
) -> Tensor:  # fmt: skip
    num_heads, repeats = x.shape[1], x.shape[1] // B.shape[1]
    dtype = torch.promote_types(x.dtype, torch.float32)
    xs, bs, cs = x.to(dtype), B.to(dtype), C.to(dtype)
    bs, cs = bs.repeat_interleave(repeats, 1), cs.repeat_interleave(repeats, 1)
    times = dt.to(dtype)
    inputs, decays = times.unsqueeze(-1) * xs, times * A.to(dtype)
    skipped = torch.zeros_like(xs) if D is None else D.to(dtype).unsqueeze(-1) * xs
    if is_step(len(x), past):
        assert state is not None
        kept = first_states(state, past).to(dtype) * decays.exp()[..., None, None]
        kept = kept + inputs.unsqueeze(-1) * bs.unsqueeze(-2)
        keep_states(state, past, kept)
        found = (kept * cs.unsqueeze(-2)).sum(-1) + skipped
        return skip_padding(found.to(x.dtype), past)
    out = torch.zeros_like(xs)
    zero = xs.new_zeros(num_heads, x.shape[2], B.shape[2])
    for rows, begin, keep in sequences(zero, state, past):
        first = begin.to(dtype)
        for start in range(rows.start, rows.stop, _CHUNK):
            part = slice(start, min(start + _CHUNK, rows.stop))
            found, first = _chunk(inputs[part], decays[part], bs[part], cs[part], first)
            out[part] = found + skipped[part]
        keep(first)
    return out.to(x.dtype)


def _chunk(
    inputs: Tensor, decays: Tensor, B: Tensor, C: Tensor, first: Tensor
) -> tuple[Tensor, Tensor]:
    """Outputs of a chunk, and the state that it leaves.

    inputs: dt * x, (tokens, heads, head_dim). decays: dt * A, (tokens, heads). B, C: (tokens,
    heads, state_size). first: (heads, head_dim, state_size).
    """
    logs = decays.T
    is_later = torch.ones(len(B), len(B), dtype=torch.bool, device=B.device).triu(1)
    # [s, t]: how far what token s brought has decayed at token t. Sums of the very terms: the
    # differences of sums from the start lose all digits after a token that forgets everything.
    between = torch.where(is_later, logs.unsqueeze(1), 0.0).cumsum(2).exp().triu()
    weights = torch.einsum("shn,thn->hst", B, C) * between
    out = torch.einsum("hst,shp->thp", weights, inputs)
    kept = logs.cumsum(1).exp()
    out = out + torch.einsum("thn,hpn->thp", C, first) * kept.T.unsqueeze(-1)
    brought = torch.einsum("shp,shn->hpn", inputs * between[:, :, -1].T.unsqueeze(-1), B)
    return out, first * kept[:, -1, None, None] + brought


def selective_scan(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor,
    state: Tensor | None, past: Past,
) -> Tensor:  # fmt: skip
    dtype = torch.promote_types(x.dtype, torch.float32)
    xs, times, speeds = x.to(dtype), dt.to(dtype), A.to(dtype)
    bs, cs = B.to(dtype), C.to(dtype)
    inputs, skipped = times * xs, D.to(dtype) * xs

    def stepped(kept: Tensor, at: int | slice) -> tuple[Tensor, Tensor]:
        """kept: (..., channels, state_size) -> output (..., channels), kept."""
        kept = kept * (times[at].unsqueeze(-1) * speeds).exp()
        kept = kept + inputs[at].unsqueeze(-1) * bs[at].unsqueeze(-2)
        return (kept * cs[at].unsqueeze(-2)).sum(-1), kept

    if is_step(len(x), past):
        assert state is not None
        found, kept = stepped(first_states(state, past).to(dtype), slice(None))
        keep_states(state, past, kept)
        return skip_padding((found + skipped).to(x.dtype), past)
    out = torch.zeros_like(xs)
    for rows, begin, keep in sequences(xs.new_zeros(A.shape), state, past):
        kept = begin.to(dtype)
        for token in range(rows.start, rows.stop):
            found, kept = stepped(kept, token)
            out[token] = found + skipped[token]
        keep(kept)
    return out.to(x.dtype)
