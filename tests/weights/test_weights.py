"""The loader: layouts it accepts, and how it says what is wrong."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from atoll.errors import WeightError
from atoll.layers import Embedding, LayerNorm, Linear
from atoll.weights.load import LoadOptions, load_weights
from atoll.weights.reader import CheckpointReader
from atoll.weights.weight_map import FirstOf, Reorder, Transposed, WeightMap


class Tiny(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.config = None
        self.embed = Embedding(5, 4)
        self.norm = LayerNorm(4, 1e-5)
        self.blocks = nn.ModuleList([Linear(4, 6, rows=(2, 4)) for _ in range(2)])


TABLE = WeightMap(
    anchor="emb",
    prefixes=("", "net."),
    modules={"embed": "emb", "norm": "ln", "blocks.{i}": ("h.{i}.a", "h.{i}.b")},
)


def _tensors(prefix: str = "") -> dict[str, Tensor]:
    torch.manual_seed(0)
    shapes = {"emb.weight": (5, 4), "ln.weight": (4,), "ln.bias": (4,)}
    for i in range(2):
        shapes |= {f"h.{i}.a.weight": (2, 4), f"h.{i}.b.weight": (4, 4)}
        shapes |= {f"h.{i}.a.bias": (2,), f"h.{i}.b.bias": (4,)}
    return {prefix + name: torch.randn(shape) for name, shape in shapes.items()}


def _load(folder: Path, table: WeightMap = TABLE) -> Tiny:
    with torch.device("meta"):
        model = Tiny()
    load_weights(model, table, folder, LoadOptions())
    return model


def _expected(tensors: dict[str, Tensor], x: Tensor, prefix: str = "") -> Tensor:
    weight = torch.cat([tensors[f"{prefix}h.1.{part}.weight"] for part in "ab"])
    bias = torch.cat([tensors[f"{prefix}h.1.{part}.bias"] for part in "ab"])
    return x @ weight.T + bias


@pytest.mark.parametrize("prefix", ["", "net."])
def test_prefix_and_concatenation(tmp_path: Path, prefix: str) -> None:
    tensors = _tensors(prefix)
    save_file(tensors, tmp_path / "model.safetensors")
    x = torch.randn(3, 4)
    torch.testing.assert_close(_load(tmp_path).blocks[1](x), _expected(tensors, x, prefix))


def test_gamma_and_beta(tmp_path: Path) -> None:
    tensors = _tensors()
    tensors["ln.gamma"], tensors["ln.beta"] = tensors.pop("ln.weight"), tensors.pop("ln.bias")
    save_file(tensors, tmp_path / "model.safetensors")
    assert torch.equal(_load(tmp_path).norm.weight, tensors["ln.gamma"])


def test_shards_and_half_precision(tmp_path: Path) -> None:
    tensors = {name: tensor.half() for name, tensor in _tensors().items()}
    names = sorted(tensors)
    shards = {"one.safetensors": names[:5], "two.safetensors": names[5:]}
    for file, part in shards.items():
        save_file({name: tensors[name] for name in part}, tmp_path / file)
    index = {name: file for file, part in shards.items() for name in part}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    assert torch.equal(_load(tmp_path).embed.weight, tensors["emb.weight"].float())


def test_missing_shard_is_named(tmp_path: Path) -> None:
    index = {"weight_map": {"emb.weight": "gone.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(WeightError, match=r"gone\.safetensors"):
        _load(tmp_path)


@pytest.mark.parametrize("file", ["model.safetensors", "pytorch_model.bin"])
def test_a_slice_is_read_alone(file: str, tmp_path: Path) -> None:
    """An expert of a checkpoint that stacks them, in either kind of file."""
    stacked = torch.arange(24.0).view(4, 3, 2)
    if file.endswith(".bin"):
        torch.save({"experts": stacked}, tmp_path / file)
    else:
        save_file({"experts": stacked}, tmp_path / file)
    reader = CheckpointReader(tmp_path)
    assert reader.shape("experts") == (4, 3, 2)
    assert torch.equal(reader.tensor("experts"), stacked)
    for index in range(4):
        assert torch.equal(reader.tensor("experts", index), stacked[index])


def test_bin_is_read_without_running_code(tmp_path: Path) -> None:
    tensors = _tensors()
    torch.save(tensors, tmp_path / "pytorch_model.bin")
    x = torch.randn(3, 4)
    torch.testing.assert_close(_load(tmp_path).blocks[1](x), _expected(tensors, x))


def test_a_pickle_that_runs_code_is_refused(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (print, ("pickle ran",))

    torch.save({"emb.weight": Evil()}, tmp_path / "pytorch_model.bin")
    with pytest.raises(WeightError, match="cannot be read"):
        _load(tmp_path)


def test_missing_tensor_is_named(tmp_path: Path) -> None:
    tensors = _tensors()
    del tensors["h.1.b.weight"]
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(WeightError, match=r"h\.1\.b\.weight"):
        _load(tmp_path)


def test_wrong_shape_names_both(tmp_path: Path) -> None:
    tensors = _tensors() | {"emb.weight": torch.zeros(7, 4)}
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(WeightError, match=r"emb\.weight' has shape \(7, 4\).*needs \(5, 4\)"):
        _load(tmp_path)


def test_a_layer_too_many_fails(tmp_path: Path) -> None:
    tensors = _tensors() | {"h.2.a.weight": torch.zeros(2, 4)}
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(WeightError, match=r"left over.*h\.2\.a\.weight"):
        _load(tmp_path)


def test_other_heads_are_ignored(tmp_path: Path) -> None:
    save_file(_tensors() | {"qa_outputs.weight": torch.zeros(2, 4)}, tmp_path / "model.safetensors")
    assert _load(tmp_path).embed.weight.shape == (5, 4)


def test_no_weights_at_all(tmp_path: Path) -> None:
    with pytest.raises(WeightError, match="no .*safetensors"):
        _load(tmp_path)


def test_reorder_transpose_either(tmp_path: Path) -> None:
    tensors = {k: v for k, v in _tensors().items() if not k.startswith("h.")}
    tensors |= {f"h.{i}.w.weight": torch.randn(4, 6) for i in range(2)}
    tensors |= {f"h.{i}.w.bias": torch.randn(6) for i in range(2)}
    save_file(tensors, tmp_path / "model.safetensors")
    rows = torch.tensor([5, 4, 3, 2, 1, 0])
    turned = Reorder(Transposed("h.{i}.w"), lambda config: rows)
    modules = {**TABLE.modules, "blocks.{i}": FirstOf(("h.{i}.a", "h.{i}.b"), turned)}
    model = _load(tmp_path, WeightMap(anchor="emb", modules=modules))
    x = torch.randn(3, 4)
    expected = (x @ tensors["h.0.w.weight"] + tensors["h.0.w.bias"])[:, rows]
    torch.testing.assert_close(model.blocks[0](x), expected)
