"""One function per operation; the implementation is chosen by device, dtype and policy."""

from atoll_kernels.activation import ACTIVATIONS, activate, gate_rows, gated_activation
from atoll_kernels.attention import (
    AttentionArgs,
    PagedKV,
    paged_attention,
    varlen_attention,
    write_kv,
)
from atoll_kernels.backends import KernelPolicy
from atoll_kernels.disentangled import DistanceTables, disentangled_attention
from atoll_kernels.gates import delta_gates, time_steps
from atoll_kernels.linear import (
    PackedLinear,
    gated_linear,
    linear,
    pack_int4,
    pack_int8_groups,
    pack_linear,
    pack_mxfp4,
)
from atoll_kernels.moe import PackedExperts, Routing, mixture_of_experts, pack_experts, route
from atoll_kernels.norm import grouped_rms_norm, layer_norm, rms_norm
from atoll_kernels.recurrent import Past, causal_conv, gated_delta
from atoll_kernels.rope import apply_rope, rope_write_kv
from atoll_kernels.sampling import sample
from atoll_kernels.scan import selective_scan, selective_scan2

__all__ = [
    "ACTIVATIONS",
    "AttentionArgs",
    "DistanceTables",
    "KernelPolicy",
    "PackedExperts",
    "PackedLinear",
    "PagedKV",
    "Past",
    "Routing",
    "activate",
    "apply_rope",
    "causal_conv",
    "delta_gates",
    "disentangled_attention",
    "gate_rows",
    "gated_activation",
    "gated_delta",
    "gated_linear",
    "grouped_rms_norm",
    "layer_norm",
    "linear",
    "mixture_of_experts",
    "pack_experts",
    "pack_int4",
    "pack_int8_groups",
    "pack_linear",
    "pack_mxfp4",
    "paged_attention",
    "rms_norm",
    "rope_write_kv",
    "route",
    "sample",
    "selective_scan",
    "selective_scan2",
    "time_steps",
    "varlen_attention",
    "write_kv",
]
