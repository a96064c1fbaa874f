"""Disentangled attention: scores that also compare words with distances (DeBERTa)."""

from typing import NamedTuple

from torch import Tensor

from atoll_kernels import dispatch


class DistanceTables(NamedTuple):
    """Keys and queries that stand for distances instead of words.

    keys: (num_rows, num_heads, head_dim), multiplied with the queries of words ("c2p"), or None.
    queries: of the same shape, multiplied with the keys of words ("p2c"), or None. Both are
        contiguous and of the dtype of q.
    rows: (2 * reach + 1,) int32. The row of both tables for a query at position p and a key at j is
        ``rows[clamp(j - p, -reach, reach) + reach]``; along ``rows`` it never increases.
    """

    keys: Tensor | None
    queries: Tensor | None
    rows: Tensor


def disentangled_attention(
    q: Tensor, k: Tensor, v: Tensor, tables: DistanceTables, cu_seqlens: Tensor, scale: float
) -> Tensor:
    """Attention over concatenated sequences, all of whose tokens see each other (He et al. 2021).

    With r, the tables' row for the distance of query and key, a score is
    ``scale * (q @ k + q @ tables.keys[r] + tables.queries[r] @ k)``.

    Args:
        q, k, v: (tokens, num_heads, head_dim); rows may be strided.
        cu_seqlens: (num_seqs + 1,) int32, on the device of q.

    Returns:
        (tokens, num_heads, head_dim), contiguous, dtype of q.
    """
    result: Tensor = dispatch.run("disentangled_attention", q, k, v, tables, cu_seqlens, scale)
    return result
