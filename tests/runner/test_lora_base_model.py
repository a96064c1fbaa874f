"""The base model answers as without LoRA, bit for bit, while others of a batch use adapters."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from adapters import save_adapter
from devices import DEVICE
from driving import make_core, request, run
from safetensors.torch import load_file, save_file
from tiny.checkpoint import write
from tiny.decoders import DECODERS as DECODER_VARIANTS

from atoll.layers.moe import MixtureOfExperts
from atoll.models.families import DECODERS
from atoll.models.registry import Checkpoint, architecture, load_decoder
from atoll.runner.lora import attach_adapters
from atoll.weights.load import LoadOptions

PROMPTS = [[5, 6, 7], [9] * 12, [11, 3, 50, 2, 40, 41], [70]]
SCHEMES = [
    pytest.param(LoadOptions(torch.float32, DEVICE), id="float32"),
    pytest.param(LoadOptions(torch.bfloat16, DEVICE), id="bfloat16"),
    pytest.param(LoadOptions(torch.float32, DEVICE, "int8"), id="int8"),
    pytest.param(LoadOptions(torch.bfloat16, DEVICE, "int8"), id="int8-bfloat16"),
    pytest.param(LoadOptions(torch.bfloat16, DEVICE, "int4"), id="int4"),
]
# Every kind of layer, so that activations, gates and experts are all behind one.
TARGETS = {
    "llama": ["q_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
    "phi": ["q_proj", "dense", "fc1", "fc2"],
    "mixtral": ["q_proj", "o_proj"],
    "falcon-h1": ["in_proj", "k_proj", "up_proj"],
}


@pytest.fixture(scope="module", params=TARGETS)
def folders(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    root: Path = tmp_path_factory.mktemp("exact")
    name = request.param
    write(next(v for v in DECODER_VARIANTS if v.name == name), root / "base")
    save_adapter(root / "base", root / "x", 5, TARGETS[name], r=4, lora_alpha=8)
    if name == "mixtral":
        _add_experts(root / "base", root / "x")
    return root


def _add_experts(base: Path, adapter: Path) -> None:
    """Pairs of matrices for the experts, which peft has under names of its own."""
    pairs = load_file(adapter / "adapter_model.safetensors")
    generator = torch.Generator().manual_seed(9)
    for name, tensor in load_file(base / "model.safetensors").items():
        if re.search(r"experts\.\d\.w[123]\.weight", name):
            stem = f"base_model.model.{name.removesuffix('.weight')}"
            a = torch.randn(4, tensor.shape[1], generator=generator)
            b = torch.randn(tensor.shape[0], 4, generator=generator)
            pairs |= {f"{stem}.lora_A.weight": a * 0.3, f"{stem}.lora_B.weight": b * 0.3}
    save_file(pairs, adapter / "adapter_model.safetensors")


def _scored(core: Any, asked: list[tuple[list[int], str | None]]) -> list[list[Any]]:
    made = [request(p, 6, adapter_id=a, logprobs=True, top_logprobs=4) for p, a in asked]
    for one, _ in made:
        core.add(one)
    run(core)
    return [sink.tokens for _, sink in made]


@pytest.mark.parametrize("options", SCHEMES)
def test_the_base_models_answers_stay_as_they_are(folders: Path, options: LoadOptions) -> None:
    """Bit for bit: with int8 weights, an adapter that nobody asked for moved log-probabilities by
    0.4, since its layers no longer ran through the fused kernels."""
    base = folders / "base"
    plain = load_decoder(Checkpoint.open(base), options)
    adapted = load_decoder(Checkpoint.open(base), options)
    table = architecture(Checkpoint.open(base).raw, DECODERS).WEIGHTS
    slots = attach_adapters(adapted, table, base, {"x": folders / "x"}, options.dtype)
    for is_buffered in (False, True):
        cores = []
        for model in (plain, adapted):
            core = make_core(model, num_blocks=128, dtype=options.dtype, prefix_caching=False)
            core._runner.adapters = slots if model is adapted else None
            if is_buffered:
                core._runner.buffer_decoding(8)
            cores.append(core)
        alone = [(prompt, None) for prompt in PROMPTS]
        assert _scored(cores[0], alone) == _scored(cores[1], alone)
        if any(isinstance(module, MixtureOfExperts) for module in adapted.modules()):
            continue  # how many rows an expert has, and so its kernel, depends on the neighbours
        # Beside rows of an adapter: the same batch, so that sums are cut alike.
        mixed = [(prompt, "x" if i % 2 else None) for i, prompt in enumerate(PROMPTS)]
        expected, found = _scored(cores[0], alone), _scored(cores[1], mixed)
        assert found[::2] == expected[::2]
        assert found[1::2] != expected[1::2]
