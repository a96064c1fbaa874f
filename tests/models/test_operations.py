"""The operations that ``atoll info`` names, beside those that the layers call."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tiny.families import FAMILIES

from atoll.models import families, registry
from atoll.models.operations import kernels, operations
from atoll_kernels import dispatch

# A family for each layer that calls operations of its own.
NAMES = (
    "llama", "gpt2", "mixtral", "gpt-oss", "moonlight", "qwen3-next", "lfm2-moe", "mamba",
    "nemotron-h", "nemotron-3", "cohere-qk-norms", "flan-t5", "bert", "deberta", "clip", "siglip",
)  # fmt: skip
# Called -> what is told in its place.
CALLED = {
    "rope_write_kv": "apply_rope", "pack_mxfp4": "pack_linear", "pack_int4": "pack_linear",
}  # fmt: skip
# What is told of a model that calls it; not, for example, activations alone.
TOLD = {
    "apply_rope", "causal_conv", "disentangled_attention", "gated_delta", "layer_norm",
    "pack_experts", "pack_linear", "paged_attention", "rms_norm", "route", "selective_scan",
    "selective_scan2", "varlen_attention",
}  # fmt: skip
BY_NAME = {family.name: family for family in FAMILIES}


@pytest.mark.parametrize("name", NAMES)
def test_they_are_those_that_layers_call(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    called, run = set[str](), dispatch.run

    def noted(op: str, *args: Any, **kwargs: Any) -> Any:
        called.add(CALLED.get(op, op))
        return run(op, *args, **kwargs)

    BY_NAME[name].write(tmp_path)
    monkeypatch.setattr(dispatch, "run", noted)
    BY_NAME[name].ours(tmp_path)
    raw = registry.Checkpoint.open(tmp_path).raw
    is_generator = registry.is_known(raw, families.DECODERS)
    table = families.DECODERS if is_generator else families.ENCODERS
    model = registry.sketch(registry.architecture(raw, table), raw)
    assert operations(model, is_generator) == called & TOLD
    assert set(kernels(model, is_generator).values()) <= {
        f.__module__ for op in called for f in dispatch.candidates(op, "cpu")
    }
