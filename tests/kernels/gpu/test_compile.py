"""Every production wrapper compiled ahead of time for every target, without a GPU.

By default one case of each kernel for each target; ``ATOLL_FULL_COMPILE=1`` compiles all of
``gpu_cases`` (ten minutes of a core).
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[3]
# Bytes of shared memory that one block of threads may have.
SHARED = {
    "sm75": 64 << 10, "sm80": 163 << 10, "sm86": 99 << 10, "sm89": 99 << 10, "sm90": 227 << 10,
    "gfx90a": 64 << 10,
}  # fmt: skip
TENSOR_CORES = {
    "sm75": set(), "sm80": {"HMMA"}, "sm86": {"HMMA"}, "sm89": {"HMMA"},
    "sm90": {"HMMA", "HGMMA"}, "gfx90a": {"v_mfma"},
}  # fmt: skip
CASES = [
    "flash-d128", "flash-d256-softcap", "decode-d128", "decode-d256-softcap", "layer-norm", "rope",
    "int4-decode-order", "int8-prefill", "int4-dequantized-order-bf16", "gemv", "gemv-int4",
    "experts-int4-decode", "sample", "decode-d64-sinks", "latent-decode", "experts-mxfp4-decode",
    "disentangled-d64", "conv-decode", "delta-step", "delta-chunk", "scan2-step", "scan2-chunk",
    "grouped-norm", "gates", "scan",
]  # fmt: skip
PRODUCTS = {
    "flash_kernel",
    "decode_kernel",
    "latent_kernel",
    "matmul_kernel",
    "disentangled_kernel",
    "scan2_chunk_kernel",
    "gated_delta_products_kernel",
    "gated_delta_scan_kernel",
}
# Bytes of a local variable that float32 at the largest head size may lose to memory.
SPILLS_OF_WIDE_HEADS = 64
# Instructions, since states of 16 bits are converted where float32 fills the registers.
SPILLS_OF_STORED_STATES = 8
# A vocabulary's keys and masses, each read 32 times, fill the registers to the last.
SPILLS_OF_SAMPLING = 32
# A launch with more fails, on every one of these cards.
THREADS = 1024
IS_FULL = os.environ.get("ATOLL_FULL_COMPILE") == "1"


def compiled(architecture: str, cases: Sequence[str]) -> list[dict[str, Any]]:
    """What ``gpu_compile`` prints, in a process of its own; of all cases if none is named."""
    path = [str(ROOT / "kernels"), str(ROOT / "tests" / "support")]
    environment = {**os.environ, "PYTHONPATH": ":".join(path)}
    environment.pop("TRITON_INTERPRET", None)
    command = [sys.executable, str(ROOT / "tests" / "support" / "gpu_compile.py"), architecture]
    done = subprocess.run(
        [*command, *cases], env=environment, capture_output=True, text=True,
        timeout=1800,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


@pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="triton, the kernel language, is missing"
)
@pytest.mark.parametrize("architecture", list(SHARED))
def test_compiles_within_the_limits(architecture: str) -> None:
    kernels = compiled(architecture, [] if IS_FULL else CASES)
    assert {kernel["case"] for kernel in kernels} >= set(CASES)
    assert {kernel["kernel"] for kernel in kernels} >= PRODUCTS
    for kernel in kernels:
        assert kernel["shared"] <= SHARED[architecture], kernel
        assert kernel["threads"] <= THREADS, kernel
        is_wide = "fp32" in kernel["case"] and "d256" in kernel["case"]
        allowed = SPILLS_OF_WIDE_HEADS if is_wide else 0
        allowed = SPILLS_OF_STORED_STATES if "-stored-" in kernel["case"] else allowed
        allowed = SPILLS_OF_SAMPLING if kernel["kernel"] == "sample_kernel" else allowed
        assert kernel["spills"] <= allowed, kernel
        if kernel["kernel"] in PRODUCTS and TENSOR_CORES[architecture]:
            assert set(kernel["tensor_cores"]) & TENSOR_CORES[architecture], kernel
    if architecture == "sm90":
        flash = [k for k in kernels if k["case"] == "flash-d128" and k["kernel"] == "flash_kernel"]
        assert all("HGMMA" in kernel["tensor_cores"] for kernel in flash)


@pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="triton, the kernel language, is missing"
)
def test_batches_of_any_size_share_their_kernels() -> None:
    """Every number of sequences, blocks or rows that was 1, or that 16 divides, and every number of
    shares of the keys was compiled apart: seconds of silence for whoever was being answered.
    """
    variants: dict[str, set[str]] = {}
    for kernel in compiled("sm90", ["batches", "--names"]):
        variants.setdefault(kernel["kernel"], set()).add(kernel["hash"])
    found = {name: len(hashes) for name, hashes in variants.items()}
    # Packed keys, paged keys, and paged ones of a few tokens each.
    assert found.pop("flash_kernel") == 2
    # Split keys or not; their sums by the next power of two.
    assert found.pop("decode_kernel") == 2 and found.pop("combine_kernel") <= 7
    # 4-bit layers of one tile of rows and of two, and an expert's two layers.
    assert found.pop("matmul_kernel") <= 4
    assert found and set(found.values()) == {1}
