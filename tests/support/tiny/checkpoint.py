"""Writes a transformers model as a checkpoint in any layout that is found in the wild."""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

Tensors = dict[str, Tensor]


def enliven(model: nn.Module, seed: int = 0) -> None:
    """Sets all weights so that greedy text is neither constant nor noise."""
    generator = torch.Generator().manual_seed(seed)
    embeddings = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if id(parameter) in embeddings:
            value = noise * 0.05
        elif parameter.dim() > 1:
            value = noise * 2 / parameter.shape[-1] ** 0.5
        else:
            value = noise * 0.1 + (0.0 if name.endswith("bias") else 1.0)
        parameter.data.copy_(value)


@contextmanager
def all_in_float64() -> Iterator[None]:
    """Where transformers converts to float32 whatever the model is, it converts to float64."""
    with (
        mock.patch.object(torch, "float32", torch.float64),
        mock.patch.object(torch, "float", torch.float64),
        mock.patch.object(Tensor, "float", Tensor.double),
    ):
        yield


@dataclass(frozen=True)
class Variant:
    """One layout of one architecture.

    build: the transformers model, which is also the reference.
    rename: changes the saved tensors into the layout; hooks: changes the model after its weights
    are set, where transformers does not know an option; around: in force while it runs.
    config: replaces config.json (an old format); update: changes keys of it.
    extra: adds tensors that the transformers model lacks, before ``hooks`` reads them.
    """

    name: str
    build: Callable[[], Any]
    rename: Callable[[Tensors], Tensors] = dict
    config: Mapping[str, Any] | None = None
    update: Mapping[str, Any] | None = None
    extra: Mapping[str, tuple[int, ...]] | None = None
    hooks: Callable[[Any, Tensors], None] | None = None
    around: Callable[[], AbstractContextManager[Any]] = nullcontext
    scale_logits: float = 1.0


@dataclass(frozen=True)
class Reference:
    """The transformers model of a variant, called with ids (tokens,).

    In float64, since its float32 is itself up to 3e-5 off.
    """

    variant: Variant
    model: Any

    @torch.inference_mode()
    def logits(self, ids: list[int]) -> Tensor:
        """(tokens, vocab) float32."""
        with self.variant.around():
            model = self.model if self.model.dtype == torch.bfloat16 else self.model.double()
            out: Tensor = model(torch.tensor([ids]), use_cache=False).logits[0]
        return out.float() * self.variant.scale_logits


def write(variant: Variant, folder: Path) -> Reference:
    """Saves the variant's checkpoint into ``folder`` and returns its reference."""
    model = variant.build().eval()
    enliven(model)
    model.save_pretrained(folder)
    path = folder / "model.safetensors"
    tensors = load_file(path)
    generator = torch.Generator().manual_seed(1)
    for name, shape in (variant.extra or {}).items():
        offset = 1.0 if name.endswith("ln.weight") else 0.0
        tensors[name] = torch.randn(shape, generator=generator) * 0.1 + offset
    if variant.hooks is not None:
        variant.hooks(model, tensors)
    renamed = variant.rename(tensors)
    save_file({name: t.clone().contiguous() for name, t in renamed.items()}, path)
    config = json.loads((folder / "config.json").read_text())
    config = {**(config if variant.config is None else variant.config), **(variant.update or {})}
    (folder / "config.json").write_text(json.dumps(config))
    return Reference(variant, model)
