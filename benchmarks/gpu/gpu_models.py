"""Whole models on a GPU: decoding and prefill in the engine, and encoders.

Models have the sizes of published ones and random weights, made on the device. Limits are the
shortest possible time for reading their weights and cache, and for their products.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from gpu_inputs import cu_seqlens
from gpu_measure import DTYPES, Bench, Row, attempt
from random_weights import random_model

from atoll.engine.core import EngineCore
from atoll.engine.limits import EngineLimits
from atoll.engine.request import Request, SamplingOptions, Sink
from atoll.layers import Batch, Linear
from atoll.layers.moe import MixtureOfExperts
from atoll.models.families import DECODERS, ENCODERS
from atoll.runner.kv_cache import bytes_per_token
from atoll.runner.model import Decoder
from atoll.runner.model_runner import ModelRunner
from atoll.sampling.sampler import Sampler
from atoll.sampling.watermark import Watermark
from atoll.weights.load import LoadOptions
from atoll_kernels import dispatch
from atoll_kernels.backends import KernelPolicy

_BLOCK = 16
# Published configurations, by the files in ``_CONFIGS``.
GENERATORS = {
    "Llama-2-7B": "meta-llama__Llama-2-7b-hf", "Mistral-7B": "mistralai__Mistral-7B-v0.1",
    "StarCoder": "bigcode__starcoder", "Falcon-40B": "tiiuae__falcon-40b",
    "Mixtral-8x7B": "mistralai__Mixtral-8x7B-Instruct-v0.1",
}  # fmt: skip
_CONFIGS = Path(__file__).resolve().parents[2] / "tests" / "data" / "hub_configs"

_BERT = {
    "model_type": "bert", "vocab_size": 30522, "hidden_size": 768, "intermediate_size": 3072,
    "num_hidden_layers": 12, "num_attention_heads": 12, "max_position_embeddings": 512,
}  # fmt: skip

EMBEDDERS: dict[str, Mapping[str, Any]] = {
    "bge-base": _BERT,
    "bge-large": {
        **_BERT, "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24,
        "num_attention_heads": 16,
    },
}  # fmt: skip

_DRY = {
    "vocab_size": 96, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1,
    "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 128,
    "n_embd": 32, "n_layer": 1, "n_head": 2, "n_inner": 48, "n_positions": 128,
    "sliding_window": 16, "num_local_experts": 3, "num_kv_heads": 1,
}  # fmt: skip

# Shares of the limit to reach.
DECODE_GOALS = {1: 0.75, 64: 0.6, 256: 0.55}
ENCODER_GOALS = {512: 0.5}


def decoding(bench: Bench) -> Iterator[Row]:
    """Rows: model, dtype, batch, context, graphs (number captured), us (per step), us_eager
    (without graphs), tokens_per_s, limit_tokens_per_s, share, goal."""
    for name, file in GENERATORS.items():
        with _own_kernels(bench):
            model = _model(bench, _config(file), DECODERS, "bf16")
        for batch in bench.choose((1, 64, 256), (2,)):
            row: Row = {"model": name, "dtype": "bf16", "batch": batch}
            yield attempt(row, partial(_decode, bench, model, batch))
            bench.release()
        del model
        bench.release()


def prefill(bench: Bench) -> Iterator[Row]:
    """Rows: model, dtype, prompts, context, us, tokens_per_s, limit_tokens_per_s, share, goal."""
    for name, file in GENERATORS.items():
        row: Row = {"model": name, "dtype": "bf16", "goal": None}
        yield attempt(row, partial(_prefill, bench, _config(file)))
        bench.release()


def encoders(bench: Bench) -> Iterator[Row]:
    """Rows: model, dtype, length, batch, us, clock, sequences_per_s, limit, share, goal."""
    for name, raw in EMBEDDERS.items():
        for length in bench.choose((512, 128, 32), (6,)):
            row: Row = {"model": name, "dtype": "fp16", "length": length}
            yield attempt({**row, "goal": ENCODER_GOALS.get(length)},
                          partial(_encode, bench, raw, length))  # fmt: skip
            bench.release()


@dataclass(frozen=True)
class Work:
    """A token's cost: the parameters it is multiplied with, and the bytes that a step reads."""

    parameters: float
    weight_bytes: float
    attention_flops: float


