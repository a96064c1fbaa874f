"""The model, its KV cache and its sampler: computes steps, and knows neither requests nor text.

A step from beginning to end::

    StepInput                          arrays from the engine (``runner.step_input``)
      blocks                           that beams no longer share are copied (``runner.kv_cache``)
      states                           of sequences of recurrent layers that begin elsewhere are
                                       copied to their slots (``runner.states``)
      encoder inputs, if any are new   ``Model.encode`` writes their keys and values to the cache
      adapters                         which tokens use which LoRA adapter (``layers.adapted``)
      forward                          a decoding step replays a graph over fixed buffers
                                       (``runner.decode_graphs``); any other step is a batch of
                                       tensors (``runner.batch``). Every layer writes its new
                                       keys and values to the blocks, then reads them
      states                           that the engine keeps are copied to other slots
      logits                           of the tokens that are sampled after
      prompt log-probabilities         if asked for, from the hidden states (``sampling.logprobs``)
      sampler                          processors, warpers, choice (``sampling.sampler``)
    StepOutput                         tokens and log-probabilities, as arrays

All ranks of a split model compute the same ``StepInput``; nothing is decided here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, cast

import numpy as np
import torch
from torch import Tensor

from atoll.errors import RankLost
from atoll.layers.adapted import AdapterSlots
from atoll.layers.batch import LayerCache, LayerState
from atoll.runner.batch import decoder_batch, encoder_batch
from atoll.runner.decode_graphs import DecodeGraphs
from atoll.runner.kv_cache import allocate, copy_blocks, group_windows
from atoll.runner.model import Decoder, EncoderDecoder
from atoll.runner.states import NO_STATES, StateSize, allocate_states, copy_states
from atoll.runner.step_input import StepInput, StepOutput, Words
from atoll.sampling.inputs import TokenLogprobs
from atoll.sampling.logprobs import prompt_logprobs
from atoll.sampling.sampler import Sampler
from atoll_kernels.device import enter


class HiddenStates(NamedTuple):
    """hidden: (tokens, hidden) of every new token; logits: (sampled tokens, vocab) float32."""

    hidden: Tensor
    logits: Tensor


class Computed(NamedTuple):
    """What every rank has of a step: logits as in ``HiddenStates``, and the prompts' scores."""

    logits: Tensor
    prompts: TokenLogprobs | None


