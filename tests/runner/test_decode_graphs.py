"""Decoding over static buffers equals decoding without them; a GPU's graphs equal both.

Without a GPU the buffered step runs launch by launch: the same padded rows, the same code.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from driving import VOCAB, Collector, load, make_core, run
from tiny.checkpoint import write
from tiny.decoders import DECODERS
from tiny.llamas import DYNAMIC
from tiny.t5 import write_t5
from torch import Tensor

from atoll.config import Settings
from atoll.engine.core import EngineCore
from atoll.engine.request import Request, SamplingOptions
from atoll.models.registry import Checkpoint, load_decoder
from atoll.runner import loader
from atoll.runner.decode_graphs import buckets, refusal
from atoll.runner.model_runner import ModelRunner
from atoll.weights.load import LoadOptions
from atoll_kernels import dispatch
from atoll_kernels.backends import KernelPolicy

# Rotary, a sliding window, ALiBi (twice: Falcon's is scaled), experts, rotation by length.
VARIANTS = {v.name: v for v in (*DECODERS, DYNAMIC)}
KINDS = (
    "llama",
    "mistral-window",
    "bloom",
    "falcon-rw",
    "mixtral",
    "llama-dynamic",
    "flan-t5",
    "qwen3.5",
)
# Sequences end one after the other, so steps have every size from all of them down to one.
NUM_SEQUENCES = 11


@pytest.fixture(scope="module", params=KINDS)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder: Path = tmp_path_factory.mktemp("checkpoint")
    if request.param == "flan-t5":
        write_t5("flan-t5", folder)
    else:
        write(VARIANTS[request.param], folder)
    return load(folder)


class Recorded:
    """An engine whose steps' logits are kept, and how many sequences each step had."""

    def __init__(self, model: Any, max_batch_size: int | None, **options: Any) -> None:
        self.core: EngineCore = make_core(model, num_blocks=128, **options)
        self.runner: ModelRunner = self.core._runner
        for layer in self.runner.kv_cache:
            layer.keys.fill_(7.0)
            layer.values.fill_(7.0)
        if max_batch_size is not None:
            self.runner.buffer_decoding(max_batch_size)
        self.logits: list[Tensor] = []
        self.num_buffered = 0
        forward, steps = self.runner.forward, self.runner.decode_graphs

        def recorded(step: Any) -> Any:
            self.num_buffered += steps is not None and steps.takes(step)
            out = forward(step)
            self.logits.append(out.logits.clone())
            return out

        self.runner.forward = recorded  # type: ignore[method-assign]

    def generate(self, has_encoder: bool) -> list[list[int]]:
        generator = torch.Generator().manual_seed(3)
        sinks = []
        for index in range(NUM_SEQUENCES):
            ids = tuple(torch.randint(3, VOCAB, (1 + 3 * index,), generator=generator).tolist())
            sink, options = Collector(), SamplingOptions(max_new_tokens=2 + 2 * index)
            prompt, encoder = ((0,), ids) if has_encoder else (ids, ())
            self.core.add(Request(f"{index}", prompt, options, sink, encoder_ids=encoder))
            sinks.append(sink)
        run(self.core)
        assert [sink.error for sink in sinks] == [None] * len(sinks)
        return [sink.ids for sink in sinks]


@pytest.mark.parametrize("max_batch_size", [4, 9, 64])
def test_buffered_steps_equal_plain_ones(model: Any, max_batch_size: int) -> None:
    """All sizes of steps, with rows of padding and without, and steps beyond the largest bucket."""
    has_encoder = hasattr(model, "encode")
    plain, buffered = Recorded(model, None), Recorded(model, max_batch_size)
    assert buffered.generate(has_encoder) == plain.generate(has_encoder)
    assert buffered.num_buffered >= 8 and plain.num_buffered == 0
    sizes = {len(x) for x in plain.logits}
    assert sizes >= set(range(1, NUM_SEQUENCES + 1))
    for found, expected in zip(buffered.logits, plain.logits, strict=True):
        limit = 2e-5 * max(1.0, float(expected.std()))
        assert float((found - expected).abs().max()) <= limit
    caches = zip(buffered.runner.kv_cache, plain.runner.kv_cache, strict=True)
    for found, expected in itertools.chain.from_iterable(
        zip(*(layer[:2] for layer in pair), strict=True) for pair in caches
    ):
        assert torch.equal(found == 7.0, expected == 7.0), "padding was written"
        assert torch.allclose(found, expected, atol=2e-5)


def test_full_buckets_are_bitwise_equal(model: Any) -> None:
    """Without padding the numbers are the same, not only close."""
    if hasattr(model, "encode"):
        pytest.skip("its requests have another shape")
    answers = []
    for max_batch_size in (None, 4):
        recorded = Recorded(model, max_batch_size)
        for index in range(4):
            sink, options = Collector(), SamplingOptions(max_new_tokens=5)
            recorded.core.add(Request(f"{index}", (5 + index, 9), options, sink))
        run(recorded.core)
        answers.append(recorded.logits)
    assert all(torch.equal(a, b) for a, b in zip(*answers, strict=True))


def test_buckets() -> None:
    assert buckets(1) == (1,)
    assert buckets(2) == (1, 2)
    assert buckets(8) == (1, 2, 4, 8)
    assert buckets(20) == (1, 2, 4, 8, 16, 20)
    assert buckets(256)[-3:] == (240, 248, 256) and buckets(1000) == buckets(256)
    assert buckets(256, "cpu")[-2:] == (24, 32)
    assert len(buckets(256)) == 35


@pytest.fixture
def llama(tmp_path: Path) -> Iterator[Any]:
    write(VARIANTS["llama"], tmp_path)
    yield load(tmp_path)


