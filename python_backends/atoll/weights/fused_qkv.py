"""Row orders of fused query-key-value projections, for ``Reorder``."""

import torch
from torch import Tensor


def grouped_qkv(num_heads: int, num_kv_heads: int, head_dim: int) -> Tensor:
    """Rows [q; k; v] of a projection stored group by group, (rows,) int64.

    A group is one key-value head with its n = num_heads / num_kv_heads query heads; the file holds
    [group, n + 2, head_dim]: the queries, the key, the value. One head per group is BLOOM's and
    GPT-NeoX's [head, 3, head_dim]; a single group is multi-query.
    """
    per_group = num_heads // num_kv_heads
    total = (num_heads + 2 * num_kv_heads) * head_dim
    rows = torch.arange(total).view(num_kv_heads, per_group + 2, head_dim)
    q, k, v = rows[:, :per_group], rows[:, per_group], rows[:, per_group + 1]
    return torch.cat([q.flatten(), k.flatten(), v.flatten()])


def unpaired(width: int) -> Tensor:
    """Features 0, 2, 4, ... and then 1, 3, 5, ..., (width,) int64."""
    return torch.cat([torch.arange(0, width, 2), torch.arange(1, width, 2)])


def unpaired_qkv(num_heads: int, num_kv_heads: int, head_dim: int, width: int) -> Tensor:
    """Rows [q; k; v] of projections whose rotary pairs stand side by side, (rows,) int64.

    GPT-J rotates features 2i and 2i + 1 together, the kernels i and i + width / 2. Scores do not
    depend on the order of a head's features, as long as queries and keys have the same.

    Args:
        width: rotated features of a head.
    """
    order = torch.arange(head_dim)
    order[:width] = unpaired(width)
    num_rotated = num_heads + num_kv_heads
    rows = torch.arange((num_rotated + num_kv_heads) * head_dim).view(-1, head_dim)
    return torch.cat([rows[:num_rotated, order].flatten(), rows[num_rotated:].flatten()])
