"""Rotary position embedding (Su et al. 2021), half-split layout (GPT-NeoX, Llama)."""

from torch import Tensor

from atoll_kernels import dispatch


def apply_rope(x: Tensor, positions: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotates the first ``2 * cos.shape[1]`` features of every head; mutates and returns ``x``.

    Args:
        x: (tokens, num_heads, head_dim); rows may be strided (a slice of a fused projection).
        positions: (tokens,) int64.
        cos, sin: (max_positions, rotary_dim / 2) float32 tables.
    """
    result: Tensor = dispatch.run("apply_rope", x, positions, cos, sin)
    return result
