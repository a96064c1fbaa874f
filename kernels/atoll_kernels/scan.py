"""Mamba's selective state spaces over packed sequences; states are read and updated in place.

A state holds for every channel of a token ``state_size`` numbers, which decay at a speed and take
up the channel's input in an amount that the token itself decides.
"""

from torch import Tensor

from atoll_kernels import dispatch
from atoll_kernels.recurrent import Past


def selective_scan2(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None,
    state: Tensor | None, past: Past,
) -> Tensor:  # fmt: skip
    """Mamba-2 (Dao & Gu 2024, arXiv 2405.21060): one decay for all channels of a head.

    ``S = exp(dt * A) * S + dt * x B^T; out = S C + D * x``, head by head. Mutates ``state``.

    Args:
        x: (tokens, heads, head_dim).
        dt: (tokens, heads) float32, 0 or more. A: (heads,) float32, negative.
        B, C: (tokens, groups, state_size), each for heads / groups consecutive heads.
        D: (heads,) float32. x, B and C may be strided slices of one projection's rows.
        state: (slots, heads, head_dim, state_size), float32, or of 16 bits, to which it is rounded
            when the batch is done. None without a cache.

    Returns:
        (tokens, heads, head_dim), contiguous, dtype of x.
    """
    result: Tensor = dispatch.run("selective_scan2", x, dt, A, B, C, D, state, past)
    return result


def selective_scan(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor,
    state: Tensor | None, past: Past,
) -> Tensor:  # fmt: skip
    """Mamba-1 (Gu & Dao 2023, arXiv 2312.00752): each number of a state decays at its own speed.

    ``S = exp(dt * A) * S + dt * x B^T; out = S C + D * x``. Mutates ``state``.

    Args:
        x: (tokens, channels).
        dt: (tokens, channels) float32, 0 or more. A: (channels, state_size) float32, negative.
        B, C: (tokens, state_size). D: (channels,) float32.
        state: (slots, channels, state_size), of float32 or 16 bits. None without a cache.

    Returns:
        (tokens, channels), contiguous, dtype of x.
    """
    result: Tensor = dispatch.run("selective_scan", x, dt, A, B, C, D, state, past)
    return result
