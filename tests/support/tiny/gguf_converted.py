"""How llama.cpp's converter writes the families whose tensors it changes more than in order.

Written from the converter, not from our reader; see ``gguf_files``. In float32, the default,
transformers' model of the checkpoint is the reference.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import torch
from gguf.quants import quantize
from safetensors.torch import load_file
from torch import Tensor

from tiny.gguf_files import Config, Written, as_pairs
from tiny.gguf_writing import add_keys, add_vocabulary, add_words, finish

Keys = Mapping[str, str | Callable[[Config], Any]]
Tensors = Iterator[tuple[str, Tensor]]


@dataclass(frozen=True)
class Converted:
    """keys: as in ``Written``. change: a tensor of the hub -> those of the file, by names that the
    library's table knows, or by the file's own (``blk.0.ffn_up``, with an ending)."""

    architecture: str
    keys: Keys
    change: Callable[[str, Tensor, Config], Tensors]
    num_further: int = 0
    is_encoder: bool = False


def write_converted(folder: Path, path: Path, converted: Converted, kind: str = "F32") -> None:
    """Writes the checkpoint in ``folder`` as ``path``.

    kind: of matrices whose rows it divides into blocks.
    """
    block = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]][0]
    raw = json.loads((folder / "config.json").read_text())
    config = {**raw, **raw.get("text_config", {})}
    names = ("num_hidden_layers", "n_layer", "num_decoder_layers", "num_layers")
    layers = next((config[name] for name in names if config.get(name)), None)
    layers = layers or len(config["layers_block_type"])
    config |= {"num_hidden_layers": layers, "num_blocks": layers + converted.num_further}
    writer = gguf.GGUFWriter(path, converted.architecture)
    add_keys(writer, Written(converted.architecture, converted.keys), config)
    if converted.is_encoder:
        add_words(writer, config["vocab_size"])
    else:
        add_vocabulary(writer)
    kinds = {name: kind for kind, name in gguf.MODEL_ARCH_NAMES.items()}
    table = gguf.get_tensor_name_map(kinds[converted.architecture], config["num_blocks"])
    for name, tensor in _stacked(load_file(folder / "model.safetensors")).items():
        layer = re.search(r"layers\.(\d+)\.", name)
        is_further = layer is not None and int(layer[1]) >= config["num_blocks"]
        if name.startswith(("model.vision", "model.visual", "model.embed_vision", "mtp.")):
            continue
        if is_further:
            continue
        for new, values in converted.change(name, tensor, config):
            full = new if new.startswith("blk.") else table.get_name(
                new, try_suffixes=(".weight", ".bias")
            )  # fmt: skip
            if full is None and layer is not None and int(layer[1]) >= layers:
                # The library's table has them for other families alone.
                full = f"blk.{layer[1]}.nextn.{name.rpartition('layers.')[2].partition('.')[2]}"
            assert full is not None, new
            is_matrix = values.dim() > 1 and values.shape[-1] % block == 0
            chosen = gguf.GGMLQuantizationType[kind if is_matrix else "F32"]
            data = quantize(values.float().contiguous().numpy(), chosen)
            writer.add_tensor(full, data, raw_dtype=chosen)
    if converted.architecture == "gemma4":
        writer.add_tensor("rope_freqs.weight", _frequencies(config).numpy())
    finish(writer)


def _stacked(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """With the matrices of all experts as one."""
    found, experts = dict[str, Tensor](), dict[str, dict[int, Tensor]]()
    for name, tensor in tensors.items():
        name = name.replace("language_model.", "")
        match = re.fullmatch(r"(.+\.experts)\.(\d+)\.(.+)", name)
        if match is None:
            found[name] = tensor
        else:
            experts.setdefault(f"{match[1]}.{match[3]}", {})[int(match[2])] = tensor
    stacks = {n: torch.stack([e[i] for i in range(len(e))]) for n, e in experts.items()}
    return {**found, **stacks}


def _block(name: str) -> str:
    return f"blk.{name.partition('layers.')[2].partition('.')[0]}."


def same(name: str, x: Tensor, c: Config) -> Tensors:
    """As on the hub."""
    if name.endswith(".e_score_correction_bias"):
        name = name.replace("_bias", ".bias")
    yield name, x


def mamba(name: str, x: Tensor, c: Config) -> Tensors:
    """Decays as they are used; convolutions as matrices."""
    if name.endswith(".A_log"):
        x = -torch.exp(x)
    yield name, x.squeeze() if "conv1d" in name else x


def mamba2(name: str, x: Tensor, c: Config) -> Tensors:
    """As ``mamba``; heads' values and norms as matrices."""
    name = name.replace(".dt_bias", ".dt_proj.bias")
    groups = c.get("mamba_n_groups") or c.get("n_groups") or 1
    if name.endswith((".A_log", ".D")):
        x = x.reshape(-1, 1)
    if re.search(r"\.(mixer|mamba)\.norm\.weight", name):
        x = x.reshape(groups, -1)
    for new, changed in mamba(name, x, c):
        yield from same(new, changed, c)