class _Silent(Sink):
    """Ignores a request's tokens."""

    def on_failed(self, error: Exception) -> None:
        """Lets a failed step fail the case."""
        raise error


@contextmanager
def _own_kernels(bench: Bench) -> Iterator[None]:
    """Within, the kernels for GPUs are used; without a GPU, they are interpreted."""
    if bench.is_dry:
        dispatch.configure(KernelPolicy(family="gpu"))
    try:
        with torch.inference_mode():
            yield
    finally:
        dispatch.configure(KernelPolicy())


def _config(file: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((_CONFIGS / f"{file}.json").read_text())
    return found


def _model(bench: Bench, raw: Mapping[str, Any], table: Mapping[str, str], dtype: str) -> Any:
    sizes = {k: v for k, v in _DRY.items() if raw.get(k) is not None} if bench.is_dry else {}
    torch.manual_seed(0)
    return random_model({**raw, **sizes}, table, LoadOptions(DTYPES[dtype], bench.device))


def _runner(bench: Bench, model: Any, num_blocks: int) -> ModelRunner:
    sampler = Sampler(Watermark(model.config.vocab_size, 0.5, 2.0))
    dtype = DTYPES["bf16"]
    return ModelRunner(cast(Decoder, model), sampler, num_blocks, _BLOCK, bench.device, dtype)


def _core(runner: ModelRunner, prefill_tokens: int) -> EngineCore:
    limits = EngineLimits(
        max_batch_size=512, max_batch_prefill_tokens=prefill_tokens,
        max_mixed_prefill_tokens=prefill_tokens,
    )  # fmt: skip
    return EngineCore(runner, limits, prefix_caching=False)


def _submit(core: EngineCore, vocab: int, count: int, length: int, new_tokens: int) -> None:
    """Greedy requests of random tokens."""
    prompts = torch.randint(3, vocab, (count, length)).tolist()
    for index, prompt in enumerate(prompts):
        options = SamplingOptions(max_new_tokens=new_tokens)
        core.add(Request(f"{index}", tuple(prompt), options, _Silent()))


def _decode(bench: Bench, model: Any, batch: int) -> Row:
    """The same requests are decoded first without graphs, then with them."""
    context, steps, new_tokens = bench.choose((512, 32, 128), (9, 1, 8))
    with _own_kernels(bench):
        blocks = batch * (-(-(context + new_tokens) // _BLOCK) + 1)
        runner = _runner(bench, model, blocks)
        core = _core(runner, bench.choose(8192, 64))
        _submit(core, model.config.vocab_size, batch, context, new_tokens)
        while core.scheduler.waiting or any(
            s.num_pending_tokens > 1 for s in core.scheduler.running
        ):
            _step(core)
        eager = _median_step(bench, core, steps)
        runner.buffer_decoding(batch)
        assert runner.decode_graphs is not None
        us, num_graphs = _median_step(bench, core, steps), runner.decode_graphs.num_captured
        assert len(core.scheduler.running) == batch, "requests ended before the measurement"
    limit = _decode_limit(bench, model, batch, context + steps)
    return {
        "context": context, "graphs": num_graphs, "us": us, "us_eager": eager,
        "tokens_per_s": 1e6 * batch / us, "limit_tokens_per_s": 1e6 * batch / limit,
        "share": limit / us, "goal": DECODE_GOALS.get(batch),
    }  # fmt: skip


def _median_step(bench: Bench, core: EngineCore, count: int) -> float:
    """Microseconds; the first step does not count."""
    return statistics.median([_timed(bench, partial(_step, core)) for _ in range(1 + count)][1:])


def _step(core: EngineCore) -> None:
    core.step()
    if core.stats().num_failed_steps:
        raise RuntimeError("a step of the engine failed; the log has the reason")


def _timed(bench: Bench, call: Callable[[], object]) -> float:
    """Microseconds of a call that ends with a copy to the host, as a step does."""
    bench.synchronize()
    start = time.perf_counter()
    call()
    bench.synchronize()
    return 1e6 * (time.perf_counter() - start)


def _work(model: Any, rows: int) -> Work:
    """The work of a batch of rows; embeddings are looked up, not read."""
    parameters = num_bytes = 0.0
    shares = {}
    for module in model.modules():
        if isinstance(module, MixtureOfExperts):
            chosen = module.routing.top_k / len(module.experts)
            for layer in module.experts.modules():
                shares[id(layer)] = (chosen, 1 - (1 - chosen) ** rows)
    for module in model.modules():
        if isinstance(module, Linear) and module.packed is not None:
            used, read = shares.get(id(module), (1.0, 1.0))
            parameters += used * module.in_features * module.out_features
            num_bytes += read * sum(t.nbytes for t in module.packed.tensors)
    c, specs = model.config, model.cache_specs()
    return Work(parameters, num_bytes, 4.0 * len(specs) * c.heads.width)


def _decode_limit(bench: Bench, model: Any, batch: int, context: int) -> float:
    """Microseconds of a step."""
    work, specs = _work(model, batch), model.cache_specs()
    seen = min(context, specs[0].window or context)
    num_bytes = work.weight_bytes + batch * seen * bytes_per_token(specs, DTYPES["bf16"])
    flops = batch * (2 * work.parameters + work.attention_flops * seen)
    return bench.peaks.limit_us("bf16", flops, num_bytes)


def _prefill(bench: Bench, raw: Mapping[str, Any]) -> Row:
    """Prompts of equal length in one step; the head is applied only to their last tokens."""
    count, length = bench.choose((4, 2048), (1, 9))
    with _own_kernels(bench):
        model = _model(bench, raw, DECODERS, "bf16")
        blocks = 2 * count * (length // _BLOCK + 2)
        runner = _runner(bench, model, blocks)
        times = []
        for _ in range(bench.choose(6, 1)):
            core = _core(runner, count * length)
            _submit(core, model.config.vocab_size, count, length, 1)
            times.append(_timed(bench, partial(_step, core)))
    us, work, tokens = statistics.median(times[-5:]), _work(model, count * length), count * length
    specs, head = model.cache_specs(), model.config.vocab_size * model.config.hidden_size
    seen = min(length, specs[0].window or length)
    pairs = count * (length * seen - seen * (seen - 1) / 2)
    flops = 2 * tokens * (work.parameters - head) + 2 * count * head + work.attention_flops * pairs
    limit = bench.peaks.limit_us("bf16", flops, work.weight_bytes)
    return {
        "prompts": count, "context": length, "us": us, "tokens_per_s": 1e6 * tokens / us,
        "limit_tokens_per_s": 1e6 * tokens / limit, "share": limit / us,
    }  # fmt: skip


def _encode(bench: Bench, raw: Mapping[str, Any], length: int) -> Row:
    """Forward passes of 16384 tokens, including the first token's vector of each text."""
    batch = bench.choose(16384, 12) // length
    with _own_kernels(bench):
        model = _model(bench, raw, ENCODERS, "fp16")
        c, count = model.config, batch * length
        ends = cu_seqlens([length] * batch, bench.device)
        packed = Batch(
            torch.randint(c.vocab_size, (count,), device=bench.device),
            torch.arange(length, device=bench.device).repeat(batch), ends, length - 1,
        )  # fmt: skip
        firsts = ends[:-1].long()
        us, clock = bench.time_us(lambda: model(packed)[firsts].float())
    layers, hidden = c.num_layers, c.hidden_size
    per_token = 2 * layers * (4 * hidden**2 + 2 * hidden * c.intermediate_size)
    flops = count * (per_token + 4.0 * layers * hidden * length)
    limit = bench.peaks.limit_us("fp16", flops, 2.0 * flops / (2 * count))
    return {
        "batch": batch, "us": us, "clock": clock, "sequences_per_s": 1e6 * batch / us,
        "limit_sequences_per_s": 1e6 * batch / limit, "share": limit / us,
    }  # fmt: skip
