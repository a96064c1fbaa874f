"""GGUF files and adapters where a model is expected: served, or told what to do."""

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from engines import answers, engine
from gguf.quants import quantize
from typer.testing import CliRunner

from atoll.cli.app import app
from atoll.cli.choose import entry_of
from atoll.config import Settings
from atoll.errors import ConfigError, UnsupportedModel, WeightError
from atoll.models.detect import decide
from atoll.models.load_options import load_options
from atoll.models.registry import Checkpoint, load_decoder
from atoll.weights.embedded import converted_folder
from atoll.weights.files import resolve
from atoll.weights.gguf.table import ARCHITECTURES
from atoll.weights.load import LoadOptions
from atoll_kernels.cpu.native.library import library

WIDTH, HEADS, VOCAB = 32, 2, 300


def write_gguf(
    path: Path, architecture: str = "llama", tokenizer: str = "gpt2", has_merges: bool = True,
    kind: str = "F32", **options: Any,
) -> Path:  # fmt: skip
    """A Llama of one layer with a byte-level vocabulary, or one that says it is something else."""
    writer = gguf.GGUFWriter(path, architecture, **options)
    writer.add_context_length(64)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(1)
    writer.add_feed_forward_length(2 * WIDTH)
    writer.add_head_count(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_tokenizer_model(tokenizer)
    tokens = [chr(0x100 + i) for i in range(VOCAB - 2)] + ["\u0100\u0101", "<|end|>"]
    writer.add_token_list(tokens)
    writer.add_token_types([1] * (VOCAB - 1) + [3])
    if has_merges:
        writer.add_token_merges(["\u0100 \u0101"])
    writer.add_eos_token_id(VOCAB - 1)
    shapes: dict[str, tuple[int, ...]] = {
        "token_embd": (VOCAB, WIDTH), "output_norm": (WIDTH,), "blk.0.attn_norm": (WIDTH,),
        "blk.0.ffn_norm": (WIDTH,), "blk.0.ffn_gate": (2 * WIDTH, WIDTH),
        "blk.0.ffn_up": (2 * WIDTH, WIDTH), "blk.0.ffn_down": (WIDTH, 2 * WIDTH),
        **{f"blk.0.attn_{part}": (WIDTH, WIDTH) for part in ("q", "k", "v", "output")},
    }  # fmt: skip
    drawn = np.random.default_rng(0)
    for name, shape in shapes.items():
        chosen = gguf.GGMLQuantizationType[kind if len(shape) > 1 else "F32"]
        values = quantize(drawn.standard_normal(shape).astype(np.float32), chosen)
        writer.add_tensor(f"{name}.weight", values, raw_dtype=chosen)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library()  # is compiled into the cache, too, and not again
    monkeypatch.setenv("ATOLL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


@pytest.mark.parametrize("name", ["Tiny-Q8.gguf", "Tiny-Q8.GGUF"])
def test_a_file_is_a_model(name: str, tmp_path: Path) -> None:
    """Of one in capitals it was said that there is no such folder."""
    path = write_gguf(tmp_path / name)
    folder = resolve(str(path))
    assert resolve(str(path)) == folder
    entry = entry_of(str(path), {})
    assert (entry.name, entry.task, entry.model_id) == ("tiny-q8", "generate", str(folder))
    told = json.loads(CliRunner().invoke(app, ["info", str(path), "--json"]).stdout)
    assert (told["name"], told["weight_bytes"]) == ("tiny-q8", path.stat().st_size)
    with engine(folder) as loaded:
        assert [len(ids) for ids in answers(loaded, [[1, 2, 3]], 4)] == [4]
    path.write_bytes(path.read_bytes() + b"\0" * 32)
    assert converted_folder(path) != folder, "another file of that name is another model"


@pytest.mark.parametrize(
    ("about", "named"),
    [({"architecture": "rwkv7"}, "'rwkv7'"), ({"tokenizer": "rwkv"}, "tokenizer 'rwkv'")],
)
def test_other_files_are_told_what_to_do(about: dict[str, Any], named: str, tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "x.gguf", **about)
    with pytest.raises(UnsupportedModel, match=f"{named}.*serve the checkpoint that it was made"):
        resolve(str(path))
    result = CliRunner().invoke(app, ["convert", str(path), str(tmp_path / "out")])
    assert result.exit_code != 0 and not (tmp_path / "out").exists()
    assert not list((tmp_path / "cache" / "converted").glob(".*.part-*"))


def test_a_file_without_merges_is_named(tmp_path: Path) -> None:
    with pytest.raises(WeightError, match=r"x\.gguf: metadata 'tokenizer.ggml.merges' is missing"):
        resolve(str(write_gguf(tmp_path / "x.gguf", has_merges=False)))


def test_folders_that_are_no_checkpoints(tmp_path: Path) -> None:
    folder = tmp_path / "things"
    folder.mkdir()
    with pytest.raises(ConfigError, match="has no config.json$"):
        resolve(str(folder))
    for name in ("x-Q4.gguf", "x-Q8.gguf"):
        (folder / name).touch()
    with pytest.raises(ConfigError, match=r"give one as the model, as .*things/x-Q4\.gguf"):
        resolve(str(folder))
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(
        ConfigError, match="it is an adapter: serve .* --lora-adapters name=.*things"
    ):
        resolve(str(folder))


def test_a_folder_with_one_model(tmp_path: Path) -> None:
    """One file, or those of a series; what lies beside them is no model."""
    folder = tmp_path / "alone"
    folder.mkdir()
    path = write_gguf(folder / "x.gguf")
    (folder / "mmproj-x.gguf").touch()
    assert resolve(str(folder)) == resolve(str(path))
    whole = load_decoder(Checkpoint.open(resolve(str(path))), LoadOptions())
    split = tmp_path / "split"
    split.mkdir()
    write_gguf(split / "x.gguf", split_max_tensors=5)
    names = sorted(file.name for file in split.iterdir())
    assert names == [f"x-0000{i}-of-00003.gguf" for i in (1, 2, 3)]
    for given in (split, *(split / name for name in names)):
        model = load_decoder(Checkpoint.open(resolve(str(given))), LoadOptions())
        assert torch.equal(model.lm_head.packed.tensors[0], whole.lm_head.packed.tensors[0])
    (split / names[1]).unlink()
    with pytest.raises(WeightError, match=f"{names[1]} of its series is missing"):
        resolve(str(split))


def test_what_is_told(tmp_path: Path) -> None:
    """How much of a file stays in 4 bits, before anything is loaded."""
    path = write_gguf(tmp_path / "x.gguf", kind="Q4_0")
    folder = resolve(str(path))
    notes = decide(folder, Settings(model_id=str(path), dtype="bfloat16")).notes
    size = (4 * WIDTH * WIDTH + 6 * WIDTH * WIDTH) * 18 / 32 / 1e6
    rest = VOCAB * WIDTH * 18 / 32 / 1e6
    assert notes == (
        f"gguf: kept in 4 bits: {size:.1f} MB in Q4_0; in 8 bits: nothing; dequantised when "
        f"loaded: {rest:.1f} MB in Q4_0",
    )
    # By default, a CPU computes in float32, which no kernel for 4 bits is fast with.
    for other in ({"quantize": "int8"}, {"device": "cpu"}):
        (note,) = decide(folder, Settings(model_id=str(path), **other)).notes
        assert "kept in 4 bits: nothing; in 8 bits: nothing" in note
    assert load_options(Settings(dtype="bfloat16", device="cpu"), {}).keeps_blocks
    other = resolve(str(write_gguf(tmp_path / "y.gguf", kind="Q8_0")))
    for dtype, device, is_kept in (("bfloat16", "cpu", True), ("bfloat16", "cuda", False)):
        (note,) = decide(other, Settings(dtype=dtype, device=device)).notes
        assert ("in 8 bits: nothing" not in note) is is_kept


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such"):
        resolve(str(tmp_path / "none.gguf"))


def test_the_page_names_every_architecture() -> None:
    page = (Path(__file__).parents[2] / "docs" / "gguf.md").read_text()
    names = set(ARCHITECTURES) - {"llama with experts"}
    assert [name for name in names if f"`{name}`" not in page] == []
