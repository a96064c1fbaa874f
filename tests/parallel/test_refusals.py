"""Models that cannot be divided are refused by name, before any weight is read."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from fallbacks import without_files
from ranks import Job, Ranks
from tiny.checkpoint import write
from tiny.decoders import DECODERS
from tiny.encoders import TRUNKS

from atoll.config import Settings
from atoll.errors import ConfigError
from atoll.layers.parallel import Shard
from atoll.models import families, registry
from atoll.models.detect import decide
from atoll.models.registry import Checkpoint, load_decoder, load_encoder
from atoll.runner.decode_graphs import refusal
from atoll.weights.load import LoadOptions

BY_NAME = {variant.name: variant for variant in DECODERS}


def _plan(name: str, size: int, folder: Path, **changes: Any) -> registry.Plan:
    """Of a tiny checkpoint with some keys of its config changed; no weight is read."""
    write(BY_NAME[name], folder)
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    return registry.plan(Checkpoint.open(folder), families.DECODERS, shard=Shard(0, size))


@pytest.mark.parametrize(
    ("name", "size", "changes", "message"),
    [
        ("llama", 2, {"num_attention_heads": 9, "num_key_value_heads": 3, "head_dim": 16},
         "num_shard is 2; 9 attention heads over 3 key-value heads cannot be divided by it; sizes "
         "that fit this model: 1, 3$"),
        # Five heads of zeros would be too many; one, for an even number of ranks, is not.
        ("falcon-7b", 8, {"hidden_size": 44, "num_attention_heads": 11},
         "num_shard is 8; 11 attention heads over 1 key-value heads .* fit this model: 1, 2, 4$"
         ),
        ("llama", 4, {"intermediate_size": 98},
         "num_shard is 4; 98 intermediate features cannot be divided by it; .*: 1, 2$"),
        ("llama", 3, {}, "num_shard is 3; 4 attention heads over 2 .* fit this model: 1, 2, 4$"),
        ("gpt-oss", 4, {},
         "num_shard is 4; 288 intermediate features in blocks of 32 cannot be divided by it; .*: "
         "1, 2$"),
    ],
)  # fmt: skip
def test_what_does_not_divide(
    name: str, size: int, changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=message):
        _plan(name, size, tmp_path, **changes)


def test_the_server_refuses_before_it_loads_anything(tmp_path: Path) -> None:
    write(BY_NAME["llama"], tmp_path)
    with pytest.raises(ConfigError, match="num_shard is 3; 4 attention heads .*: 1, 2, 4$"):
        decide(tmp_path, Settings(num_shard=3), "generate")
    decide(tmp_path, Settings(num_shard=4), "generate")
    refused = "num_shard is 2, but .* runs on transformers' LlamaForCausalLM"
    with without_files("llama"), pytest.raises(ConfigError, match=refused):
        decide(tmp_path, Settings(num_shard=2), "generate")


def test_encoders(tmp_path: Path) -> None:
    write(TRUNKS[0], tmp_path)
    with pytest.raises(ConfigError, match="num_shard is 2; .* cannot be divided: it is an encoder"):
        load_encoder(Checkpoint.open(tmp_path), LoadOptions(shard=Shard(0, 2)))


def test_models_that_transformers_runs(tmp_path: Path) -> None:
    write(BY_NAME["llama"], tmp_path)
    with (
        without_files("llama"),
        pytest.raises(ConfigError, match="num_shard is 2; .* cannot be divided: transformers runs"),
    ):
        load_decoder(Checkpoint.open(tmp_path), LoadOptions(shard=Shard(0, 2)))


def test_steps_are_not_recorded_on_cpus(tmp_path: Path) -> None:
    """A rank that replays beside one that does not would wait for sums that do not come."""
    write(BY_NAME["llama"], tmp_path)
    models = [
        load_decoder(Checkpoint.open(tmp_path), LoadOptions(shard=Shard(0, size)))
        for size in (1, 2)
    ]
    found = [refusal(model, torch.device("cpu"), torch.float32) for model in models]
    assert found[0] != found[1] == "several ranks split the model"


def test_a_rank_that_fails_fails_the_test(tmp_path: Path) -> None:
    """And does not leave the others, or the test, waiting."""
    ranks = Ranks(tmp_path)
    with pytest.raises(RuntimeError, match=r"rank 0 failed:\n[^$]*config.json: cannot be read"):
        ranks.run(Job(tmp_path / "absent", {}), 1)
    assert not ranks._children
