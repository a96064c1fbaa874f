"""The engines' numerics with each family of kernels forced in turn.

The tests are those of the encoders, the decoders and the engine; the default kernels, the widest
native ones, run with these anyway.
"""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny.decoders import DECODERS as VARIANTS

from atoll_kernels.cpu.native.build import LEVELS, cpu_flags

TESTS = Path(__file__).resolve().parents[1]
ENCODERS, DECODERS = TESTS / "encoders/test_numerics.py", TESTS / "models/test_decoders.py"
T5, ENGINE = TESTS / "models/test_t5.py", TESTS / "engine/test_greedy.py"
# AVX2 and portable C++; kernels themselves are tested at every level.
NARROW = [level.name for level in LEVELS if cpu_flags().issuperset(level.needs)][-2:]
# One trunk for each kind of attention, norm, MLP and experts; the others differ in their files.
TRUNKS = (
    "bert", "mpnet", "modernbert", "gte", "nomic", "deberta", "qwen3-window", "gemma2-both-sides",
    "qwen3-moe", "deepseek-v2", "gpt-oss-dense",
)  # fmt: skip
# The same of decoders: every kernel that one calls is called by some of these.
KINDS = (
    "llama-biases", "llama-yarn", "mistral-window", "mixtral", "qwen3", "qwen3-moe-window",
    "bloom", "opt-350m", "gpt-neox", "starcoder", "falcon-40b", "mpt-softmax-scale",
    "mpt-qk-norms", "phi-qk-norms", "phi3-128k-old", "gptj", "granite", "olmo2", "gpt-oss",
    "gpt-oss-dense", "gemma2", "gemma4-e2b", "gemma4-26b", "cohere2", "glm4", "deepseek-v2-lite",
    "deepseek-v3", "qwen3.5-moe", "lfm2-moe", "granite-4-h", "falcon-h1-normed", "nemotron-3",
    "mamba2", "falcon-mamba",
)  # fmt: skip
_SHARED = (
    "trunk_equals_its_description", "jina", "newcomer", "preemption",
    *(f"trunk_equals_transformers[{name}]" for name in TRUNKS),
)  # fmt: skip
CHOSEN = " or ".join((*_SHARED, "one_by_one"))
ONE_OF_EACH = " or ".join((*_SHARED, *(f"one_by_one[{name}]" for name in KINDS)))


def run(files: list[Path], chosen: str, kernels: dict[str, Any], **environment: str) -> None:
    """Runs the tests whose names match in a process of their own: kernels are bound on import."""
    support = str(TESTS / "support")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "forced", "-k", chosen, "-W", "ignore",
         *map(str, files)],
        env={**os.environ, "PYTHONPATH": support, "FORCED_KERNELS": json.dumps(kernels),
             **environment},
        capture_output=True, text=True, timeout=280,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert " passed" in done.stdout and " skipped" not in done.stdout


def test_kinds_are_variants_that_there_are() -> None:
    assert set(KINDS) <= {variant.name for variant in VARIANTS}


def test_plain_torch() -> None:
    """What ``--disable-custom-kernels`` runs."""
    run([ENCODERS, DECODERS, T5, ENGINE], CHOSEN, {"disable_custom_kernels": True})


@pytest.mark.parametrize("level", NARROW)
def test_narrower_instructions(level: str) -> None:
    """What an older CPU runs."""
    run([ENCODERS, DECODERS, T5, ENGINE], ONE_OF_EACH, {}, ATOLL_CPU_ISA=level)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("backend", ["atoll", "torch-flash", "torch-efficient", "sdpa"])
def test_on_a_gpu(backend: str) -> None:
    """Each kind of attention goes before the others, where it can serve."""
    files = [ENCODERS, DECODERS, T5, ENGINE]
    run(files, CHOSEN, {"attention_backend": backend}, ATOLL_TEST_DEVICE="cuda")


@pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="triton, the kernel language, is missing"
)
def test_gpu_kernels_interpreted() -> None:
    """Whole models on the Triton-language kernels: packed, in chunks, paged."""
    chosen = "test_jina_equals_its_description[4] or (in_chunks and (mixtral or v2-lite))"
    run([ENCODERS, DECODERS], chosen, {"family": "gpu"}, TRITON_INTERPRET="1")
