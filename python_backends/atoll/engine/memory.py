"""How many blocks the KV cache gets."""

from __future__ import annotations

import torch

from atoll.config import Settings
from atoll.errors import ConfigError
from atoll.layers.attention import CacheSpec

# On a machine that other programs share, a cache is not made larger than this without being told,
# unless two requests of full length need more.
_HOST_LIMIT_BYTES = 4 << 30


def num_cache_blocks(
    settings: Settings,
    spec: CacheSpec,
    dtype: torch.dtype,
    device: torch.device,
    max_positions: int,
) -> int:
    """``max_batch_total_tokens`` in blocks; from the memory that is free now where it is not set.

    Raises:
        ConfigError: not even one request of ``max_total_tokens`` fits.
    """
    per_block = spec.bytes_per_token(dtype) * settings.block_size
    longest = min(settings.max_total_tokens or max_positions, max_positions)
    if settings.max_batch_total_tokens is not None:
        blocks = -(-settings.max_batch_total_tokens // settings.block_size)
    else:
        free = _free_bytes(device) * settings.memory_fraction
        useful = settings.max_batch_size * -(-longest // settings.block_size) * per_block
        if device.type == "cpu":
            useful = min(useful, max(_HOST_LIMIT_BYTES, 2 * longest * spec.bytes_per_token(dtype)))
        blocks = int(min(free, useful)) // per_block
    if settings.max_total_tokens and blocks * settings.block_size < settings.max_total_tokens:
        raise ConfigError(
            f"the KV cache holds {blocks * settings.block_size} tokens; "
            f"max_total_tokens is {settings.max_total_tokens}"
        )
    if blocks < 1:
        raise ConfigError(f"no memory for the KV cache: one block takes {per_block} bytes")
    return blocks


def _free_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    import psutil

    return int(psutil.virtual_memory().available)
