"""Sampling on the GPU."""

from __future__ import annotations

import torch
import triton
from torch import Tensor

from atoll_kernels.gpu import launch
from atoll_kernels.gpu.kernels.sampling import sample_kernel

# Vocabularies up to this size are kept in the registers of one program.
_MAX_WHOLE = 32768
_BLOCK = 8192


def sample(
    logits: Tensor, temperature: Tensor, top_k: Tensor | None, top_p: Tensor | None,
    uniforms: Tensor,
) -> Tensor | None:  # fmt: skip
    """See ``atoll_kernels.sample``."""
    num_rows, vocab_size = logits.shape
    if logits.stride(-1) != 1 or logits.dtype == torch.float64:
        return None
    ids = torch.empty(num_rows, dtype=torch.int64, device=logits.device)
    if num_rows:
        block = max(16, int(triton.next_power_of_2(vocab_size)))
        sample_kernel[(num_rows,)](
            ids=ids, logits=logits, temperatures=temperature,
            top_ks=temperature if top_k is None else top_k,
            top_ps=temperature if top_p is None else top_p, uniforms=uniforms,
            stride=logits.stride(0), vocab_size=vocab_size,
            TOP_K=top_k is not None, TOP_P=top_p is not None, WHOLE=block <= _MAX_WHOLE,
            BLOCK_V=block if block <= _MAX_WHOLE else 1,
            BLOCK=256 if launch.architecture() == "interpreter" else min(block, _BLOCK),
            num_warps=max(4, min(launch.max_warps(), block // 1024)),
        )  # fmt: skip
    return ids