def _paired(name: str, x: Tensor, c: Config) -> Tensor:
    if name.endswith("q_proj.weight"):
        return as_pairs(x, c["num_attention_heads"])
    return as_pairs(x, c["num_key_value_heads"]) if name.endswith("k_proj.weight") else x


def granite4(name: str, x: Tensor, c: Config) -> Tensors:
    """Gate and up apart; rotated pairs side by side, also where nothing is rotated."""
    block, kind = _block(name), "_shexp" if c["num_local_experts"] else ""
    if name.endswith("input_linear.weight"):
        kind = "_exps" if "block_sparse_moe" in name else kind
        gate, up = x.chunk(2, dim=-2)
        yield from ((f"{block}ffn_gate{kind}.weight", gate), (f"{block}ffn_up{kind}.weight", up))
    elif name.endswith("shared_mlp.output_linear.weight"):
        yield f"{block}ffn_down{kind}.weight", x
    else:
        yield from mamba2(name, _paired(name, x, c), c)


def nemotron(name: str, x: Tensor, c: Config) -> Tensors:
    """As ``granite4``'s attention; experts by Llama's names."""
    name = re.sub(r"^model\.layers", "backbone.layers", name)
    name = name.replace("backbone.layers", "model.layers") if ".experts." in name else name
    name = name.replace(".mixer.experts.", ".mlp.experts.")
    yield from mamba2(name, _paired(name, x, c), c)


def falcon_h1(name: str, x: Tensor, c: Config) -> Tensors:
    """Every matrix times the family's factor of it."""
    factors = {
        "down_proj": c["mlp_multipliers"][1], "gate_proj": c["mlp_multipliers"][0],
        "k_proj": c["key_multiplier"] * c["attention_in_multiplier"],
        "q_proj": c["attention_in_multiplier"], "v_proj": c["attention_in_multiplier"],
        "o_proj": c["attention_out_multiplier"], "out_proj": c["ssm_out_multiplier"],
        "in_proj": c["ssm_in_multiplier"], "lm_head": c["lm_head_multiplier"],
        "embed_tokens": c["embedding_multiplier"],
    }  # fmt: skip
    x = x * next((factor for part, factor in factors.items() if part in name), 1.0)
    if "in_proj" in name:
        states = c["mamba_n_groups"] * c["mamba_d_state"]
        widths = (c["mamba_d_ssm"], c["mamba_d_ssm"], states, states, c["mamba_n_heads"])
        x = torch.cat([
            part * m for part, m in zip(x.split(widths), c["ssm_multipliers"], strict=True)
        ])  # fmt: skip
    yield from mamba2(name, x, c)


def lfm2(name: str, x: Tensor, c: Config) -> Tensors:
    """Convolutions as matrices."""
    if name.endswith(".expert_bias"):
        name += ".bias"
    name = name.replace("model.", "") if ".experts." in name else name
    yield name, x.squeeze(1) if "conv.conv.weight" in name else x