def test_drafts_and_prompts_take_the_other_way(llama: Any) -> None:
    """Several tokens of a sequence, chunks, and tables beyond the buffers are not buffered."""
    guesses = Recorded(llama, 8, draft=lambda sequence: [5, 5])
    plain = Recorded(llama, None)
    assert guesses.generate(False) == plain.generate(False)
    assert guesses.num_buffered == 0
    one = Recorded(llama, 8, max_batch_prefill_tokens=1)
    assert one.generate(False) == plain.generate(False)


@pytest.mark.parametrize("max_batch_size", [8, None])
def test_a_failed_step_leaves_the_cache_where_it_is(llama: Any, max_batch_size: int | None) -> None:
    """Graphs hold its address; what the failed step wrote must not be read. Without graphs another
    cache was made beside the old one, which the error's frames still held: it may not fit.
    """
    recorded = Recorded(llama, max_batch_size)
    recorded.runner.device = torch.device("cuda")
    before = [t.data_ptr() for layer in recorded.runner.kv_cache for t in layer[:2]]
    recorded.runner.reset()
    tensors = [t for layer in recorded.runner.kv_cache for t in layer[:2]]
    assert [t.data_ptr() for t in tensors] == before
    assert all(not t.any() for t in tensors)


def test_refusals(llama: Any) -> None:
    device = torch.device("cpu")
    assert refusal(llama, device, torch.float32) is None
    assert refusal(llama, device, torch.float16) == "no native kernel takes torch.float16"
    dispatch.configure(KernelPolicy(disable_custom_kernels=True))
    try:
        assert "switched off" in str(refusal(llama, device, torch.float32))
    finally:
        dispatch.configure(KernelPolicy())


class FakeGraph:
    """Stands in for a graph, and counts its replays."""

    def __init__(self) -> None:
        self.replays: list[int] = []

    def replay(self) -> None:
        self.replays.append(1)


@pytest.fixture
def fake_cuda(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """What of torch.cuda a capture asks for; pools and streams are only handed on."""
    entered: list[tuple[Any, ...]] = []

    @contextmanager
    def graph(made: Any, *, pool: Any, stream: Any, capture_error_mode: str) -> Iterator[None]:
        entered.append((made, pool, stream))
        yield

    stream = SimpleNamespace(wait_stream=lambda other: None)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: stream)
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: SimpleNamespace(**vars(stream)))
    monkeypatch.setattr(torch.cuda, "stream", nullcontext)
    monkeypatch.setattr(torch.cuda, "set_stream", lambda stream: None)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", object)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", FakeGraph)
    monkeypatch.setattr(torch.cuda, "graph", graph)
    return entered


def test_capture_goes_from_the_largest_in_one_pool(
    llama: Any, fake_cuda: list[tuple[Any, ...]]
) -> None:
    recorded = Recorded(llama, 20)
    steps: Any = recorded.runner.decode_graphs
    steps._cpu_graphs = None
    ran: list[int] = []
    step = steps._step
    steps._step = lambda bucket: (ran.append(bucket), step(bucket))
    steps.capture()
    assert ran == [20, 20, 16, 16, 8, 8, 4, 4, 2, 2, 1, 1]
    assert len({pool for _, pool, _ in fake_cuda}) == len({id(s) for _, _, s in fake_cuda}) == 1
    ran.clear()
    recorded.generate(False)
    # Not a launch: what was captured for the least bucket that holds a step is replayed.
    graphs = {size: len(graph.replays) for size, graph in steps._graphs.items()}
    assert ran == [] and sum(graphs.values()) == recorded.num_buffered
    assert graphs[16] > 0 and graphs[1] > 0 and graphs[20] == 0


def test_without_a_capture_steps_run_one_by_one(
    llama: Any, fake_cuda: list[tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(torch.cuda, "graph", fails)
    recorded, plain = Recorded(llama, 8), Recorded(llama, None)
    steps: Any = recorded.runner.decode_graphs
    steps._cpu_graphs = None
    steps.capture()
    assert steps.num_captured == 0
    assert recorded.generate(False) == plain.generate(False)


@pytest.mark.parametrize("is_wanted", [True, False])
def test_the_setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_wanted: bool) -> None:
    sizes: list[int] = []
    write(VARIANTS["llama"], tmp_path)
    monkeypatch.setattr(loader, "refusal", lambda *_: None)
    monkeypatch.setattr(ModelRunner, "buffer_decoding", lambda self, size: sizes.append(size))
    settings = Settings(cuda_graphs=is_wanted, max_batch_size=7, max_batch_total_tokens=64)
    loader.load_runner(settings, tmp_path)
    assert sizes == [7] * is_wanted


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("kind", ["llama", "bloom", "mixtral", "llama-dynamic"])
def test_replayed_steps_equal_eager_ones(kind: str, tmp_path: Path) -> None:
    """The real thing: captured, replayed, and close to the same kernels launched one by one."""
    write(VARIANTS[kind], tmp_path)
    device, dtype = torch.device("cuda"), torch.float32
    model: Any = load_decoder(Checkpoint.open(tmp_path), LoadOptions(dtype, device))
    runs = []
    for max_batch_size in (None, 64):
        recorded = Recorded(model, max_batch_size, device=device)
        runs.append((recorded.generate(False), recorded))
    (plain_ids, plain), (ids, captured) = runs
    assert refusal(model, device, dtype) is None
    assert captured.runner.decode_graphs is not None
    assert captured.runner.decode_graphs.num_captured == len(buckets(64))
    assert ids == plain_ids and captured.num_buffered >= 8
    for found, expected in zip(captured.logits, plain.logits, strict=True):
        assert torch.allclose(found, expected, atol=1e-4)
