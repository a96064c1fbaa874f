"""Which ranks there are, and what each of them runs on."""

import pytest
import torch

from atoll.cgroup import num_cores
from atoll.config import Settings
from atoll.errors import ConfigError
from atoll.runner.ranks.layout import RankLayout, settings_of_rank

CPU, GPU = torch.device("cpu"), torch.device("cuda", 4)


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)


@pytest.mark.parametrize(
    ("settings", "size"),
    [
        ({}, 1), ({"num_shard": 2}, 2), ({"sharded": False}, 1), ({"sharded": True}, 8),
        ({"sharded": True, "num_shard": 4}, 4), ({"sharded": False, "num_shard": 1}, 1),
        ({"sharded": True, "num_nodes": 2}, 16), ({"num_shard": 4, "num_nodes": 2}, 4),
    ],
)  # fmt: skip
def test_sizes_are_read_as_tgi_reads_them(settings: dict[str, int], size: int, gpus: None) -> None:
    assert RankLayout.read(Settings(**settings), torch.device("cuda", 0)).size == size


def test_ranks_take_gpus_from_that_of_device_on(gpus: None) -> None:
    settings = Settings(num_shard=2, device="cuda:4")
    layout = RankLayout.read(settings, GPU)
    assert layout.devices == (torch.device("cuda", 4), torch.device("cuda", 5))
    assert settings_of_rank(settings, layout, 1).device == "cuda:5"
    layout = RankLayout.read(Settings(num_shard=6, num_nodes=3), GPU)
    assert layout.num_local == 2 and len(layout.devices) == 2


def test_ranks_on_a_cpu_share_its_cores() -> None:
    layout = RankLayout.read(Settings(num_shard=2), CPU)
    assert settings_of_rank(Settings(), layout, 1).num_threads == max(1, num_cores() // 2)
    assert settings_of_rank(Settings(num_threads=3), layout, 1).num_threads == 3
    assert layout.devices == (CPU, CPU)


@pytest.mark.parametrize(
    ("settings", "device", "reason"),
    [
        ({"num_shard": 8}, GPU, "num_shard is 8, .*from cuda:4 .*GPUs here: 8"),
        ({"num_shard": 3, "num_nodes": 2}, GPU, "num_shard is 3 and num_nodes is 2"),
        ({"num_nodes": 2}, GPU, "num_shard is 1 and num_nodes is 2"),
        ({"sharded": False, "num_shard": 2}, GPU, "sharded is false and num_shard is 2"),
        ({"sharded": True}, CPU, "sharded is true; GPUs here: 0"),
    ],
)
def test_what_does_not_fit_is_refused(
    settings: dict[str, int], device: torch.device, reason: str, gpus: None
) -> None:
    with pytest.raises(ConfigError, match=reason):
        RankLayout.read(Settings(**settings), device)
