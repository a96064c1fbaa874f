"""Attention on the GPU: each call uses the backend that ``backends.choose`` picks for its spec."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

from atoll_kernels import dispatch
from atoll_kernels.attention import AttentionArgs, PagedKV
from atoll_kernels.backends import AttentionSpec, Capabilities, KernelPolicy, Phase, choose
from atoll_kernels.gpu import flash, latent, launch, torch_attention

logger = logging.getLogger(__name__)

Attention = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, AttentionArgs], Tensor]

_VARLEN: dict[str, Attention] = {
    "atoll": flash.varlen,
    "flash-attn": torch_attention.flash_attn,
    "torch-flash": torch_attention.torch_flash,
    "torch-efficient": torch_attention.torch_efficient,
}


def varlen_attention(
    q: Tensor, k: Tensor, v: Tensor, cu_seqlens_q: Tensor, cu_seqlens_k: Tensor, args: AttentionArgs
) -> Tensor | None:
    """See ``atoll_kernels.varlen_attention``; declines what only SDPA supports."""
    backend = backend_for(_spec("encode", q, v, args), q.device)
    if backend not in _VARLEN:
        return None
    return _VARLEN[backend](q, k, v, cu_seqlens_q, cu_seqlens_k, args)


def paged_attention(
    q: Tensor, kv: PagedKV, cu_seqlens_q: Tensor, args: AttentionArgs
) -> Tensor | None:
    """See ``atoll_kernels.paged_attention``; declines what only SDPA supports.

    A batch with as many tokens as sequences counts as decoding, since lengths are on the device.
    """
    is_decode = q.shape[0] == kv.seq_lens.shape[0]
    phase: Phase = "decode" if is_decode else "prefill"
    spec = _spec(phase, q, kv.values, args, is_latent=latent.is_latent(kv))
    backend = backend_for(spec, q.device)
    if backend not in _VARLEN:
        return None
    if backend == "atoll":
        if spec.latent:
            return latent.paged(q, kv, cu_seqlens_q, args)
        own = flash.paged_decode if is_decode else flash.paged_prefill
        return own(q, kv, cu_seqlens_q, args)
    k, v, cu_seqlens_k = torch_attention.gather_keys(kv)
    return _VARLEN[backend](q, k, v, cu_seqlens_q, cu_seqlens_k, args)


def _spec(
    phase: Phase, q: Tensor, v: Tensor, args: AttentionArgs, is_latent: bool = False
) -> AttentionSpec:
    is_narrow = v.shape[-1] < q.shape[-1]
    return AttentionSpec(
        phase=phase,
        dtype=q.dtype,
        head_dim=q.shape[-1],
        causal=args.causal,
        window=args.window is not None,
        alibi=args.alibi_slopes is not None,
        relative_bias=args.relative_bias is not None,
        softcap=args.softcap is not None,
        sinks=args.sinks is not None,
        value_dim=v.shape[-1] if is_narrow else None,
        latent=is_narrow and is_latent,
    )


def backend_for(spec: AttentionSpec, device: torch.device) -> str:
    """The name of the chosen backend; the choice for a new spec is logged."""
    return _backend_for(spec, device, dispatch.policy())


@cache
def _backend_for(spec: AttentionSpec, device: torch.device, policy: KernelPolicy) -> str:
    choice = choose(capabilities_of(device), spec, policy)
    logger.info("%s on %s: %s", spec, device, choice.backend)
    for name, reason in choice.refused:
        logger.info("  not %s: %s", name, reason)
    return choice.backend


@cache
def capabilities_of(device: torch.device) -> Capabilities:
    """Asks the driver once per device; Triton-lang's interpreter is a device of its own."""
    if device.type == "cpu" and launch.architecture() == "interpreter":
        return Capabilities("Triton-lang's interpreter", "interpreter", "interpreter")
    return Capabilities.of(device)
