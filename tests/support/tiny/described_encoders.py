"""Encoders from the descriptions of their published code, which no library here has.

Dense, in float64, one text at a time, and sharing no code with Atoll.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from tiny.checkpoint import Tensors
from tiny.encoder_sizes import VOCAB

HIDDEN, HEADS, INNER = 48, 4, 56


class Described(ABC):
    """tensors: with the names of the published checkpoints. config: config.json."""

    def __init__(self, config: Mapping[str, Any], sizes: Mapping[str, tuple[int, ...]]) -> None:
        generator = torch.Generator().manual_seed(3)
        self.config, self.tensors = dict(config), Tensors()
        for name, shape in sizes.items():
            noise = torch.randn(shape, generator=generator)
            scale = 1.5 / shape[-1] ** 0.5 if len(shape) > 1 else 0.1
            self.tensors[name] = noise * scale + float(len(shape) == 1 and name.endswith("weight"))
        self._w = {name: tensor.double() for name, tensor in self.tensors.items()}

    @abstractmethod
    def hidden(self, ids: list[int]) -> Tensor:
        """(tokens, hidden) of one text."""

    def write(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        save_file(self.tensors, folder / "model.safetensors")
        (folder / "config.json").write_text(json.dumps(self.config))

    def _norm(self, x: Tensor, name: str, eps: float) -> Tensor:
        return F.layer_norm(
            x, x.shape[-1:], self._w[f"{name}.weight"], self._w[f"{name}.bias"], eps
        )

    def _dense(self, x: Tensor, name: str) -> Tensor:
        return x @ self._w[f"{name}.weight"].T + self._w.get(f"{name}.bias", 0)


def _attended(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | float = 0.0) -> Tensor:
    """q, k, v: (tokens, hidden); bias: (heads, tokens, tokens)."""
    q, k, v = (x.view(len(x), HEADS, -1).transpose(0, 1) for x in (q, k, v))
    weights = (q @ k.transpose(1, 2) / q.shape[-1] ** 0.5 + bias).softmax(-1)
    return (weights @ v).transpose(0, 1).flatten(1)


def _norms(*names: str) -> dict[str, tuple[int, ...]]:
    return {f"{name}.{part}": (HIDDEN,) for name in names for part in ("weight", "bias")}


def _layer(name: str, outputs: int, inputs: int, bias: bool = True) -> dict[str, tuple[int, ...]]:
    found: dict[str, tuple[int, ...]] = {f"{name}.weight": (outputs, inputs)}
    return {**found, f"{name}.bias": (outputs,)} if bias else found


class NomicMixture(Described):
    """nomic-embed-text-v2-moe: biases, MLPs without a gate, and experts in every other layer.

    Shares are the softmax over all experts, not made to sum to one; one bias is added to the sum.
    """

    def __init__(self) -> None:
        sizes: dict[str, tuple[int, ...]] = {
            "embeddings.word_embeddings.weight": (VOCAB, HIDDEN),
            "embeddings.token_type_embeddings.weight": (1, HIDDEN),
            **_norms("emb_ln"),
        }
        for i in range(2):
            layer = f"encoder.layers.{i}."
            sizes |= _norms(f"{layer}norm1", f"{layer}norm2")
            sizes |= _layer(f"{layer}attn.Wqkv", 3 * HIDDEN, HIDDEN)
            sizes |= _layer(f"{layer}attn.out_proj", HIDDEN, HIDDEN)
        sizes |= _layer("encoder.layers.0.mlp.fc1", INNER, HIDDEN)
        sizes |= _layer("encoder.layers.0.mlp.fc2", HIDDEN, INNER)
        sizes |= _layer("encoder.layers.1.mlp.router.layer", 4, HIDDEN, bias=False)
        for name in ("w1", "w2"):
            sizes[f"encoder.layers.1.mlp.experts.mlp.{name}"] = (4 * INNER, HIDDEN)
        sizes["encoder.layers.1.mlp.experts.bias"] = (HIDDEN,)
        config = {
            "architectures": ["NomicBertModel"], "model_type": "nomic_bert", "vocab_size": VOCAB,
            "n_embd": HIDDEN, "n_layer": 2, "n_head": HEADS, "n_inner": INNER, "n_positions": 2048,
            "max_trained_positions": 2048, "activation_function": "gelu",
            "layer_norm_epsilon": 1e-5, "type_vocab_size": 1, "rotary_emb_base": 10000,
            "rotary_emb_fraction": 1.0, "rotary_scaling_factor": None, "qkv_proj_bias": True,
            "mlp_fc1_bias": True, "mlp_fc2_bias": True, "moe_every_n_layers": 2, "num_experts": 4,
            "moe_top_k": 2, "moe_normalize_expert_weights": False, "num_shared_experts": 0,
            "expert_choice_router": False, "ffn_div": 1, "pad_vocab_size_multiple": 32,
        }  # fmt: skip
        super().__init__(config, sizes)

    def hidden(self, ids: list[int]) -> Tensor:
        words = self._w["embeddings.word_embeddings.weight"][torch.tensor(ids)]
        x = words + self._w["embeddings.token_type_embeddings.weight"][0]
        x = self._norm(x, "emb_ln", 1e-5)
        for i in range(2):
            layer = f"encoder.layers.{i}."
            q, k, v = self._dense(x, f"{layer}attn.Wqkv").chunk(3, dim=1)
            mixed = self._dense(_attended(_rotated(q), _rotated(k), v), f"{layer}attn.out_proj")
            x = self._norm(x + mixed, f"{layer}norm1", 1e-5)
            fed = self._experts(x) if i else self._mlp(x)
            x = self._norm(x + fed, f"{layer}norm2", 1e-5)
        return x

    def _mlp(self, x: Tensor) -> Tensor:
        inner = F.gelu(self._dense(x, "encoder.layers.0.mlp.fc1"))
        return self._dense(inner, "encoder.layers.0.mlp.fc2")

    def _experts(self, x: Tensor) -> Tensor:
        mlp = "encoder.layers.1.mlp."
        first, second = (
            self._w[f"{mlp}experts.mlp.{name}"].view(4, INNER, HIDDEN) for name in ("w1", "w2")
        )
        shares, chosen = self._dense(x, f"{mlp}router.layer").softmax(-1).topk(2, dim=-1)
        rows = []
        for row, experts, parts in zip(x, chosen.tolist(), shares, strict=True):
            found = [F.gelu(first[e] @ row) @ second[e] for e in experts]
            rows.append(sum(part * out for part, out in zip(parts, found, strict=True)))
        return torch.stack(rows) + self._w[f"{mlp}experts.bias"]  # type: ignore[arg-type]


def _rotated(x: Tensor, theta: float = 10000.0) -> Tensor:
    """x: (tokens, hidden), the halves of each head rotated by the token's position."""
    first, second = x.view(len(x), HEADS, 2, -1).unbind(2)
    dim = 2 * first.shape[-1]
    frequencies = theta ** -(torch.arange(0, dim, 2, dtype=torch.float64) / dim)
    angles = (torch.arange(len(x), dtype=torch.float64)[:, None] * frequencies).unsqueeze(1)
    cos, sin = angles.cos(), angles.sin()
    return torch.stack([first * cos - second * sin, second * cos + first * sin], 2).flatten(1)