def qwen_next(name: str, x: Tensor, c: Config) -> Tensors:
    """Norms plus one; [q; k; v] and z, with their heads one after the other."""
    block, name = _block(name), name.replace(".dt_bias", ".dt_proj.bias")
    if name.endswith("norm.weight") and not name.endswith("linear_attn.norm.weight"):
        x = x + 1
    if "in_proj_qkvz" in name:
        each = c["linear_num_value_heads"] // c["linear_num_key_heads"] * c["linear_value_head_dim"]
        key = c["linear_key_head_dim"]
        heads = x.view(c["linear_num_key_heads"], -1, x.shape[-1])
        *qkv, z = (part.flatten(0, 1) for part in heads.split((key, key, each, each), 1))
        yield from ((f"{block}attn_qkv.weight", torch.cat(qkv)), (f"{block}attn_gate.weight", z))
    elif name.endswith("experts.gate_up_proj"):
        gate, up = x.chunk(2, dim=-2)
        yield from ((f"{block}ffn_gate_exps.weight", gate), (f"{block}ffn_up_exps.weight", up))
    else:
        yield from mamba(name, x, c)


def _tiled(x: Tensor, dim: int, width: int, c: Config) -> Tensor:
    """Value heads of a key head, which stood together, as far apart as there are key heads."""
    keys, count = c["linear_num_key_heads"], c["linear_num_value_heads"]
    split = x.unflatten(dim, (keys, count // keys, width))
    return split.transpose(dim, dim + 1).flatten(dim, dim + 2)


def qwen3_5(name: str, x: Tensor, c: Config) -> Tensors:
    """As ``qwen_next``, value heads in the order of repeated key heads."""
    width = c["linear_value_head_dim"]
    if "in_proj_qkv." in name or "conv1d" in name:
        keys = 2 * c["linear_num_key_heads"] * c["linear_key_head_dim"]
        x = torch.cat((x[:keys], _tiled(x[keys:], 0, width, c)))
    elif "in_proj_z" in name:
        x = _tiled(x, 0, width, c)
    elif re.search(r"linear_attn\.(in_proj_[ab]|A_log|dt_bias)", name):
        x = _tiled(x, 0, 1, c)
    elif "linear_attn.out_proj" in name:
        x = _tiled(x, 1, width, c)
    yield from qwen_next(name, x, c)


def deepseek(name: str, x: Tensor, c: Config) -> Tensors:
    """The matrix of the latent vector in two stacks, that of the keys turned."""
    if not name.endswith("kv_b_proj.weight"):
        yield from same(name, x, c)
        return
    widths = (c["qk_nope_head_dim"], c["v_head_dim"])
    keys, values = x.view(-1, sum(widths), x.shape[-1]).split(widths, dim=1)
    yield name.replace("kv_b_proj", "k_b_proj"), keys.transpose(1, 2)
    yield name.replace("kv_b_proj", "v_b_proj"), values


def gemma4(name: str, x: Tensor, c: Config) -> Tensors:
    """Scales with endings of their own."""
    scales = {"router.scale": "ffn_gate_inp", "router.per_expert_scale": "ffn_down_exps"}
    part = next((part for ending, part in scales.items() if name.endswith(ending)), None)
    if part is not None:
        yield f"{_block(name)}{part}.scale", x
    elif name.endswith("layer_scalar") or ".experts." in name:
        yield f"{name}.weight", x
    else:
        yield name, x


def _frequencies(c: Config) -> Tensor:
    share = c["rope_parameters"]["full_attention"]["partial_rotary_factor"]
    count = c["global_head_dim"] // 2
    rotated = int(c["global_head_dim"] * share / 2)
    return torch.tensor([1.0] * rotated + [1e30] * (count - rotated))


def t5(name: str, x: Tensor, c: Config) -> Tensors:
    """Its words once, by whichever name; and the first file's that nothing reads."""
    if not name.endswith("embed_tokens.weight"):
        yield name, x
    if name == "decoder.block.0.layer.1.EncDecAttention.q.weight":
        yield name.replace(".q.", ".relative_attention_bias."), torch.ones(8, 4)


def bert(name: str, x: Tensor, c: Config) -> Tensors:
    """Without a pooler and, of RoBERTa's positions, without the rows in front of the first."""
    name = name.removeprefix("roberta.").removeprefix("model.")
    if name.startswith("pooler."):
        return
    if name == "embeddings.position_embeddings.weight" and "roberta" in c["model_type"]:
        x = x[c["pad_token_id"] + 1 :]
    if c["model_type"] == "modernbert":
        name = re.sub(r"^classifier\.", "classifier.out_proj.", name)
    yield name, x
