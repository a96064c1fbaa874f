"""Recurrent layers in plain torch: token by token, as they are defined.

A step of one token per sequence computes all sequences at once and reads nothing on the host, so
that it can be captured; longer chunks are computed sequence by sequence.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from atoll_kernels.recurrent import Past
from atoll_kernels.reference.states import (
    first_states,
    is_step,
    keep_states,
    sequences,
    skip_padding,
)


def causal_conv(
    x: Tensor, weight: Tensor, bias: Tensor | None, state: Tensor | None, past: Past,
    activation: str | None = None,
) -> Tensor:  # fmt: skip
    assert activation in (None, "silu"), activation
    width = weight.shape[1]
    dtype = torch.promote_types(x.dtype, torch.float32)
    kernel = weight.to(dtype)

    def convolved(inputs: Tensor) -> Tensor:
        """(sequences, width - 1 + tokens, channels) -> (sequences, tokens, channels)."""
        windows = inputs.to(dtype).unfold(1, width, 1)
        out = (windows * kernel).sum(-1)
        out = out if bias is None else out + bias.to(dtype)
        return (F.silu(out) if activation else out).to(x.dtype)

    if is_step(len(x), past):
        assert state is not None
        inputs = torch.cat((first_states(state, past).to(x.dtype), x.unsqueeze(2)), 2)
        keep_states(state, past, inputs[:, :, 1:])
        return skip_padding(convolved(inputs.transpose(1, 2)).squeeze(1), past)
    out = x.new_zeros(x.shape)
    for rows, begin, keep in sequences(x.new_zeros(weight.shape[0], width - 1), state, past):
        inputs = torch.cat((begin.T.to(x.dtype), x[rows]))
        keep(inputs[len(inputs) - width + 1 :].T)
        out[rows] = convolved(inputs.unsqueeze(0))[0]
    return out


def gated_delta(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, beta: Tensor, state: Tensor | None,
    past: Past,
) -> Tensor:  # fmt: skip
    dtype = torch.promote_types(v.dtype, torch.float32)
    repeats = v.shape[1] // k.shape[1]
    qs, ks = (x.to(dtype).repeat_interleave(repeats, 1) for x in (q, k))
    vs, betas, decays = v.to(dtype), beta.to(dtype), log_decay.to(dtype).exp()

    def stepped(matrix: Tensor, at: int | slice) -> tuple[Tensor, Tensor]:
        """matrix: (..., heads, key_dim, value_dim) -> output (..., heads, value_dim), matrix."""
        matrix = matrix * decays[at, ..., None, None]
        known = torch.einsum("...kv,...k->...v", matrix, ks[at])
        new = (vs[at] - known) * betas[at, ..., None]
        matrix = matrix + ks[at].unsqueeze(-1) * new.unsqueeze(-2)
        return torch.einsum("...kv,...k->...v", matrix, qs[at]), matrix

    if is_step(len(v), past):
        assert state is not None
        found, matrices = stepped(first_states(state, past).to(dtype), slice(None))
        keep_states(state, past, matrices)
        return skip_padding(found.to(v.dtype), past)
    out = torch.zeros_like(vs)
    for rows, begin, keep in sequences(
        vs.new_zeros(v.shape[1], k.shape[2], v.shape[2]), state, past
    ):
        matrix = begin.to(dtype)
        for token in range(rows.start, rows.stop):
            out[token], matrix = stepped(matrix, token)
        keep(matrix)
    return out.to(v.dtype)
