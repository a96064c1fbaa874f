"""The draw in one kernel, for rows that only temperature, top-k and top-p limit."""

from __future__ import annotations

import torch
from torch import Tensor

import atoll_kernels as kernels
from atoll.engine.request import SamplingOptions
from atoll.sampling.warpers import temperatures


def is_fused(options: SamplingOptions, device: torch.device) -> bool:
    """Whether the kernel draws a row: on a GPU, unless it has an option that the kernel lacks.

    A matter of the row alone, so that a seed gives the same tokens in any batch.
    """
    has_more = options.min_p > 0 or options.typical_p < 1 or options.watermark
    return device.type != "cpu" and not has_more


def draw_fused(logits: Tensor, options: list[SamplingOptions], uniforms: Tensor) -> Tensor:
    """(rows,) int64 for logits (rows, vocab) and uniforms (rows,) float64."""
    vocab_size, device = logits.shape[-1], logits.device
    ks = [min(o.top_k, vocab_size) or vocab_size for o in options]
    ps = [o.top_p for o in options]
    temperature = torch.tensor(temperatures(options), device=device)
    top_k = torch.tensor(ks, dtype=torch.int32, device=device) if min(ks) < vocab_size else None
    top_p = torch.tensor(ps, device=device) if min(ps) < 1 else None
    return kernels.sample(logits, temperature, top_k, top_p, uniforms)
