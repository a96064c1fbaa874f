"""What is served where: cards that are too old, dtypes that a card lacks, and the user's wishes."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch

from atoll.cli.hardware_table import DEVICES, FEATURES, backend, served_dtypes
from atoll.config import Settings
from atoll.errors import ConfigError
from atoll.models.load_options import check_device, prepare_process
from atoll_kernels import dispatch
from atoll_kernels.backends import AttentionSpec, Capabilities, KernelPolicy, choose, refusal

BY_NAME = {device.name: device for device in DEVICES}
SERVED = [device for device in DEVICES if refusal(device) is None]
ON = KernelPolicy(use_flash_attention=True)


@pytest.fixture(autouse=True)
def policy() -> Iterator[None]:
    yield
    dispatch.configure(KernelPolicy())


def test_old_cards_are_refused_by_name() -> None:
    with pytest.raises(ConfigError, match=r"V100 has compute capability 7\.0; Atoll needs 7\.5"):
        check_device(BY_NAME["V100"], torch.float16)
    with pytest.raises(ConfigError, match=r"MI100 is gfx908; .*gfx90a"):
        check_device(BY_NAME["MI100"], torch.float16)


def test_turing_has_no_bfloat16() -> None:
    check_device(BY_NAME["T4"], torch.float16)
    with pytest.raises(ConfigError, match=r"T4 has compute capability 7\.5: float16 only"):
        check_device(BY_NAME["T4"], torch.bfloat16)
    assert "bfloat16" not in served_dtypes(BY_NAME["T4"])
    assert "bfloat16" in served_dtypes(BY_NAME["A100"])


def test_flash_attention_is_off_on_turing_until_asked_for() -> None:
    turing = BY_NAME["T4"]
    for feature, spec in FEATURES.items():
        if spec["phase"] != "decode":
            assert backend(turing, feature, KernelPolicy()) == "torch-efficient", feature
            assert backend(turing, feature, ON) == "atoll", feature


@pytest.mark.parametrize("device", SERVED, ids=lambda d: d.architecture)
def test_every_feature_is_served_everywhere(device: Capabilities) -> None:
    """Windows, ALiBi and relative biases too, and never by leaving the GPU's kernels by default."""
    for feature in FEATURES:
        assert backend(device, feature, KernelPolicy()) in ("atoll", "torch-efficient")
        assert backend(device, feature, KernelPolicy(disable_custom_kernels=True)) == "sdpa"


def test_large_heads_leave_reasons() -> None:
    spec = AttentionSpec("decode", torch.float16, head_dim=512)
    for device in ("T4", "A100", "H100", "MI210"):
        assert choose(BY_NAME[device], spec, KernelPolicy()).backend == "atoll"
    others = {
        "head size 640 is more than 512": {"head_dim": 640},
        "head size 512 in float32 needs too many registers": {"dtype": torch.float32},
        "no window, bias, soft cap or sinks with more than 256 features": {"window": True},
    }
    for reason, changed in others.items():
        choice = choose(BY_NAME["H100"], replace(spec, **changed), KernelPolicy())
        assert choice.backend == "sdpa" and ("atoll", reason) in choice.refused
    prefill = replace(spec, phase="prefill", dtype=torch.float32)
    assert choose(BY_NAME["H100"], prefill, KernelPolicy()).backend == "torch-efficient"


def test_values_narrower_than_keys() -> None:
    """A latent cache has a kernel; what that cannot serve says why, and torch does."""
    for device in ("T4", "A100", "H100", "MI210"):
        spec = AttentionSpec("decode", torch.float16, 576, value_dim=512, latent=True)
        assert choose(BY_NAME[device], spec, KernelPolicy()).backend == "atoll"
    others = {
        "no latent rows in float32, which needs too many registers": {"dtype": torch.float32},
        "latent rows of 512 + 128 features are more than 512 + 64": {"head_dim": 640},
        "no window, bias, soft cap or sinks with latent rows": {"window": True},
        "values narrower than keys are served in a paged cache of latent rows alone": {
            "latent": False
        },
    }
    for reason, changed in others.items():
        choice = choose(BY_NAME["H100"], replace(spec, **changed), KernelPolicy())
        assert choice.backend == "sdpa" and ("atoll", reason) in choice.refused
        assert ("torch-flash", "no values narrower than keys") in [
            (name, reasons.split("; ")[-1]) for name, reasons in choice.refused
        ]


@pytest.mark.parametrize(
    ("features", "wanted", "found"),
    [
        ({}, "torch-flash", "torch-flash"),
        ({"alibi": True}, "torch-flash", "atoll"),  # torch's build of it has none
        ({"alibi": True}, "torch-efficient", "torch-efficient"),
        ({"dtype": torch.float32}, "torch-flash", "atoll"),
        ({"sinks": True}, "torch-efficient", "atoll"),
        ({"phase": "decode"}, "torch-efficient", "atoll"),
    ],
)
def test_a_wanted_backend_goes_first_where_it_can_serve(
    features: dict[str, Any], wanted: str, found: str
) -> None:
    spec = AttentionSpec(**{"phase": "prefill", "dtype": torch.float16, "head_dim": 64, **features})
    assert choose(BY_NAME["H100"], spec, KernelPolicy(attention_backend=wanted)).backend == found


@pytest.mark.parametrize("wish", [True, False, None])
def test_settings_reach_the_kernels(wish: bool | None) -> None:
    settings = Settings(model_id="x", disable_custom_kernels=True, use_flash_attention=wish)
    prepare_process(settings)
    assert dispatch.policy() == KernelPolicy(True, wish)
    implementation, *others = dispatch.candidates("layer_norm", "cpu")
    assert implementation.__module__.startswith("atoll_kernels.reference") and not others


def test_settings_are_read_from_the_environment() -> None:
    assert Settings.read({"model_id": "x"}, {"USE_FLASH_ATTENTION": "True"}).use_flash_attention
    assert Settings.read({"model_id": "x"}, {}).use_flash_attention is None
