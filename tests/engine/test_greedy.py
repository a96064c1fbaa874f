"""Greedy answers equal transformers', however the work is cut into steps."""

from pathlib import Path
from typing import Any

import pytest
import torch
from driving import VOCAB, generate, load, make_core, reference_greedy, request, run, save_llama

COUNT = 24


@pytest.fixture(scope="module")
def prompts() -> list[list[int]]:
    generator = torch.Generator().manual_seed(3)
    lengths = (1, 2, 5, 9, 17, 30, 31, 46)
    return [torch.randint(3, VOCAB, (n,), generator=generator).tolist() for n in lengths]


@pytest.fixture(scope="module", params=[None, 12], ids=["full", "window"])
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Our model and transformers' answers' source; with and without a sliding window."""
    folder: Path = tmp_path_factory.mktemp("llama")
    changes = {} if request.param is None else {"sliding_window": request.param}
    reference = save_llama(folder, **changes)
    return load(folder), reference, request.param


@pytest.fixture(scope="module")
def expected(case: Any, prompts: list[list[int]]) -> list[list[int]]:
    return [reference_greedy(case[1], prompt, COUNT) for prompt in prompts]


def test_alone(case: Any, prompts: list[list[int]], expected: list[list[int]]) -> None:
    core = make_core(case[0])
    assert [generate(core, [p], max_new_tokens=COUNT)[0] for p in prompts] == expected


@pytest.mark.parametrize("chunk", [1, 3, 4, 16, 2048])
@pytest.mark.parametrize("prefix_caching", [True, False])
def test_together_in_chunks(
    case: Any, prompts: list[list[int]], expected: list[list[int]], chunk: int, prefix_caching: bool
) -> None:
    core = make_core(
        case[0], num_blocks=256, prefix_caching=prefix_caching,
        max_batch_prefill_tokens=chunk, max_mixed_prefill_tokens=max(chunk // 2, 1),
    )  # fmt: skip
    assert generate(core, prompts, max_new_tokens=COUNT) == expected


def test_after_preemption(case: Any, prompts: list[list[int]], expected: list[list[int]]) -> None:
    core = make_core(case[0], num_blocks=26 if case[2] is None else 13, prefix_caching=False)
    assert generate(core, prompts, max_new_tokens=COUNT) == expected
    assert core.stats().num_preemptions > 0
    assert core.stats().num_used_blocks == 0


def test_with_prefix_hits(case: Any, prompts: list[list[int]], expected: list[list[int]]) -> None:
    core = make_core(case[0], num_blocks=256)
    generate(core, prompts, max_new_tokens=COUNT)
    hits = core.stats().num_hit_tokens
    assert generate(core, prompts, max_new_tokens=COUNT) == expected
    assert core.stats().num_hit_tokens - hits >= 8 + 16 + 28 + 28 + 44


def test_late_requests_join_running_ones(
    case: Any, prompts: list[list[int]], expected: list[list[int]]
) -> None:
    core, sinks = make_core(case[0], num_blocks=256), []
    for prompt in prompts:
        made, sink = request(prompt, COUNT)
        core.add(made)
        sinks.append(sink)
        core.step()
        core.step()
    assert len(sinks[0].tokens) > len(sinks[-1].tokens) > 0
    run(core)
    assert [sink.ids for sink in sinks] == expected
