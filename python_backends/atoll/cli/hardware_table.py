"""docs/hardware.md: what runs on which device, according to the registry that decides it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from atoll.cli.shard_table import shard_section
from atoll_kernels.backends import (
    BACKENDS,
    AttentionSpec,
    Capabilities,
    KernelPolicy,
    choose,
    dtype_refusal,
    refusal,
)

_NVIDIA = {
    "V100": (7, 0), "T4": (7, 5), "A100": (8, 0), "A10": (8, 6), "L4": (8, 9), "H100": (9, 0),
}  # fmt: skip
DEVICES = (
    *(
        Capabilities(name, "nvidia", f"sm{major}{minor}", (major, minor))
        for name, (major, minor) in _NVIDIA.items()
    ),
    Capabilities("MI210", "amd", "gfx90a"),
    Capabilities("MI100", "amd", "gfx908"),
)
# A column of the table -> its attention's features.
FEATURES: dict[str, dict[str, Any]] = {
    "encoder": {"phase": "encode", "causal": False},
    "encoder, ALiBi": {"phase": "encode", "causal": False, "alibi": True},
    "prefill": {"phase": "prefill"},
    "prefill, ALiBi": {"phase": "prefill", "alibi": True},
    "prefill, sliding window": {"phase": "prefill", "window": True},
    "T5's relative bias": {"phase": "prefill", "relative_bias": True},
    "decode": {"phase": "decode"},
}
_POLICIES = {
    "by default": KernelPolicy(),
    "`USE_FLASH_ATTENTION=True`": KernelPolicy(use_flash_attention=True),
    "`USE_FLASH_ATTENTION=False`": KernelPolicy(use_flash_attention=False),
    "`--disable-custom-kernels`": KernelPolicy(disable_custom_kernels=True),
}


def served_dtypes(device: Capabilities) -> list[str]:
    """Names of the dtypes that activations may have on a device."""
    dtypes = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}
    return [name for name, dtype in dtypes.items() if dtype_refusal(device, dtype) is None]


def backend(device: Capabilities, feature: str, policy: KernelPolicy) -> str:
    """The attention that a feature gets in float16 at head size 128."""
    spec = AttentionSpec(dtype=torch.float16, head_dim=128, **FEATURES[feature])
    return choose(device, spec, policy).backend


def hardware_page() -> str:
    """docs/hardware.md: a table of devices and features for each policy."""
    lines = [
        "# Hardware",
        "",
        "These tables come from the registry that makes the choice at run time "
        "([backends.py](../kernels/atoll_kernels/backends.py)). At the `INFO` level, the log shows "
        "which backend a model uses and why each one before it was rejected.",
        "",
        "## Devices",
        "",
        "| device | architecture | activations | served |",
        "|-|-|-|-|",
        "| any CPU | x86-64, others without native kernels | float32, bfloat16, float16 | yes |",
    ]
    for device in DEVICES:
        reason = refusal(device)
        dtypes = ", ".join(served_dtypes(device)) if reason is None else ""
        lines.append(f"| {device.name} | {device.architecture} | {dtypes} | {reason or 'yes'} |")
    lines += ["", "## Attention on GPUs", "", *_legend()]
    for title, policy in _POLICIES.items():
        lines += ["", f"### {title}", "", *_table(policy)]
    return "\n".join([*lines, "", *shard_section(), "", *_NOTES])


def _legend() -> list[str]:
    return [f"- `{backend.name}`: {backend.text}" for backend in BACKENDS]


def _table(policy: KernelPolicy) -> list[str]:
    lines = [f"| device | {' | '.join(FEATURES)} |", "|-" * (len(FEATURES) + 1) + "|"]
    for device in DEVICES:
        if refusal(device) is None:
            # The table shows a plain installation, without flash-attn.
            plain = replace(device, has_flash_attn=False)
            found = (backend(plain, feature, policy) for feature in FEATURES)
            lines.append(f"| {device.name} ({device.architecture}) | {' | '.join(found)} |")
    return lines


_NOTES = (
    "## The other kernels",
    "",
    "Norms, rotary embedding with the KV write, gated activations, 8-bit and 4-bit linear layers "
    "(GPTQ with and without act-order, AWQ), mixtures of experts (MXFP4 included) and top-k/top-p "
    "sampling are Triton-language kernels on every device of the table, including AMD's. With "
    "`--disable-custom-kernels`, they are plain torch, and 4-bit weights are dequantized at load. "
    "The same happens, and is logged, if kernels cannot be compiled, which takes a C compiler and "
    "Python's headers (`atoll doctor` checks for both).",
    "",
    "Of attention, sinks (gpt-oss) and the latent cache of MLA (DeepSeek, in float16 and bfloat16) "
    "are served by `atoll` alone; where that is refused, by `sdpa`. These two, and products in "
    "MXFP4, were compiled for every architecture of the table and compared with float64 in "
    "Triton-language's interpreter, but not measured on a GPU yet.",
    "",
    "Heads of 257 to 512 features, those of Gemma 4's layers that see the whole text, are served "
    "by `atoll` in float16 and bfloat16, and in float32 by torch: prompts by `torch-efficient`, "
    "decoding by `sdpa`, whose steps are not replayed as CUDA graphs. These kernels, too, were "
    "compiled for every architecture and compared in the interpreter, but not measured yet.",
    "",
    "## Several GPUs, several models",
    "",
    "Without `num_shard`, a model runs on one GPU: the one named by its `device` setting "
    "(`cuda:1`), the one that Triton assigns to an instance of `KIND_GPU`, or the first. "
    "`instance_group` with `count: 2`, or with two entries in `gpus`, serves a model from that "
    "many processes, each with its own weights and cache. Generators that share a GPU are loaded "
    "one after the other, and each takes `memory_fraction` of what is then free: of 80 GiB a half, "
    "a quarter, an eighth. To share evenly, set `max_batch_total_tokens`.",
    "",
    "## CPU",
    "",
    "Native kernels are compiled with the machine's C++ compiler at first use, for the widest of "
    "these instruction sets that both the CPU and the compiler support: AMX, AVX-512 with "
    "bfloat16, AVX-512, AVX2, portable C++. "
    "`ATOLL_CPU_ISA` selects a narrower one. Without a compiler, plain torch is used, and `atoll "
    "doctor` says so. For an image, `ATOLL_KERNELS=FOLDER atoll warmup` compiles all of them in "
    "advance. With each of them, weights in MXFP4 stay at 4.25 bits: they are looked up in "
    "registers and multiplied in bfloat16 or float32; neither they nor activations are rounded.",
    "",
)
