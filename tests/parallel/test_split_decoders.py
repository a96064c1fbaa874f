"""Every decoder over several ranks gives what one rank gives: prompts in chunks, then decoding."""

from pathlib import Path

import numpy as np
import pytest
import torch
from ranks import Job, Ranks, compute
from tiny.bart import CONFIGS as BARTS
from tiny.bart import write_bart
from tiny.checkpoint import Variant, write
from tiny.decoders import DECODERS
from tiny.llamas import VOCAB
from tiny.t5 import CONFIGS, write_t5
from tiny.whisper import write_whisper

# Grouped heads, one key-value head, as many as others; experts; ALiBi; learned positions.
OF_FOUR = (
    "llama", "llama-biases", "llama-tied", "mistral-window", "mixtral", "mixtral-fused", "bloom",
    "opt-350m", "gpt-neox", "starcoder", "bigcode-multi-head", "santacoder-split", "falcon-7b",
    "falcon-40b", "mpt", "mpt-grouped", "mpt-multi-query", "phi-grouped", "phi-qk-norms",
    "qwen2", "qwen3-biases", "qwen2-moe", "olmo2", "cohere-qk-norms", "deepseek-v3", "qwen3.5-text",
)  # fmt: skip
BY_NAME = {variant.name: variant for variant in DECODERS}

_IDS = torch.randint(3, VOCAB, (40,), generator=torch.Generator().manual_seed(5)).tolist()
TEXTS = {"a": _IDS[:14], "b": _IDS[14:26], "c": _IDS[26:28]}


def _assert_same(ranks: Ranks, job: Job, size: int, tolerance: float = 1e-5) -> None:
    alone = compute(job)
    for found in ranks.run(job, size):
        for name, logits in alone.logits.items():
            scale = max(1.0, float(logits.std()))
            np.testing.assert_allclose(
                found.logits[name], logits, rtol=0, atol=tolerance * scale, err_msg=name
            )


@pytest.mark.parametrize("variant", DECODERS, ids=lambda v: v.name)
def test_two_ranks(variant: Variant, tmp_path: Path, ranks: Ranks) -> None:
    write(variant, tmp_path)
    _assert_same(ranks, Job(tmp_path, TEXTS), 2)


@pytest.mark.parametrize("name", OF_FOUR)
def test_four_ranks(name: str, tmp_path: Path, ranks: Ranks) -> None:
    write(BY_NAME[name], tmp_path)
    _assert_same(ranks, Job(tmp_path, TEXTS), 4)


@pytest.mark.parametrize(
    ("kind", "size"),
    [
        *((kind, size) for kind in sorted(CONFIGS) for size in (2, 4)),
        *((kind, 2) for kind in BARTS),
    ],
)
def test_encoder_decoders(kind: str, size: int, tmp_path: Path, ranks: Ranks) -> None:
    write_bart(kind, tmp_path) if kind in BARTS else write_t5(kind, tmp_path)
    inputs = {"a": _IDS[:21], "b": _IDS[21:24], "c": _IDS[24:]}
    # Scores are not scaled, so that FLAN-T5 with one rank is as far from exact numbers.
    _assert_same(ranks, Job(tmp_path, TEXTS, inputs), size, tolerance=5e-5)


def test_whisper(tmp_path: Path, ranks: Ranks) -> None:
    write_whisper("whisper", tmp_path)
    inputs = {"a": [0] * 21, "b": [0] * 3, "c": [0] * 16}
    features = np.random.default_rng(0).standard_normal((80, 20)).astype(np.float32)
    _assert_same(ranks, Job(tmp_path, TEXTS, inputs, features), 2)