class ModelRunner:
    """Computes steps on one device. num_ranks: that split the model, and compute the same."""

    def __init__(
        self,
        model: Decoder,
        sampler: Sampler,
        num_blocks: int,
        block_size: int,
        device: torch.device,
        dtype: torch.dtype,
        states: StateSize = NO_STATES,
        num_ranks: int = 1,
    ) -> None:
        self.model, self.device, self.dtype = model, device, dtype
        self.num_blocks, self.block_size = num_blocks, block_size
        self.num_state_slots, self.num_snapshots, _ = self._state_size = states
        self.windows = group_windows(model.cache_specs())
        self.adapters: AdapterSlots | None = None
        self.decode_graphs: DecodeGraphs | None = None
        self._sampler, self._num_ranks = sampler, num_ranks
        self._max_batch_size = 0
        self.kv_cache, self.states = self._allocate(), self._allocate_states()

    @property
    def adapter_names(self) -> tuple[str, ...]:
        """LoRA adapters; a step refers to them by index."""
        return () if self.adapters is None else self.adapters.names

    def adapter_number(self, name: str | None) -> int:
        """See ``AdapterSlots.number``."""
        return (self.adapters or AdapterSlots()).number(name)

    def key_length(self, num_prompt_tokens: int) -> int | None:
        """See ``layers.rotary.RopeSpec.key_length``."""
        rope = getattr(getattr(self.model, "config", None), "rope", None)
        found: int | None = None if rope is None else rope.key_length(num_prompt_tokens)
        return found

    def enter_thread(self) -> None:
        """Must be called first by the thread that runs steps."""
        enter(self.device)

    def _allocate(self) -> tuple[LayerCache, ...]:
        specs = self.model.cache_specs()
        return allocate(specs, self.num_blocks, self.block_size, self.dtype, self.device)

    def _allocate_states(self) -> tuple[LayerState, ...]:
        specs = self.model.state_specs()
        return allocate_states(specs, self._state_size, self.dtype, self.device)

    def buffer_decoding(self, max_batch_size: int) -> None:
        """Runs decoding steps of up to ``max_batch_size`` over fixed buffers, and replays them as
        graphs. Adapters must be attached before."""
        if self.adapters is not None:
            self.adapters.assign([None], [1], self.device)
        self._max_batch_size = max_batch_size
        self.decode_graphs = DecodeGraphs(
            self.model, self.kv_cache, self.states, self.device, max_batch_size,
            num_blocks=self.num_blocks, block_size=self.block_size,
        )  # fmt: skip
        if self.device.type == "cuda":
            # Ranks that differ in what they replay would wait for each other.
            self.decode_graphs.capture(may_fail=self._num_ranks == 1)

    def reset(self) -> None:
        """A fresh cache after a failed step, which may have left anything in the old one.

        States need no reset: every sequence begins anew, at zero.
        """
        if self.device.type == "cuda":
            # Graphs contain the cache's addresses; and the failed step's stack frames still refer
            # to the old cache, next to which a second one may not fit.
            for layer in self.kv_cache:
                layer.keys.zero_()
                layer.values.zero_()
            return
        self.kv_cache = ()
        has_graphs, self.decode_graphs = self.decode_graphs is not None, None
        self.kv_cache = self._allocate()
        if has_graphs:
            # They are cheap to record again; zeroing would make the whole cache resident.
            self.buffer_decoding(self._max_batch_size)

    @torch.inference_mode()
    def run(self, step: StepInput) -> StepOutput:
        """One step; mutates the cache."""
        logits, prompts = self.compute(step)
        if step.sampling is None:
            return StepOutput(None, prompts)
        return StepOutput(self._sampler.sample(logits, step.sampling), prompts)

    def compute(self, step: StepInput) -> Computed:
        """All of a step but the choice of tokens, in inference mode; mutates the cache."""
        hidden, logits = self.forward(step)
        prompts: TokenLogprobs | None = None
        if step.prompts is not None:
            prompts = prompt_logprobs(hidden, self.model.logits, step.prompts)
        return Computed(logits, prompts)

    def forward(self, step: StepInput) -> HiddenStates:
        """Computes the step's new tokens, in inference mode; mutates the cache."""
        if step.block_copies is not None:
            copy_blocks(self.kv_cache, step.block_copies)
        if step.states is None:
            return self._forward(step)
        copy_states(self.states, step.states.copies)
        out = self._forward(step)
        copy_states(self.states, step.states.saves)
        return out

    def _forward(self, step: StepInput) -> HiddenStates:
        if step.encoder is not None:
            self._assign_adapters(step.encoder.adapters, step.encoder.cu_seqlens)
            model = cast(EncoderDecoder, self.model)
            model.encode(encoder_batch(step.encoder, self.kv_cache, self.device))
        self._assign_adapters(step.adapters, step.cu_seqlens)
        is_adapted = self.adapters is not None and bool(self.adapters.rows)
        if self.decode_graphs is not None and not is_adapted and self.decode_graphs.takes(step):
            return HiddenStates(*self.decode_graphs.run(step))
        hidden = self.model(decoder_batch(step, self.kv_cache, self.states, self.device))
        at = torch.from_numpy(step.sampled_tokens.copy()).to(self.device)
        return HiddenStates(hidden, self.model.logits(hidden[at]))

    def watch(self, on_failed: Callable[[RankLost], None]) -> None:
        """``on_failed`` is called, on another thread, if a rank is lost, and the model with it."""

    def close(self) -> None:
        """Ends other ranks, if there are any. No step can follow."""

    def _assign_adapters(self, numbers: Words, cu_seqlens: Words) -> None:
        if self.adapters is not None:
            keys = self.adapters.keys
            chosen = [None if i < 0 else keys[i] for i in numbers.tolist()]
            self.adapters.assign(chosen, np.diff(cu_seqlens).tolist(), self.device)
