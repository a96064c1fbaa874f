"""Rotary frequencies of every scaling against transformers' own."""

import weakref
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, Phi3Config
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from atoll.errors import ConfigError
from atoll.layers.rotary import RopeSpec, Rotary, rope_tables

LLAMA3 = {
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
YARN = {"factor": 4.0, "original_max_position_embeddings": 1024}


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("linear", {"factor": 4.0}),
        ("llama3", LLAMA3),
        ("yarn", YARN),
        ("yarn", {**YARN, "truncate": False, "beta_fast": 16, "beta_slow": 2}),
        ("yarn", {**YARN, "attention_factor": 1.3}),
        ("yarn", {**YARN, "mscale": 0.7, "mscale_all_dim": 1.1}),
        ("yarn", {**YARN, "factor": 40.0}),
    ],
)
@pytest.mark.parametrize("theta", [10000.0, 500000.0])
def test_frequencies(kind: str, options: dict[str, Any], theta: float) -> None:
    config = LlamaConfig(
        hidden_size=512,
        num_attention_heads=4,
        max_position_embeddings=4096,
        rope_parameters={"rope_type": kind, "rope_theta": theta, **options},
    )
    frequency, magnitude = ROPE_INIT_FUNCTIONS[kind](config, torch.device("cpu"))
    old = {"rope_theta": theta, "rope_scaling": {"type": kind, **options}}
    for raw in (config.to_dict(), {**old, "max_position_embeddings": 4096}):
        cos, sin = rope_tables(RopeSpec.from_hf(raw, 128), 300, torch.device("cpu"))
        angles = torch.outer(torch.arange(300.0), frequency)
        torch.testing.assert_close(cos, angles.cos() * magnitude, atol=3e-5, rtol=0)
        torch.testing.assert_close(sin, angles.sin() * magnitude, atol=3e-5, rtol=0)


def test_unknown_scaling_is_named() -> None:
    with pytest.raises(ConfigError, match="ntk-by-parts"):
        RopeSpec.from_hf({"rope_scaling": {"type": "ntk-by-parts"}}, 64)


@pytest.mark.parametrize("name", ["longrope", "su", "yarn"])
@pytest.mark.parametrize("extra", [{}, {"factor": 4.0}, {"attention_factor": 1.7}])
@pytest.mark.parametrize(("positions", "length"), [(4096, 4096), (131072, 131072)])
def test_longrope(name: str, extra: dict[str, Any], positions: int, length: int) -> None:
    """The short factors where no more positions are there than were trained, else the long ones."""
    lists = {"short_factor": [1.0 + i / 8 for i in range(24)], "long_factor": [9.5] * 24}
    raw = {
        "hidden_size": 256, "num_attention_heads": 4, "max_position_embeddings": positions,
        "original_max_position_embeddings": 4096, "partial_rotary_factor": 0.75,
    }  # fmt: skip
    config = Phi3Config(**raw, rope_scaling={"type": "longrope", **lists, **extra})
    find = ROPE_INIT_FUNCTIONS["longrope"]
    frequency, magnitude = find(config, torch.device("cpu"), seq_len=length)
    spec = RopeSpec.from_hf(
        {**raw, "rope_scaling": {"type": name, **lists, **extra}}, 48, is_partial=True
    )
    cos, sin = rope_tables(spec, 300, torch.device("cpu"))
    angles = torch.outer(torch.arange(300.0), frequency)
    torch.testing.assert_close(cos, angles.cos() * magnitude, atol=3e-5, rtol=0)
    torch.testing.assert_close(sin, angles.sin() * magnitude, atol=3e-5, rtol=0)


@pytest.mark.parametrize(
    ("lists", "message"),
    [
        ({"short_factor": [1.0]}, "scaling 'longrope' needs long_factor"),
        ({"short_factor": [1.0], "long_factor": [1.0] * 8}, "short_factor .* a list of 8"),
        ({"short_factor": [1.0] * 8, "long_factor": [0.0] * 8}, "long_factor .* above 0"),
    ],
)
def test_longrope_whose_lists_are_wrong(lists: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        RopeSpec.from_hf({"rope_scaling": {"type": "longrope", **lists}}, 16)


def test_tables_that_were_captured_stay() -> None:
    """Graphs read a table at its address: growing must not free it, nor change its rows."""
    rotary = Rotary(RopeSpec(dim=8, theta=1e4, max_positions=16))
    first = rotary.tables(4, torch.device("cpu"))
    alive = weakref.ref(first[0])
    expected = first[0].clone()
    del first
    grown = rotary.tables(17, torch.device("cpu"))
    assert alive() is not None and torch.equal(grown[0][:16], expected)


@pytest.mark.parametrize("place", ["beside", "inside"])
def test_a_share_of_a_head_that_the_family_does_not_know(place: str) -> None:
    """Whole heads were rotated in silence, where transformers breaks off."""
    scaling: dict[str, Any] = {"rope_type": "linear", "factor": 2.0}
    raw: dict[str, Any] = {"rope_scaling": scaling}
    (raw if place == "beside" else scaling)["partial_rotary_factor"] = 0.5
    with pytest.raises(ConfigError, match=r"partial_rotary_factor is 0\.5 beside scaling 'linear'"):
        RopeSpec.from_hf(raw, 128)
    assert RopeSpec.from_hf(raw, 64, is_partial=True).dim == 64
    scaling["rope_type"] = "default"
    assert RopeSpec.from_hf(raw, 128).dim == 128
