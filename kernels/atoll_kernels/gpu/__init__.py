"""Triton-language kernels for NVIDIA and AMD GPUs; the only package that imports triton.

Without triton, which comes with torch's GPU builds, there are none, and the torch reference runs.
"""

from importlib.util import find_spec

from atoll_kernels.gpu.selftest import failure

if find_spec("triton") is not None:
    from atoll_kernels.gpu.activation import activate, gate_rows, gated_activation
    from atoll_kernels.gpu.attention import paged_attention, varlen_attention
    from atoll_kernels.gpu.disentangled import disentangled_attention
    from atoll_kernels.gpu.gates import delta_gates, time_steps
    from atoll_kernels.gpu.moe import pack_experts, route
    from atoll_kernels.gpu.norm import grouped_rms_norm, layer_norm, rms_norm
    from atoll_kernels.gpu.quantized import pack_int4, pack_linear, pack_mxfp4
    from atoll_kernels.gpu.recurrent import causal_conv, gated_delta
    from atoll_kernels.gpu.rope import apply_rope, rope_write_kv, write_kv
    from atoll_kernels.gpu.sampling import sample
    from atoll_kernels.gpu.scan import selective_scan, selective_scan2

    __all__ = [
        "failure",
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
        "pack_experts",
        "pack_int4",
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
