"""Layers that keep a state of constant size instead of keys and values, over packed sequences.

A sequence's state is one row, its slot, of a tensor that the op reads and updates in place. A
sequence without tokens before this batch begins at zero, whatever its slot holds.
"""

from typing import NamedTuple

from torch import Tensor

from atoll_kernels import dispatch


class Past(NamedTuple):
    """Where the sequences of a batch begin, and where their states are.

    cu_seqlens: (num_seqs + 1,) int32.
    seq_lens: (num_seqs,) int32, tokens of each sequence, those before this batch included. None:
        there is no cache: every sequence begins at zero, and no state is kept.
    slots: (num_seqs,) int32, rows of the state tensors; -1: a padded row, which is skipped and
        whose output is 0. None exactly where ``seq_lens`` is. Every row has a token.
    """

    cu_seqlens: Tensor
    seq_lens: Tensor | None = None
    slots: Tensor | None = None


def causal_conv(
    x: Tensor, weight: Tensor, bias: Tensor | None, state: Tensor | None, past: Past,
    activation: str | None = None,
) -> Tensor:  # fmt: skip
    """A convolution of each channel over a token and those before it.

    ``out[t, c] = act(bias[c] + sum_j weight[c, j] * x[t - width + 1 + j, c])``. Mutates ``state``.

    Args:
        x: (tokens, channels); rows may be strided (a slice of a projection).
        weight: (channels, width). bias: (channels,).
        state: (slots, channels, width - 1), the last inputs, oldest first. None without a cache.
        activation: None or "silu".

    Returns:
        (tokens, channels), contiguous, dtype of x.
    """
    result: Tensor = dispatch.run("causal_conv", x, weight, bias, state, past, activation)
    return result


def gated_delta(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, beta: Tensor, state: Tensor | None,
    past: Past,
) -> Tensor:  # fmt: skip
    """The gated delta rule (Yang et al. 2025, arXiv 2412.06464), head by head.

    ``S = exp(log_decay) * S; S = S + k (beta * (v - S^T k))^T; out = S^T q``. Mutates ``state``.

    Args:
        q, k: (tokens, num_k_heads, key_dim), normalised and scaled; each head serves
            num_v_heads / num_k_heads consecutive ones of v.
        v: (tokens, num_v_heads, value_dim).
        log_decay, beta: (tokens, num_v_heads) float32; log_decay <= 0.
        state: (slots, num_v_heads, key_dim, value_dim), float32, or of 16 bits, to which it is
            rounded when the batch is done. None without a cache.

    Returns:
        (tokens, num_v_heads, value_dim), contiguous, dtype of v.
    """
    result: Tensor = dispatch.run("gated_delta", q, k, v, log_decay, beta, state, past)
    return result
