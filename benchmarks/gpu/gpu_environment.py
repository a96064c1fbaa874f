"""The environment of a GPU benchmark: versions, the device, chosen backends, ceilings."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict

import torch
from gpu_measure import Bench, Row
from harness.measure import machine, versions

from atoll_kernels.backends import AttentionSpec, KernelPolicy, choose
from atoll_kernels.gpu import launch
from atoll_kernels.gpu.attention import capabilities_of

_PACKAGES = ("torch", "triton", "flash-attn", "transformers", "tritonclient", "numpy")


def environment(bench: Bench) -> Iterator[Row]:
    """Rows: name, value."""
    yield {"name": "machine", "value": machine()}
    yield {"name": "versions", "value": versions(_PACKAGES)}
    yield {"name": "CUDA", "value": torch.version.cuda}
    capabilities = capabilities_of(bench.device)
    for name, value in asdict(capabilities).items():
        yield {"name": name, "value": value}
    yield {"name": "launch table", "value": launch.architecture()}
    if not bench.is_dry:
        properties = torch.cuda.get_device_properties(bench.device)
        yield {"name": "memory, GB", "value": properties.total_memory / 1e9}
        yield {"name": "multiprocessors", "value": properties.multi_processor_count}
    for phase in ("encode", "prefill", "decode"):
        for head_dim, dtype in ((64, torch.float16), (128, torch.bfloat16), (256, torch.float32)):
            spec = AttentionSpec(phase, dtype, head_dim, causal=phase != "encode")
            choice = choose(capabilities, spec, KernelPolicy())
            refused = "".join(f"; not {name}: {reason}" for name, reason in choice.refused)
            yield {
                "name": f"{phase}, head size {head_dim}, {dtype}",
                "value": f"{choice.backend}{refused}",
            }
    for name, flops in bench.peaks.flops.items():
        yield {"name": f"{name} products, TFLOP/s", "value": flops / 1e12}
    yield {"name": "memory, GB/s", "value": bench.peaks.bytes_per_s / 1e9}
