"""Drives the engine without a server: a sink that collects, and models to run it on."""

import itertools
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers as hf
from devices import DEVICE
from tiny.checkpoint import enliven
from torch import Tensor

from atoll.engine.core import EngineCore
from atoll.engine.limits import EngineLimits
from atoll.engine.request import Outcome, Request, SamplingOptions, Token
from atoll.layers.adapted import AdapterSlots
from atoll.layers.batch import Batch, CacheSpec, StateSpec
from atoll.models.registry import Checkpoint, load_decoder
from atoll.runner.model_runner import ModelRunner
from atoll.runner.states import NO_STATES, StateSize
from atoll.sampling.sampler import Sampler
from atoll.sampling.watermark import Watermark
from atoll.weights.load import LoadOptions

VOCAB = 96
# For 16 sequences, and 8 snapshots.
STATES = StateSize(24, 8)
_ids = itertools.count()


class Collector:
    """A sink that keeps everything, and asserts that a request ends exactly once."""

    def __init__(self) -> None:
        self.tokens: list[Token] = []
        self.prompt_tokens: list[Token] = []
        self.outcome: Outcome | None = None
        self.error: Exception | None = None
        self.ended = threading.Event()

    @property
    def ids(self) -> list[int]:
        return [token.id for token in self.tokens]

    def on_prompt(self, logprobs: list[Token]) -> None:
        self.prompt_tokens = logprobs

    def on_token(self, token: Token) -> None:
        assert not self.ended.is_set(), "a token after the end"
        self.tokens.append(token)

    def on_finished(self, outcome: Outcome) -> None:
        self._end()
        self.outcome = outcome

    def on_failed(self, error: Exception) -> None:
        self._end()
        self.error = error

    def _end(self) -> None:
        assert not self.ended.is_set(), "ended twice"
        self.ended.set()


def request(
    prompt: Sequence[int],
    max_new_tokens: int = 16,
    *,
    sink: Collector | None = None,
    session_id: str | None = None,
    adapter_id: str | None = None,
    grammar: Any = None,
    priority: int = 0,
    client: str | None = "",
    **options: Any,
) -> tuple[Request, Collector]:
    """A request with a fresh id, and its sink."""
    sink = sink or Collector()
    sampling = SamplingOptions(max_new_tokens=max_new_tokens, **options)
    made = Request(
        f"r{next(_ids)}", tuple(prompt), sampling, sink,
        session_id=session_id, adapter_id=adapter_id, grammar=grammar,
        priority=priority, client=client,
    )  # fmt: skip
    return made, sink


def make_core(
    model: Any,
    *,
    num_blocks: int = 64,
    block_size: int = 4,
    vocab_size: int = VOCAB,
    dtype: torch.dtype = torch.float32,
    prefix_caching: bool = True,
    draft: Any = None,
    device: torch.device = DEVICE,
    states: StateSize = STATES,
    adapters: Sequence[str] = (),
    **limits: Any,
) -> EngineCore:
    """An engine without a thread. states: of a model with recurrent layers."""
    sampler = Sampler(Watermark(vocab_size, 0.5, 2.0))
    states = states if model.state_specs() else NO_STATES
    runner = ModelRunner(model, sampler, num_blocks, block_size, device, dtype, states)
    runner.adapters = AdapterSlots(adapters) if adapters else None
    return EngineCore(runner, EngineLimits(**limits), prefix_caching=prefix_caching, draft=draft)


def run(core: EngineCore, max_steps: int = 5000) -> int:
    """Steps until nothing is left; the bookkeeping is checked after every step."""
    for step in range(max_steps):
        if not core.is_busy:
            return step
        core.step()
        core.scheduler.check_integrity()
    raise AssertionError(f"still busy after {max_steps} steps")


def generate(core: EngineCore, prompts: Iterable[Sequence[int]], **options: Any) -> list[list[int]]:
    """Answers of several requests that are submitted together."""
    sinks = []
    for prompt in prompts:
        made, sink = request(prompt, **options)
        core.add(made)
        sinks.append(sink)
    run(core)
    for sink in sinks:
        assert sink.error is None, sink.error
    return [sink.ids for sink in sinks]


def save_llama(folder: Path, **changes: Any) -> Any:
    """A lively random Llama (Mistral if it has a window) on disk; returns transformers' model."""
    values = dict(
        vocab_size=VOCAB, hidden_size=64, intermediate_size=96, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=256,
    )  # fmt: skip
    values.update(changes)
    if "sliding_window" in values:
        reference: Any = hf.MistralForCausalLM(hf.MistralConfig(**values))
    else:
        reference = hf.LlamaForCausalLM(hf.LlamaConfig(**values))
    reference = reference.eval()
    enliven(reference)
    reference.save_pretrained(folder)
    return reference


def load(folder: Path) -> Any:
    """Our model of a checkpoint folder."""
    return load_decoder(Checkpoint.open(folder), LoadOptions(device=DEVICE))


@torch.inference_mode()
def reference_greedy(reference: Any, prompt: Sequence[int], count: int) -> list[int]:
    """transformers' own greedy answer, never ended by EOS."""
    ids = torch.tensor([list(prompt)])
    out = reference.generate(
        ids, max_new_tokens=count, do_sample=False, eos_token_id=None, pad_token_id=0
    )
    found: list[int] = out[0, len(prompt) :].tolist()
    return found


class EchoModel:
    """A decoder whose next token depends on every token that the cache holds for the sequence.

    Keys are token ids and values are positions, so that a block which was shared, freed or
    overwritten wrongly changes the answer, or trips the check of positions. ``echo`` is what it
    must say.
    """

    def __init__(self, vocab_size: int = VOCAB, window: int | None = None) -> None:
        self.vocab_size, self.window = vocab_size, window
        self.forwards = 0

    def cache_specs(self) -> list[CacheSpec]:
        return [CacheSpec(1, 1, self.window)]

    def state_specs(self) -> list[StateSpec]:
        return []

    def __call__(self, batch: Batch) -> Tensor:
        self.forwards += 1
        (keys, values, _), block_size = batch.kv_cache[0], batch.kv_cache[0].keys.shape[1]
        slots = batch.slot_mappings[0]
        assert len(slots.unique()) == len(slots), "a slot written twice"
        keys.view(-1)[slots] = batch.input_ids.to(keys.dtype)
        values.view(-1)[slots] = batch.positions.to(values.dtype)
        out, starts = [], batch.cu_seqlens.tolist()
        for row, length in enumerate(batch.seq_lens.tolist()):
            new = starts[row + 1] - starts[row]
            for end in range(length - new + 1, length + 1):
                first = 0 if self.window is None else max(0, end - self.window)
                at = torch.arange(first, end)
                blocks = batch.block_tables[0][row].long()[at // block_size]
                assert (blocks >= 0).all(), "a block inside the window was released"
                assert values[blocks, at % block_size].view(-1).tolist() == at.tolist()
                out.append(self._next(keys[blocks, at % block_size].view(-1).long().tolist()))
        return torch.tensor(out, dtype=torch.float64).unsqueeze(1)

    def logits(self, hidden: Tensor) -> Tensor:
        return torch.nn.functional.one_hot(hidden[:, 0].long(), self.vocab_size).float() * 9

    def echo(self, prompt: Sequence[int], count: int) -> list[int]:
        """The right answer."""
        ids = list(prompt)
        for _ in range(count):
            ids.append(self._next(ids if self.window is None else ids[-self.window :]))
        return ids[len(prompt) :]

    def _next(self, context: list[int]) -> int:
        value = 7
        for token in context:
            value = (value * 31 + token) % 1_000_003
        return value % self.vocab_size
