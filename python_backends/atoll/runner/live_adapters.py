"""LoRA adapters that come and go while a model runs.

Reading an adapter takes no part in the model's steps; adding it to the layers and freeing it do:
``add``, ``remove`` and ``release`` are called between two steps.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import cast

import torch
from torch import nn

from atoll.errors import ConfigError, Overloaded, UnsupportedModel
from atoll.layers.adapted import AdapterSlots
from atoll.models.families import DECODERS
from atoll.models.registry import Checkpoint, architecture
from atoll.runner.lora import AdapterPlaces, Deltas, release
from atoll.runner.lora_config import LoraConfig
from atoll.runner.model_runner import ModelRunner


class LiveAdapters:
    """The adapters of one model. max_loras: most of them in memory at once."""

    def __init__(
        self, runner: ModelRunner, checkpoint: Checkpoint, dtype: torch.dtype, max_loras: int,
        num_ranks: int,
    ) -> None:  # fmt: skip
        self._runner, self._checkpoint, self._dtype = runner, checkpoint, dtype
        self.max_loras, self._num_ranks = max_loras, num_ranks
        self._places: AdapterPlaces | None = None
        self._leaving: set[int] = set()

    @property
    def _model(self) -> nn.Module:
        return cast(nn.Module, self._runner.model)

    @property
    def names(self) -> tuple[str, ...]:
        """Those that requests may ask for."""
        return self._runner.adapter_names

    def check(self, adapter_id: str | None) -> None:
        """Raises ValidationError: no such adapter; names those that are."""
        (self._runner.adapters or AdapterSlots()).check(adapter_id)

    def read(self, folder: Path) -> Deltas:
        """What an adapter adds to the layers.

        Raises:
            ConfigError, UnsupportedModel, WeightError: it cannot be used; says why.
        """
        if self._num_ranks > 1:
            raise UnsupportedModel(
                f"the model is split over {self._num_ranks} ranks (num_shard), whose adapters are "
                "those of lora_adapters: none is loaded or unloaded at run time"
            )
        LoraConfig.read(folder)
        if self._places is None:
            tables = architecture(self._checkpoint.raw, DECODERS).WEIGHTS
            self._places = AdapterPlaces.of(self._model, tables, self._checkpoint.folder)
        return self._places.read(folder, self._dtype)

    def add(self, name: str, deltas: Deltas) -> None:
        """Adds an adapter that was read, in place of one of its name.

        Raises:
            Overloaded: there are ``max_loras``, counting those that finish their requests.
        """
        slots = self._runner.adapters or AdapterSlots()
        num_held = len(slots.names) + len(self._leaving)
        if num_held >= self.max_loras:
            leaving = f", {len(self._leaving)} of them for requests that run" * bool(self._leaving)
            raise Overloaded(
                f"{num_held} adapters are loaded{leaving}; max_loras is {self.max_loras}"
            )
        if name in slots.names:
            self._leaving.add(slots.remove(name))
        assert self._places is not None, "it was read"
        self._places.install(self._model, slots, slots.add(name), deltas)
        self._runner.adapters = slots

    def remove(self, name: str) -> None:
        """Requests may no longer ask for it; those that have begun finish with it.

        Raises:
            ConfigError: there is no such adapter.
        """
        slots = self._runner.adapters
        if slots is None or name not in slots.names:
            known = ", ".join(self.names) or "none"
            raise ConfigError(f"adapter {name!r} is not loaded; loaded: {known}")
        if self._num_ranks > 1:
            raise UnsupportedModel(
                f"the model is split over {self._num_ranks} ranks (num_shard): its adapters stay"
            )
        self._leaving.add(slots.remove(name))

    def release(self, is_used: Callable[[int], bool]) -> None:
        """Frees adapters that have been removed, once no request uses them."""
        for number in [number for number in self._leaving if not is_used(number)]:
            assert self._runner.adapters is not None
            release(self._model, self._runner.adapters.keys[number])
            self._leaving.discard(number)

    @property
    def is_leaving(self) -> bool:
        """Whether there is something to release."""
        return bool(self._leaving)
