"""What a graph captures asks the device for nothing: not a value, not a copy from the host.

Every architecture's decoding step runs on tensors without values, through the wrappers that a GPU
gets, with launches that do nothing: whatever reads a value on the host raises.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from random_weights import random_model
from tiny.checkpoint import write
from tiny.decoders import DECODERS as VARIANTS
from tiny.llamas import DYNAMIC
from tiny.t5 import CONFIGS
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from atoll.models.families import DECODERS
from atoll.models.registry import Checkpoint
from atoll.runner.decode_graphs import DecodeGraphs, refusal
from atoll.runner.kv_cache import allocate
from atoll.runner.states import StateSize, allocate_states
from atoll.weights.load import LoadOptions
from atoll_kernels import dispatch
from atoll_kernels.backends import Capabilities, KernelPolicy
from atoll_kernels.reference.moe import ExpertLoop

DEVICE = torch.device("meta")
H200 = Capabilities("H200", "nvidia", "sm90", (9, 0))
KINDS = (
    "llama", "llama-biases", "llama-dynamic", "mistral-window", "mixtral", "bloom", "opt",
    "opt-350m", "gpt-neox", "starcoder", "bigcode-multi-head", "falcon-40b", "falcon-rw", "mpt",
    "mpt-qk-norms", "mpt-learned-positions", "phi", "t5", "flan-t5", "gpt-oss", "deepseek-v3",
    "qwen3.5", "gemma4-e2b",
)  # fmt: skip

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="triton, the kernel language, is missing"
)


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Names of the kernels that would have run on an H200."""
    from triton.runtime.jit import JITFunction

    from atoll_kernels.gpu import attention, launch

    names: list[str] = []
    monkeypatch.setattr(launch, "architecture", lambda: "sm90")
    monkeypatch.setattr(attention, "capabilities_of", lambda device: H200)
    monkeypatch.setattr(Capabilities, "of", classmethod(lambda cls, device: H200))
    monkeypatch.setattr(JITFunction, "run", lambda self, *_, **__: names.append(self.__name__))
    yield names
    dispatch.configure(KernelPolicy())


class NoCopies(TorchDispatchMode):
    """Within, no operation takes a tensor of the host or makes one."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        tensors = [t for t in tree_leaves((args, kwargs, out)) if isinstance(t, torch.Tensor)]
        assert all(t.device.type != "cpu" for t in tensors), f"{func} touches the host"
        return out


def raw_config(kind: str, folder: Path) -> Any:
    if kind in CONFIGS:
        return CONFIGS[kind]
    write(next(v for v in (*VARIANTS, DYNAMIC) if v.name == kind), folder)
    return Checkpoint.open(folder).raw


def steps_of(kind: str, folder: Path, scheme: str = "dense") -> tuple[Any, DecodeGraphs]:
    model: Any = random_model(
        raw_config(kind, folder), DECODERS, LoadOptions(torch.bfloat16, DEVICE, scheme)
    )
    cache = allocate(model.cache_specs(), 8, 16, torch.float32, DEVICE)
    states = allocate_states(model.state_specs(), StateSize(8), torch.float32, DEVICE)
    graphs = DecodeGraphs(model, cache, states, DEVICE, 4, num_blocks=8, block_size=16)
    return model, graphs


@pytest.mark.parametrize("kind", KINDS)
def test_a_captured_step_waits_for_nothing(kind: str, tmp_path: Path, launched: list[str]) -> None:
    _, steps = steps_of(kind, tmp_path)
    with torch.inference_mode():
        # The warm-up makes what is made once: tables of angles, slopes on their device.
        steps._step(4)
        launched.clear()
        with NoCopies():
            steps._step(4)
    attention = "latent_kernel" if kind.startswith("deepseek") else "decode_kernel"
    assert {attention, "norm_kernel"} <= set(launched)


def test_quantised_layers_wait_for_nothing(tmp_path: Path, launched: list[str]) -> None:
    _, steps = steps_of("llama", tmp_path, "int8")
    with torch.inference_mode():
        steps._step(4)
        with NoCopies():
            steps._step(4)
    assert "matmul_kernel" in launched


def test_readers_are_found_and_refused(tmp_path: Path, launched: list[str]) -> None:
    """The check finds a layer that reads, and such a model is never captured."""
    device = torch.device("cuda", 0)
    model, steps = steps_of("mixtral", tmp_path)
    assert refusal(model, device, torch.bfloat16) is None
    moe = model.blocks[0].mlp
    # Packed for plain torch, where the host asks for each expert how many rows it has.
    layers = [(expert.gate_up.packed, expert.down.packed) for expert in moe.experts]
    moe._packed = ExpertLoop(tuple(layers))
    with torch.inference_mode(), pytest.raises(Exception, match="(?i)meta|touches the host"):
        steps._step(4)
    assert "MixtureOfExperts reads on the host" in str(refusal(model, device, torch.bfloat16))
    dispatch.configure(KernelPolicy(disable_custom_kernels=True))
    llama, _ = steps_of("llama", tmp_path)
    assert "attention by sdpa" in str(refusal(llama, device, torch.bfloat16))
