"""Layers with different windows: each group has blocks of its own, and answers are as if computed
anew at every token."""

from pathlib import Path
from typing import Any

import pytest
import torch
from driving import VOCAB, EchoModel, generate, load, make_core, request, run, save_llama
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from atoll.engine.blocks import OutOfBlocks
from atoll.engine.kv_cache import KVCacheManager
from atoll.engine.speculation import NgramDraft
from atoll.layers.batch import Batch, CacheSpec
from atoll.runner.kv_cache import allocate, group_windows

WINDOW = 6
SETTINGS = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True
)


class TwoGroups(EchoModel):
    """Says what follows from all that the first layer sees and from the window of the second."""

    def __init__(self) -> None:
        super().__init__()
        self._layers = [_Layer(None, 0), _Layer(WINDOW, 1)]

    def cache_specs(self) -> list[CacheSpec]:
        return [CacheSpec(1, 1, layer.window) for layer in self._layers]

    def __call__(self, batch: Batch) -> Tensor:
        whole, last = (layer(batch)[:, 0].long() for layer in self._layers)
        return ((31 * whole + last) % self.vocab_size).double().unsqueeze(1)

    def echo(self, prompt: Any, count: int) -> list[int]:
        ids = list(prompt)
        for _ in range(count):
            whole, last = (layer.echo(ids, 1)[0] for layer in self._layers)
            ids.append((31 * whole + last) % self.vocab_size)
        return ids[len(prompt) :]


class _Layer(EchoModel):
    """One of its layers; looks at its own group's blocks alone."""

    def __init__(self, window: int | None, layer: int) -> None:
        super().__init__(window=window)
        self._layer = layer

    def __call__(self, batch: Batch) -> Tensor:
        cache = batch.kv_cache[self._layer]
        assert batch.block_tables is not None and cache.group == self._layer
        own = {
            "kv_cache": (cache,), "slot_mappings": (batch.slot_mappings[cache.group],),
            "block_tables": (batch.block_tables[cache.group],),
        }  # fmt: skip
        return super().__call__(Batch(**{**vars(batch), **own}))


@SETTINGS
@given(
    prompts=st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=24), min_size=1, max_size=8),
    num_blocks=st.integers(12, 40),
    budget=st.integers(1, 24),
    prefix_caching=st.booleans(),
    sessions=st.booleans(),
)
def test_random_schedules(
    prompts: list[list[int]], num_blocks: int, budget: int, prefix_caching: bool, sessions: bool
) -> None:
    """Preempted, in chunks, with shared prefixes and conversations: no block leaks in any group."""
    model = TwoGroups()
    core = make_core(
        model, num_blocks=num_blocks, prefix_caching=prefix_caching, max_batch_size=4,
        max_batch_prefill_tokens=budget, draft=NgramDraft(2),
    )  # fmt: skip
    for _ in range(2):
        made = [
            request(prompt, 9, session_id="ab"[i % 2] if sessions else None)
            for i, prompt in enumerate(prompts)
        ]
        for one, _ in made:
            core.add(one)
        run(core)
        for one, sink in made:
            assert sink.error is None and sink.ids == model.echo(one.prompt_ids, 9)
    core.scheduler.session_cache.expire(-1)
    assert core.stats().num_used_blocks == 0


def test_a_prefix_is_found_as_far_as_every_group_has_it() -> None:
    cache = KVCacheManager([None, WINDOW], 8, 2)
    ids = list(range(12))
    tables = cache.new_tables(None)
    cache.grow(tables, len(ids))
    cache.commit(tables, ids, len(ids))
    assert [t.num_released for t in tables] == [0, 3]
    cache.release(tables)
    # The window's group needs room: the blocks before its window are the first to go.
    held = cache.groups[1].num_free
    other = cache.new_tables("other")
    cache.groups[1].grow(other[1], 2 * (held - 3))
    again = cache.new_tables(None)
    found = cache.share_prefix(again, ids)
    assert found < 10 and len(again[0]) == len(again[1]) == found // 2
    assert cache.groups[0].share_prefix(cache.new_tables(None)[0], ids) == 10


def test_blocks_are_handed_out_in_every_group_or_in_none() -> None:
    cache = KVCacheManager([None, WINDOW], 4, 2)
    extra, tables = cache.new_tables(None), cache.new_tables(None)
    cache.groups[1].grow(extra[1], 4)
    with pytest.raises(OutOfBlocks):
        cache.grow(tables, 6)
    assert [len(table) for table in tables] == [0, 0]
    cache.grow(tables, 4)
    assert [len(table) for table in tables] == [2, 2]


def test_only_the_windows_group_gives_blocks_back() -> None:
    core = make_core(TwoGroups(), num_blocks=64)
    core.add(request([1, 2, 3], 60)[0])
    used = []
    while core.is_busy:
        core.step()
        used.append([group.num_used for group in core.scheduler.cache.groups])
    assert max(one for _, one in used) <= 3 and max(one for one, _ in used) == 16


def test_layers_may_share_a_cache_and_have_other_widths() -> None:
    specs = [
        CacheSpec(2, 8), CacheSpec(2, 8, window=4, value_dim=3), CacheSpec(2, 8, shared_with=0)
    ]  # fmt: skip
    layers = allocate(specs, 5, 4, torch.float32, torch.device("cpu"))
    assert layers[2] is layers[0] and [layer.group for layer in layers] == [0, 1, 0]
    assert layers[1].keys.shape == (5, 4, 2, 8) and layers[1].values.shape == (5, 4, 2, 3)
    assert group_windows(specs) == (None, 4)
    assert [spec.bytes_per_token(torch.float32) for spec in specs] == [128, 88, 0]


@pytest.mark.parametrize("is_buffered", [False, True])
def test_a_model_with_a_window_in_every_other_layer(tmp_path: Path, is_buffered: bool) -> None:
    """Against the same layers over the whole text at every token, without anything cached."""
    save_llama(tmp_path, num_hidden_layers=4)
    model = load(tmp_path)
    specs = model.cache_specs()
    for index in (1, 3):
        model.blocks[index].attention.window = WINDOW
        specs[index] = CacheSpec(specs[index].num_kv_heads, specs[index].head_dim, WINDOW)
    model.cache_specs = lambda: specs
    generator = torch.Generator().manual_seed(8)
    prompts = [torch.randint(3, VOCAB, (n,), generator=generator).tolist() for n in (3, 9, 20, 20)]
    prompts[3][:12] = prompts[2][:12]
    core = make_core(model, num_blocks=24, max_batch_prefill_tokens=8)
    if is_buffered:
        core._runner.buffer_decoding(4)  # type: ignore[attr-defined]
    answers = generate(core, prompts, max_new_tokens=20) + generate(
        core, prompts, max_new_tokens=20
    )
    assert core.stats().num_preemptions > 0 and core.stats().num_hit_tokens > 0
    for prompt, answer in zip(prompts * 2, answers, strict=True):
        text = list(prompt)
        for token in answer:
            anew = make_core(model, num_blocks=24, prefix_caching=False)
            assert generate(anew, [text], max_new_tokens=1) == [[token]]
            text.append(token)