class JinaCode(Described):
    """jina-embeddings-v2-base-code: ALiBi, queries and keys normed over all heads, three norms."""

    def __init__(self) -> None:
        sizes: dict[str, tuple[int, ...]] = {
            "embeddings.word_embeddings.weight": (VOCAB, HIDDEN),
            "embeddings.token_type_embeddings.weight": (2, HIDDEN),
            **_norms("embeddings.LayerNorm"),
        }
        for i in range(2):
            layer = f"encoder.layer.{i}."
            for part in ("self.query", "self.key", "self.value", "output.dense"):
                sizes |= _layer(f"{layer}attention.{part}", HIDDEN, HIDDEN)
            for part in ("self.layer_norm_q", "self.layer_norm_k", "output.LayerNorm"):
                sizes |= _norms(f"{layer}attention.{part}")
            sizes |= _layer(f"{layer}mlp.up_gated_layer", 2 * INNER, HIDDEN, bias=False)
            sizes |= _layer(f"{layer}mlp.down_layer", HIDDEN, INNER)
            sizes |= _norms(f"{layer}layer_norm_1", f"{layer}layer_norm_2")
        config = {
            "architectures": ["JinaBertForMaskedLM"], "model_type": "bert", "vocab_size": VOCAB,
            "_name_or_path": "jinaai/jina-bert-v2-qk-post-norm",
            "hidden_size": HIDDEN, "intermediate_size": INNER, "num_hidden_layers": 2,
            "num_attention_heads": HEADS, "max_position_embeddings": 1024, "type_vocab_size": 2,
            "layer_norm_eps": 1e-12, "position_embedding_type": "alibi", "hidden_act": "gelu",
            "feed_forward_type": "geglu", "emb_pooler": "mean",
        }  # fmt: skip
        super().__init__(config, sizes)

    def hidden(self, ids: list[int]) -> Tensor:
        words = self._w["embeddings.word_embeddings.weight"][torch.tensor(ids)]
        x = words + self._w["embeddings.token_type_embeddings.weight"][0]
        x = self._norm(x, "embeddings.LayerNorm", 1e-12)
        place = torch.arange(len(ids))
        slopes = torch.tensor([2.0 ** (-8 * (i + 1) / HEADS) for i in range(HEADS)]).double()
        bias = -slopes[:, None, None] * (place[:, None] - place[None, :]).abs()
        for i in range(2):
            layer = f"encoder.layer.{i}."
            q, k, v = (
                self._dense(x, f"{layer}attention.self.{part}")
                for part in ("query", "key", "value")
            )
            q = self._norm(q, f"{layer}attention.self.layer_norm_q", 1e-12)
            k = self._norm(k, f"{layer}attention.self.layer_norm_k", 1e-12)
            mixed = self._dense(_attended(q, k, v, bias), f"{layer}attention.output.dense")
            mixed = self._norm(mixed + x, f"{layer}attention.output.LayerNorm", 1e-12)
            x = self._norm(mixed + x, f"{layer}layer_norm_1", 1e-12)
            up, gate = self._dense(x, f"{layer}mlp.up_gated_layer").chunk(2, dim=1)
            fed = self._dense(up * F.gelu(gate), f"{layer}mlp.down_layer")
            x = self._norm(fed + x, f"{layer}layer_norm_2", 1e-12)
        return x


DESCRIBED: Mapping[str, type[Described]] = {"nomic-moe": NomicMixture, "jina-code": JinaCode}
