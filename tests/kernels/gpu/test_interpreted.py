"""The Triton-language kernels against float64, without a GPU: in Triton-lang's interpreter.

Whether kernels are interpreted is fixed when they are imported, so this is a process of its own. On
a machine with a GPU the same tests run compiled as well: ``pytest tests/kernels/gpu/interpreted``.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent / "interpreted"
FILES = sorted(path.name for path in FOLDER.glob("test_*.py"))
# Several share a process, whose imports take seconds.
GROUPS = [tuple(FILES[first::2]) for first in range(2)]


@pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="triton, the kernel language, is missing"
)
@pytest.mark.parametrize("files", GROUPS, ids="+".join)
def test_interpreted(files: tuple[str, ...]) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-W", "ignore::RuntimeWarning"]
    paths = [str(FOLDER / file) for file in files]
    done = subprocess.run(
        [*command, *paths], env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert " passed" in done.stdout
