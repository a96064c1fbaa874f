"""Families in the engine, most with windows, states or caches of their own, however work is cut."""

from pathlib import Path
from typing import Any

import pytest
import torch
from driving import generate, load, make_core, reference_greedy
from tiny.checkpoint import write
from tiny.decoders import DECODERS
from tiny.llamas import VOCAB

from atoll.engine.speculation import NgramDraft
from atoll.runner.kv_cache import group_windows

COUNT = 16
# Windows shorter than the texts, in some of the layers or in all; layers without rope.
NAMES = (
    "qwen2", "qwen3", "qwen2-moe", "qwen3-moe-window", "phi3-window", "phi4-mini", "starcoder2",
    "gpt2", "gptj", "smollm3-old", "granite", "olmo2", "ministral3", "cohere2",
    "olmo3", "glm4", "gemma2", "gemma3-old", "gemma4-e2b",
    "gpt-oss",
    "deepseek-v3",
    "qwen3.5", "qwen3.5-moe", "qwen3-next", "lfm2", "granite-4-h", "falcon-h1-normed", "mamba",
)  # fmt: skip


@pytest.fixture(scope="module", params=NAMES)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Our model, prompts that share a prefix longer than the window, and transformers' answers."""
    folder: Path = tmp_path_factory.mktemp("windows")
    reference = write(next(v for v in DECODERS if v.name == request.param), folder).model
    generator = torch.Generator().manual_seed(3)
    prompts = [torch.randint(3, VOCAB, (n,), generator=generator).tolist() for n in (2, 9, 30, 36)]
    prompts[3][:24] = prompts[2][:24]
    expected = [reference_greedy(reference, prompt, COUNT) for prompt in prompts]
    return load(folder), prompts, expected


@pytest.mark.parametrize(
    "options",
    [
        {"max_batch_prefill_tokens": 5},
        {"num_blocks": 16, "prefix_caching": False},
        {"draft": NgramDraft(3)},
    ],
    ids=["chunks", "preemption", "speculation"],
)
def test_together(case: Any, options: dict[str, Any]) -> None:
    model, prompts, expected = case
    core = make_core(model, **{"num_blocks": 128, **options})
    assert generate(core, prompts, max_new_tokens=COUNT) == expected
    # Where every layer has a window, the blocks suffice; without attention, they count tokens.
    sees_all = None in group_windows(model.cache_specs())
    assert bool(core.stats().num_preemptions) == ("num_blocks" in options and sees_all)
    assert core.stats().num_used_blocks == 0


@pytest.mark.parametrize("is_buffered", [False, True])
def test_prefixes_past_the_window(case: Any, is_buffered: bool) -> None:
    model, prompts, expected = case
    core = make_core(model, num_blocks=128)
    if is_buffered:
        core._runner.buffer_decoding(4)  # type: ignore[attr-defined]
    for prompt, answer in zip(prompts * 2, expected * 2, strict=True):
        assert generate(core, [prompt], max_new_tokens=COUNT) == [answer]
    # A state cannot be shared where two prompts part, but where it was saved.
    assert core.stats().num_hit_tokens >= (8 if model.state_specs() else 24) + 28 + 32
