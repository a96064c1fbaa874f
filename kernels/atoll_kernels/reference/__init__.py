"""The torch implementation of every op, for any device; tests compare the others with it."""

from atoll_kernels.reference.activation import activate, gate_rows, gated_activation
from atoll_kernels.reference.attention import paged_attention, varlen_attention, write_kv
from atoll_kernels.reference.collectives import all_gather, all_reduce_
from atoll_kernels.reference.disentangled import disentangled_attention
from atoll_kernels.reference.gates import delta_gates, time_steps
from atoll_kernels.reference.linear import pack_int4, pack_int8_groups, pack_linear, pack_mxfp4
from atoll_kernels.reference.moe import pack_experts, route
from atoll_kernels.reference.norm import grouped_rms_norm, layer_norm, rms_norm
from atoll_kernels.reference.recurrent import causal_conv, gated_delta
from atoll_kernels.reference.rope import apply_rope, rope_write_kv
from atoll_kernels.reference.sampling import sample
from atoll_kernels.reference.scan import selective_scan, selective_scan2

__all__ = [
    "activate",
    "all_gather",
    "all_reduce_",
    "apply_rope",
    "causal_conv",
    "delta_gates",
    "disentangled_attention",
    "gate_rows",
    "gated_activation",
    "gated_delta",
    "grouped_rms_norm",
    "layer_norm",
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
