"""Two ranks give the texts of one, whatever the engine does: the same requests run on both.

Chunked prefill, prefix hits, preemption, guessed tokens, LoRA adapters, grammars, sampling, and the
log-probabilities of prompts, all at once.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from adapters import save_adapter
from driving import Collector, request, save_llama
from engines import answers, engine
from tiny.checkpoint import write
from tiny.decoders import DECODERS
from tiny.t5 import write_t5

from atoll.serving.engine_loader import LoadedEngine

PROMPTS = [[7, 8, 9, 10] * 6, [7, 8, 9, 10] * 6 + [11], [5, 6, 7], [9] * 40, [70, 3], [5, 6] * 9]
# A cache that is too small for all of them, prompts that take several steps, and guesses.
SETTINGS = {
    "max_batch_total_tokens": 160, "max_batch_prefill_tokens": 16, "block_size": 4, "speculate": 3,
    "max_total_tokens": 128,
}  # fmt: skip


class Grammar:
    """Even tokens alone."""

    vocab_size = 96
    is_done = False

    def matcher(self) -> Any:
        return self

    def advance(self, token_id: int) -> None:
        assert token_id % 2 == 0

    def fill(self, bitmask: Any, row: int) -> None:
        bitmask[row] = 0x55555555


OPTIONS: list[dict[str, Any]] = [
    {}, {"adapter_id": "a"}, {"adapter_id": "b"}, {"grammar": Grammar()},
    {"do_sample": True, "seed": 3, "top_k": 5}, {"prompt_logprobs": True, "prompt_top_logprobs": 2},
]  # fmt: skip


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root: Path = tmp_path_factory.mktemp("ranks")
    save_llama(root / "base", max_position_embeddings=128)
    save_adapter(root / "base", root / "a", 1, ["q_proj", "down_proj"], r=4)
    save_adapter(root / "base", root / "b", 2, ["k_proj", "o_proj", "up_proj"], r=2)
    return root


def settings_of(root: Path) -> dict[str, Any]:
    return {**SETTINGS, "lora_adapters": f"a={root / 'a'},b={root / 'b'}"}


def asked(loaded: LoadedEngine) -> list[Collector]:
    """Everything twice, so that the second half finds prefixes."""
    found = []
    for _ in range(2):
        sinks = []
        for index, options in enumerate(OPTIONS):
            for prompt in PROMPTS[index % 2 :: 2]:
                made, sink = request(prompt, 20, **options)
                loaded.engine.submit(made)
                sinks.append(sink)
        assert all(sink.ended.wait(120) for sink in sinks)
        found += sinks
    assert [sink.error for sink in found] == [None] * len(found)
    return found


@pytest.fixture(scope="module")
def one_rank(checkpoint: Path) -> Iterator[list[Collector]]:
    with engine(checkpoint / "base", **settings_of(checkpoint)) as loaded:
        yield asked(loaded)


def test_texts_are_those_of_one_rank(checkpoint: Path, one_rank: list[Collector]) -> None:
    with engine(checkpoint / "base", num_shard=2, **settings_of(checkpoint)) as loaded:
        assert loaded.facts["num_shard"] == 2
        two_ranks, stats = asked(loaded), loaded.engine.stats()
    assert stats.num_preemptions and stats.num_hit_tokens and stats.num_accepted_tokens
    assert [sink.ids for sink in two_ranks] == [sink.ids for sink in one_rank]
    scored = 0
    for found, expected in zip(two_ranks, one_rank, strict=True):
        ours = [token.logprob or 0.0 for token in found.prompt_tokens]
        theirs = [token.logprob or 0.0 for token in expected.prompt_tokens]
        np.testing.assert_allclose(ours, theirs, atol=1e-4)
        scored += len(ours)
    assert scored


def write_encoder_decoder(folder: Path) -> None:
    write_t5("flan-t5", folder)


def write_experts(folder: Path) -> None:
    write(next(variant for variant in DECODERS if variant.name == "mixtral"), folder)


@pytest.mark.parametrize("write_checkpoint", [write_encoder_decoder, write_experts])
def test_encoders_and_experts_are_divided_too(
    write_checkpoint: Callable[[Path], None], tmp_path: Path
) -> None:
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    write_checkpoint(folder)
    found = []
    for size in (1, 2):
        with engine(folder, num_shard=size, max_batch_prefill_tokens=16) as loaded:
            found.append(answers(loaded, [prompt[:20] for prompt in PROMPTS], 12))
    assert found[0] == found[1]
