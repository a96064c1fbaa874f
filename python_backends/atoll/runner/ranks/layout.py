"""The number of ranks that hold a model, and the device of each."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from atoll.cgroup import num_cores
from atoll.config import Settings
from atoll.errors import ConfigError


@dataclass(frozen=True)
class RankLayout:
    """size: number of ranks. num_nodes: machines, each with the same number of ranks. device: that
    of rank 0."""

    size: int
    num_nodes: int
    device: torch.device

    @property
    def num_local(self) -> int:
        """Ranks per machine."""
        return self.size // self.num_nodes

    @property
    def devices(self) -> tuple[torch.device, ...]:
        """The devices of the ranks of one machine."""
        return tuple(device_of_rank(self.device, rank) for rank in range(self.num_local))

    @classmethod
    def read(cls, settings: Settings, device: torch.device) -> RankLayout:
        """device: ``settings.device``, resolved.

        Raises:
            ConfigError: ``num_shard`` contradicts ``sharded`` or ``num_nodes``, or there are not
                enough GPUs; names the values.
        """
        size, nodes = _num_ranks(settings, device), settings.num_nodes
        if size % nodes:
            raise ConfigError(
                f"num_shard is {size} and num_nodes is {nodes}; num_shard must be a multiple of it"
            )
        layout = cls(size, nodes, device)
        if device.type == "cuda":
            first, count = device.index, torch.cuda.device_count()
            if first + layout.num_local > count:
                raise ConfigError(
                    f"num_shard is {size}, for {layout.num_local} GPUs of this machine from "
                    f"{device} on; GPUs here: {count}, counted from 0"
                )
        return layout


def device_of_rank(first: torch.device, local_rank: int) -> torch.device:
    """GPUs are taken in order, starting with that of rank 0; ranks on the CPU share it."""
    return first if first.type == "cpu" else torch.device("cuda", first.index + local_rank)


def settings_of_rank(settings: Settings, layout: RankLayout, local_rank: int) -> Settings:
    """The settings of one rank: its device, and its share of the machine's cores."""
    threads = settings.num_threads or max(1, num_cores() // layout.num_local)
    device = device_of_rank(layout.device, local_rank)
    return replace(settings, device=str(device), num_threads=threads)


def _num_ranks(settings: Settings, device: torch.device) -> int:
    """As text-generation-inference reads ``sharded`` and ``num_shard``."""
    if not settings.sharded:
        if settings.sharded is False and (settings.num_shard or 1) > 1:
            raise ConfigError(f"sharded is false and num_shard is {settings.num_shard}")
        return settings.num_shard or 1
    count = torch.cuda.device_count() if device.type == "cuda" else 0
    size = settings.num_shard or count * settings.num_nodes
    if size < 2:
        raise ConfigError(f"sharded is true; GPUs here: {count}")
    return size
