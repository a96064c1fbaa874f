"""Generators and encoders on a GPU that is pretended: nothing of the host gets among its tensors.

With values, through the wrappers and the kernels that a GPU gets: chunks of prompts, buffered
steps, every option of the sampler, every pooling, and the way of the answers back.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SUPPORT = Path(__file__).parents[1] / "support"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("triton") is None, reason="triton, the kernel language, is missing"
    ),
    pytest.mark.skipif(shutil.which("g++") is None, reason="needs a compiler"),
]


def test_answers_are_the_hosts(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(SUPPORT / "pretended_runs.py"), str(tmp_path)],
        env={**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": str(SUPPORT)},
        capture_output=True, text=True, timeout=280,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    rows = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert len(rows) == 9
    assert all(row["is_same"] for row in rows), rows
