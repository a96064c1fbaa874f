"""The benchmark for GPUs, dry: every phase, every kernel, the fields that a run on a GPU has."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[3]
PHASES = ("environment", "correctness", "kernels", "decode", "prefill", "encoder", "server")
TIMED = {
    "rms_norm", "layer_norm", "gated_activation", "rope_write_kv", "varlen_attention",
    "paged_prefill", "paged_decode", "linear int4", "linear int8", "mixture_of_experts", "sample",
}  # fmt: skip
CHECKED = {*TIMED, "activate", "apply_rope", "write_kv", "linear mxfp4", "paged_latent"}
FIELDS = {
    "environment": {"name", "value"},
    "correctness": {"kernel", "case", "dtype", "error", "tolerance", "correct"},
    "kernels": {
        "kernel", "case", "dtype", "us", "clock", "flops", "bytes", "limit_us", "share", "goal",
        "peers",
    },
    "decode": {
        "model", "dtype", "batch", "context", "graphs", "us", "us_eager", "tokens_per_s",
        "limit_tokens_per_s", "share", "goal",
    },
    "prefill": {
        "model", "dtype", "prompts", "context", "us", "tokens_per_s", "limit_tokens_per_s",
        "share", "goal",
    },
    "encoder": {
        "model", "dtype", "length", "batch", "us", "clock", "sequences_per_s",
        "limit_sequences_per_s", "share", "goal",
    },
    "server": {
        "model", "dtype", "concurrency", "tokens_per_s", "first_token_ms", "per_token_ms",
    },
}  # fmt: skip

pytestmark = [
    pytest.mark.slow,
    pytest.mark.server,
    pytest.mark.skipif(
        importlib.util.find_spec("triton") is None, reason="triton, the kernel language, is missing"
    ),
]


def run(out: Path, *arguments: str) -> tuple[dict[str, Any], str]:
    """The phases that the file holds after a dry run, and what was printed."""
    command = [
        sys.executable,
        str(ROOT / "benchmarks" / "gpu" / "gpu.py"),
        "--dry",
        "--out",
        str(out),
    ]
    done = subprocess.run([*command, *arguments], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    found = json.loads((out / "gpu-dry.json").read_text())
    assert found["mode"] == "dry"
    return found["phases"], done.stdout


def test_every_phase_and_every_kernel(tmp_path: Path) -> None:
    phases, printed = run(tmp_path)
    assert tuple(phases) == PHASES
    for name, phase in phases.items():
        assert phase["mode"] == "dry" and phase["is_complete"] and phase["rows"], name
        assert f"{name} (dry" in printed
        for row in phase["rows"]:
            assert set(row) == FIELDS[name], row
    rows = phases["correctness"]["rows"]
    for row in rows:
        assert row["correct"] and row["error"] <= row["tolerance"], row
    assert {row["kernel"] for row in rows} == CHECKED
    for kernel in CHECKED:
        dtypes = {row["dtype"] for row in rows if row["kernel"] == kernel}
        half = {"fp16", "bf16"}
        assert dtypes == (half if kernel == "paged_latent" else {"fp32", *half}), kernel
    timed = phases["kernels"]["rows"]
    assert {row["kernel"] for row in timed} == TIMED
    for row in timed:
        assert row["us"] > 0 and row["limit_us"] > 0 and row["peers"], row
    svg = (tmp_path / "gpu-dry.svg").read_text()
    assert "share of the device" in svg
    page = (tmp_path / "gpu-dry.md").read_text()
    assert all(f"## {name}\n" in page for name in PHASES[1:]) and "| Llama-2-7B |" in page
    check_resuming(tmp_path, phases)


def check_resuming(out: Path, before: dict[str, Any]) -> None:
    """One phase runs again, the others' results stay; a phase that is cut off keeps its rows."""
    phases, _ = run(out, "--phase", "environment", "--deadline", "0")
    assert {k: v for k, v in phases.items() if k != "environment"} == {
        k: v for k, v in before.items() if k != "environment"
    }
    again = phases["environment"]
    assert len(again["rows"]) == 1 and not again["is_complete"]
