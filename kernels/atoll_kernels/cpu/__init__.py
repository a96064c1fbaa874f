"""CPU implementations: native kernels (C++ with a C ABI), and oneDNN and torch for products."""

from atoll_kernels.cpu.activation import activate, gate_rows, gated_activation
from atoll_kernels.cpu.attention import disentangled_attention, paged_attention, varlen_attention
from atoll_kernels.cpu.gates import delta_gates, time_steps
from atoll_kernels.cpu.linear import pack_int4, pack_int8_groups, pack_linear, pack_mxfp4
from atoll_kernels.cpu.norm import grouped_rms_norm, layer_norm, rms_norm
from atoll_kernels.cpu.recurrent import causal_conv, gated_delta
from atoll_kernels.cpu.rope import apply_rope, rope_write_kv, write_kv
from atoll_kernels.cpu.scan import selective_scan, selective_scan2

__all__ = [
    "activate",
    "apply_rope",
    "causal_conv",
    "delta_gates",
    "disentangled_attention",
    "gate_rows",
    "gated_activation",
    "gated_delta",
    "grouped_rms_norm",
    "layer_norm",
    "pack_int4",
    "pack_int8_groups",
    "pack_linear",
    "pack_mxfp4",
    "paged_attention",
    "rms_norm",
    "rope_write_kv",
    "selective_scan",
    "selective_scan2",
    "time_steps",
    "varlen_attention",
    "write_kv",
]
