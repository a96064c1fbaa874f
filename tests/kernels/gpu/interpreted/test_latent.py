"""Attention over the latent cache of MLA, whose rows are keys and, in part, values."""

import pytest
import torch
from interpreted import DEVICE, DTYPES, check, randn
from torch import Tensor

from atoll_kernels import paged_attention, reference
from atoll_kernels.attention import AttentionArgs, PagedKV
from atoll_kernels.gpu import attention, latent

# Tiles of the interpreter are 16 heads and 16 keys.
SHAPES = [(4, 24, 16), (16, 32, 16), (20, 40, 32), (33, 56, 40)]


def cu_seqlens(*lengths: int) -> Tensor:
    return torch.tensor([0, *lengths], device=DEVICE).cumsum(0).int()


def cached(lengths: tuple[int, ...], width: int, value_dim: int, dtype: torch.dtype) -> PagedKV:
    """Blocks of 5 rows in reverse order; what no sequence has is NaN."""
    counts = [-(-n // 5) for n in lengths]
    cache = torch.full((sum(counts) + 1, 5, 1, width), float("nan"), dtype=dtype, device=DEVICE)
    table = torch.full((len(lengths), max(counts) + 1), -1, dtype=torch.int32, device=DEVICE)
    unused = list(range(len(cache)))
    for row, length in enumerate(lengths):
        rows = randn(length, 1, width, seed=row, dtype=dtype)
        for b, part in enumerate(rows.split(5)):
            table[row, b] = block = unused.pop()
            cache[block, : len(part)] = part
    return PagedKV(cache, cache[..., :value_dim], table, torch.tensor(lengths, device=DEVICE).int())


def plain(q: Tensor, kv: PagedKV, ends: Tensor, args: AttentionArgs) -> Tensor:
    """The formula, a token at a time; q float64."""
    out, size = torch.zeros(*q.shape[:2], kv.values.shape[3]).double(), kv.keys.shape[1]
    for i, length in enumerate(kv.seq_lens.tolist()):
        places = torch.arange(length, device=q.device)
        rows = kv.keys[kv.block_table[i, places // size].long(), places % size, 0]
        first, last = int(ends[i]), int(ends[i + 1])
        for token in range(first, last):
            seen = rows[: length - (last - 1 - token)]
            if len(seen):
                weights = (q[token] @ seen.t() * args.scale).softmax(-1)
                out[token] = (weights @ seen[:, : out.shape[2]]).cpu()
    return out.to(q.device)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_decode(shape: tuple[int, int, int], dtype: torch.dtype) -> None:
    """One token each, a padded row of length 0 among them."""
    num_heads, width, value_dim = shape
    kv = cached((1, 40, 0, 17), width, value_dim, dtype)
    q = randn(4, num_heads, width, seed=9, dtype=dtype)
    check(latent.paged, plain, q, kv, cu_seqlens(1, 1, 1, 1), AttentionArgs(0.3, causal=True))


@pytest.mark.parametrize("splits", [1, 3])
def test_chunks_and_splits(splits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first tokens of a sequence, later ones; more splits than tiles."""
    monkeypatch.setattr(latent, "num_splits", lambda programs, capacity: splits)
    kv = cached((6, 50, 0), 24, 16, torch.float32)
    q = randn(10, 4, 24, seed=9)
    check(latent.paged, plain, q, kv, cu_seqlens(6, 4, 0), AttentionArgs(0.3, causal=True))


def test_what_is_no_latent_cache() -> None:
    """Values of their own memory are left to torch, and so is a window."""
    kv = cached((7,), 24, 16, torch.float32)
    kv = kv._replace(keys=kv.keys.nan_to_num(), values=kv.values.nan_to_num())
    q, ends = randn(1, 4, 24, seed=9), cu_seqlens(1)
    args = AttentionArgs(0.3, causal=True)
    assert not latent.is_latent(kv) and attention.paged_attention(q, kv, ends, args) is None
    same = kv._replace(values=kv.keys[..., :16])
    assert latent.is_latent(same) and attention.paged_attention(q, same, ends, args) is not None
    windowed = AttentionArgs(0.3, causal=True, window=3)
    assert attention.paged_attention(q, same, ends, windowed) is None
    expected = reference.paged_attention(q, same, ends, windowed)
    torch.testing.assert_close(paged_attention(q, same, ends, windowed), expected)
