"""Collectives of one rank; those of several are tested with the models that need them."""

from collections.abc import Iterator

import pytest
import torch
import torch.distributed as dist

from atoll_kernels import collectives
from atoll_kernels.cpu.graph import record


@pytest.fixture
def one_rank() -> Iterator[None]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("one_rank")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_one_rank(dtype: torch.dtype) -> None:
    x = torch.arange(6, dtype=dtype).view(2, 3)
    expected = x.clone()
    collectives.all_reduce_(x)
    assert torch.equal(x, expected)
    assert torch.equal(collectives.all_gather(x, 1), expected[None])


@torch.inference_mode()
@pytest.mark.usefixtures("one_rank")
def test_recordings_see_them() -> None:
    """``dist.all_reduce`` alone would be repeated without waiting for it."""
    seen = []
    x = torch.ones(3)
    _, graph = record(lambda: collectives.all_reduce_(x), lambda address, count: None)
    seen.append(len(graph._segments))
    _, graph = record(lambda: collectives.all_gather(x, 1), lambda address, count: None)
    seen.append(len(graph._segments))
    assert seen == [1, 1]
