"""Tiny late-interaction checkpoints: ColBERT's own folder, PyLate's, sentence-transformers'."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from atoll.encoders.marked_texts import marked_encoders
from atoll.encoders.multi_vector_encoder import MultiVectorEncoder, TokenOptions
from atoll.encoders.packer import Item, batch_of
from atoll.text.tokenizer import Tokenizer
from tiny.checkpoint import Variant
from tiny.encoders import TRUNKS, token_classifiers
from tiny.rotary_encoders import WIDE_WINDOW
from tiny.sentence import (
    HIDDEN,
    NORMALIZE,
    TRUNK,
    Part,
    dense,
    pooling,
    update,
    write_modules,
    write_trunk,
)

BY_NAME = {variant.name: variant for variant in (*TRUNKS, WIDE_WINDOW)}
WIDTH = 16
METADATA = {
    "query_token_id": "[unused0]", "doc_token_id": "[unused1]", "query_maxlen": 12,
    "doc_maxlen": 20, "mask_punctuation": True, "attend_to_mask_tokens": False, "dim": WIDTH,
    "similarity": "cosine", "interaction": "colbert",
}  # fmt: skip
PYLATE: dict[str, Any] = {
    "model_type": "ColBERT", "query_prefix": "[unused0] ", "document_prefix": "[unused1] ",
    "query_length": 12, "document_length": 20, "attend_to_expansion_tokens": False,
    "do_query_expansion": True, "skiplist_words": ["!", ","], "prompts": {},
}  # fmt: skip
PROJECTION = dense("1_Dense", WIDTH, "linear.Identity", False)._replace(
    type="pylate.models.Dense.Dense"
)
OWN: dict[str, Any] = {
    "model_type": "MultiVectorEncoder", "similarity_fn_name": "maxsim",
    "prompts": {"query": "[unused0] ", "document": "[unused1] "},
}  # fmt: skip
TOKENS = "token_embeddings"
GTE_BIAS = 2.4


def write_marked(folder: Path, variant: Variant = TRUNKS[0]) -> None:
    """A trunk whose tokenizer has two words for markers, which it would split."""
    write_trunk(variant, folder)
    path = folder / "tokenizer.json"
    raw = json.loads(path.read_text())
    words = raw["model"]["vocab"]
    for marker, replaced in (("[unused0]", "{"), ("[unused1]", "^")):
        words[marker] = words.pop(replaced)
    path.write_text(json.dumps(raw))
    update(folder / "tokenizer_config.json", mask_token="[MASK]")


def write_colbert(
    folder: Path, variant: Variant = TRUNKS[0], width: int = WIDTH, **metadata: Any
) -> None:
    """As ColBERT saves itself; the projection is beside the trunk's weights.

    metadata: keys of artifact.metadata; None leaves one out.
    """
    write_marked(folder, variant)
    file = folder / "model.safetensors"
    tensors = {f"bert.{name}": tensor for name, tensor in load_file(file).items()}
    generator = torch.Generator().manual_seed(width)
    tensors["linear.weight"] = torch.randn(width, HIDDEN, generator=generator) / 5
    save_file(tensors, file, {"format": "pt"})
    update(folder / "config.json", architectures=["HF_ColBERT"])
    update(folder / "artifact.metadata", **{**METADATA, **metadata})


def write_pylate(
    folder: Path, variant: Variant = TRUNKS[0], parts: Sequence[Part] = (), **own: Any
) -> None:
    """As PyLate saves a model. parts: further modules."""
    write_marked(folder, variant)
    write_modules(folder, TRUNK, PROJECTION, *parts)
    config = {**PYLATE, **own}
    (folder / "config_sentence_transformers.json").write_text(json.dumps(config))


def write_two_layers(folder: Path) -> None:
    """As mxbai-edge-colbert: two projections, which add what they are given."""
    parts = []
    for name, size, inputs in (("1_Dense", HIDDEN, HIDDEN), ("2_Dense", WIDTH, HIDDEN)):
        part = dense(name, size, "linear.Identity", False, inputs)
        tensors = dict(part.tensors or {})
        if size != inputs:
            generator = torch.Generator().manual_seed(3)
            tensors["residual.weight"] = torch.randn(size, inputs, generator=generator) / 5
        config = {**(part.config or {}), "use_residual": True}
        parts.append(part._replace(type=PROJECTION.type, config=config, tensors=tensors))
    write_marked(folder)
    write_modules(folder, TRUNK, *parts)
    (folder / "config_sentence_transformers.json").write_text(json.dumps(PYLATE))


def write_own(
    folder: Path,
    variant: Variant = TRUNKS[0],
    mask: Mapping[str, Any] | None = None,
    own: Mapping[str, Any] | None = None,
    **trunk: Any,
) -> None:
    """As sentence-transformers saves a MultiVectorEncoder. mask: keys of its MultiVectorMask."""
    write_marked(folder, variant)
    projection = dense("1_Dense", WIDTH, "linear.Identity", True)
    projection = projection._replace(
        type="sentence_transformers.base.modules.dense.Dense",
        config={**(projection.config or {}), "module_input_name": TOKENS},
    )
    package = "sentence_transformers"
    masking = Part(
        f"{package}.multi_vector_encoder.modules.multi_vector_mask.MultiVectorMask", "2_Mask",
        {"skiplist_words": ["!", ","], **(mask or {})},
    )  # fmt: skip
    unit = Part(
        f"{package}.base.modules.normalize.Normalize", "3_Normalize",
        {"module_input_name": TOKENS, "module_output_name": TOKENS},
    )  # fmt: skip
    write_modules(folder, TRUNK, projection, masking, unit)
    config = {**OWN, **(own or {})}
    (folder / "config_sentence_transformers.json").write_text(json.dumps(config))
    update(folder / "sentence_bert_config.json", **trunk)


def encode(
    folder: Path,
    texts: Sequence[str],
    side: str,
    encoder: MultiVectorEncoder,
    *,
    as_items: bool = False,
    truncate: bool = True,
    direction: str = "right",
) -> list[Any]:
    """Vectors of texts as serving makes them, or the items that they are made of."""
    tokenizer = Tokenizer.load(folder)
    marked = marked_encoders(tokenizer.core, tokenizer.special_tokens, encoder)[side]
    items = [
        Item(row.encoded.ids, lambda result: None, row.encoded.type_ids, TokenOptions(row.kept),
             num_attended=row.num_attended)
        for row in marked.encode(texts, name="x", truncate=truncate, direction=direction)
    ]  # fmt: skip
    if as_items:
        return items
    with torch.inference_mode():
        found: list[Any] = encoder(batch_of(items, torch.device("cpu")), items)
    return [one.vectors for one in found]


def write_gte(folder: Path) -> Any:
    """gte-multilingual-base's layout: an embedder by CLS beside a classifier with one label."""
    gte = next(v for v in token_classifiers(1) if v.name == "gte")
    model = write_trunk(gte, folder)
    tensors = load_file(folder / "model.safetensors")
    # Some words weigh nothing, and some do.
    model.classifier.bias.data.add_(GTE_BIAS)
    tensors["classifier.bias"] += GTE_BIAS
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    update(folder / "tokenizer_config.json", cls_token="[CLS]", eos_token="[SEP]")
    update(
        folder / "config.json", architectures=["NewForTokenClassification"], id2label=None,
        label2id=None, num_labels=None,
    )  # fmt: skip
    write_modules(folder, TRUNK, pooling(pooling_mode_cls_token=True), NORMALIZE)
    return model


def write_m3(
    folder: Path, variant: Variant = BY_NAME["xlm-roberta"], width: int = HIDDEN
) -> tuple[Any, dict[str, dict[str, torch.Tensor]]]:
    """bge-m3's layout: an embedder by CLS with two more heads, and the model and heads."""
    model = write_trunk(variant, folder)
    update(folder / "tokenizer_config.json", cls_token="[CLS]", eos_token="[SEP]")
    write_modules(folder, TRUNK, pooling(pooling_mode_cls_token=True), NORMALIZE)
    generator = torch.Generator().manual_seed(7)
    heads = {}
    for name, rows in (("sparse_linear", 1), ("colbert_linear", width)):
        weight = torch.randn(rows, HIDDEN, generator=generator) / 5
        heads[name] = {"weight": weight, "bias": torch.randn(rows, generator=generator) / 5}
        torch.save(heads[name], folder / f"{name}.pt")
    return model, heads
