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


def rope_write_kv(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    positions: Tensor,
    cos: Tensor,
    sin: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    slot_mapping: Tensor,
) -> None:
    """``apply_rope`` on q and k, then ``write_kv``, in one launch; mutates q, k and the caches.

    Shapes are those of the two functions.
    """
    dispatch.run("rope_write_kv", q, k, v, positions, cos, sin, k_cache, v_cache, slot_mapping)
