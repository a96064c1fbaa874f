"""Models with recurrent layers whose answers tell what their states really hold."""

from collections.abc import Sequence

import torch
from driving import EchoModel
from torch import Tensor

from atoll.layers.batch import Batch, CacheSpec, LayerState, StateSpec

_MODULUS = 1_000_003


class StateModel(EchoModel):
    """Its next token depends on all tokens before, of which it keeps a number, and no keys.

    A state that was lost, given to two sequences or not put back changes the answer, or trips the
    check of how many tokens it stands for.
    """

    def cache_specs(self) -> list[CacheSpec]:
        return []

    def state_specs(self) -> list[StateSpec]:
        """The number, and the tokens that it stands for."""
        return [StateSpec(((), (1,)), (torch.float64, None))]

    def __call__(self, batch: Batch) -> Tensor:
        self.forwards += 1
        return torch.tensor(self._numbers(batch), dtype=torch.float64).unsqueeze(1)

    def echo(self, prompt: Sequence[int], count: int) -> list[int]:
        ids = list(prompt)
        for _ in range(count):
            ids.append(self._following(ids))
        return ids[len(prompt) :]

    def _following(self, ids: list[int]) -> int:
        return _number(ids) % self.vocab_size

    def _numbers(self, batch: Batch) -> list[int]:
        """The next token after each new one, by the states, which are brought up to date."""
        assert batch.state_slots is not None and batch.seq_lens is not None
        slots, out, starts = batch.state_slots.tolist(), [], batch.cu_seqlens.tolist()
        assert min(slots) >= 0 and len(set(slots)) == len(slots), "two sequences have one slot"
        for slot, length, start, end in zip(
            slots, batch.seq_lens.tolist(), starts, starts[1:], strict=False
        ):
            number, seen = 7, 0
            if length > end - start:
                number, seen = _read(batch.states[0], slot)
            assert seen == length - (end - start), "a state of other tokens"
            for token in batch.input_ids[start:end].tolist():
                number = (number * 31 + token) % _MODULUS
                out.append(number % self.vocab_size)
            batch.states[0][0][slot] = number
            batch.states[0][1][slot] = length
        return out


class MixedModel(StateModel):
    """With keys of all tokens, or of a window, besides."""

    def cache_specs(self) -> list[CacheSpec]:
        return EchoModel.cache_specs(self)

    def __call__(self, batch: Batch) -> Tensor:
        by_keys = EchoModel.__call__(self, batch)
        by_states = torch.tensor(self._numbers(batch), dtype=torch.float64).unsqueeze(1)
        return (by_keys + by_states) % self.vocab_size

    def _following(self, ids: list[int]) -> int:
        by_keys = self._next(ids if self.window is None else ids[-self.window :])
        return (by_keys + super()._following(ids)) % self.vocab_size


def _read(layer: LayerState, slot: int) -> tuple[int, int]:
    return int(layer[0][slot]), int(layer[1][slot])


def _number(ids: Sequence[int]) -> int:
    number = 7
    for token in ids:
        number = (number * 31 + token) % _MODULUS
    return number
