"""GGUF files of every family against transformers with the numbers that the files hold."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny.checkpoint import write
from tiny.gguf_files import FAMILIES, VARIANTS, write_gguf
from tiny.llamas import VOCAB
from tiny.paged import PagedRunner
from transformers import AutoModelForCausalLM

from atoll.models.registry import Checkpoint, load_decoder
from atoll.weights.gguf.convert import prepare
from atoll.weights.load import LoadOptions

MIXED = ("attn_v", "ffn_down")


def _kind(name: str) -> str:
    """As llama.cpp's Q4_K_M: some matrices have more bits, one of a fused projection among them."""
    return "Q8_0" if name.endswith(MIXED) or "token_embd" in name else "Q4_1"


def _logits(model: Any, ids: list[int]) -> torch.Tensor:
    return PagedRunner(model).step({"a": ids})["a"]


@pytest.mark.parametrize("name", FAMILIES)
@torch.inference_mode()
def test_a_family_is_what_its_file_holds(name: str, tmp_path: Path) -> None:
    write(VARIANTS[name], tmp_path / "hub")
    path, same = tmp_path / "tiny.gguf", tmp_path / "same"
    write_gguf(tmp_path / "hub", path, FAMILIES[name], _kind, same)
    reference = AutoModelForCausalLM.from_pretrained(
        same, dtype=torch.float64, experts_implementation="eager"
    ).eval()
    ids = torch.randint(3, VOCAB, (21,), generator=torch.Generator().manual_seed(5)).tolist()
    with VARIANTS[name].around():
        expected = reference(torch.tensor([ids]), use_cache=False).logits[0].float()
    folder = tmp_path / "folder"
    folder.mkdir()
    prepare(path, folder)
    model: Any = load_decoder(Checkpoint.open(folder), LoadOptions())
    found = _logits(model, ids)
    assert float((found - expected).abs().max()) <= 1e-4 * max(1.0, float(expected.std()))
