"""Tiny folders of sentence-transformers' Router, as it writes them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from sentence_transformers import SentenceTransformer, SparseEncoder
from sentence_transformers.base.modules import Dense, Normalize, Router
from sentence_transformers.sentence_transformer.modules import Pooling, StaticEmbedding, Transformer
from sentence_transformers.sparse_encoder.modules import SparseStaticEmbedding, SpladePooling
from tokenizers import Tokenizer

from tiny.checkpoint import write
from tiny.encoders import MASKED, TRUNKS, VOCAB, write_text_files

WIDTH = 48


def _trunk(folder: Path, is_sparse: bool) -> Transformer:
    """Of BERT; its tokenizer has no files that transformers' class would read otherwise."""
    write(MASKED if is_sparse else TRUNKS[0], folder)
    write_text_files(folder)
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "[UNK]"}
    special = {"cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]"}
    limit = {"model_max_length": 70}
    (folder / "tokenizer_config.json").write_text(json.dumps({**config, **special, **limit}))
    return Transformer(str(folder), **({"transformer_task": "fill-mask"} if is_sparse else {}))


def write_dense(base: Path, folder: Path, **options: Any) -> SentenceTransformer:
    """Queries by a table of word vectors, documents by BERT; normalized. base: for its parts."""
    trunk = _trunk(base / "trunk", is_sparse=False)
    generator = torch.Generator().manual_seed(3)
    table = torch.randn((VOCAB, WIDTH), generator=generator)
    core = Tokenizer.from_file(str(base / "trunk" / "tokenizer.json"))
    router = Router.for_query_document(
        query_modules=[StaticEmbedding(core, embedding_weights=table)],
        document_modules=[trunk, Pooling(WIDTH, pooling_mode="mean")],
        **options,
    )
    prompts = {"query": "Q:", "document": ""}
    model = SentenceTransformer(modules=[router, Normalize()], prompts=prompts, device="cpu")
    model.save(str(folder))
    return model


def write_late(base: Path, folder: Path) -> SentenceTransformer:
    """A Dense module for queries and one for documents, behind a trunk that both share."""
    trunk = _trunk(base / "trunk", is_sparse=False)
    torch.manual_seed(5)
    denses = [Dense(WIDTH, 16) for _ in range(2)]
    router = Router({"query": [denses[0]], "document": [denses[1]]}, default_route="document")
    modules = [trunk, Pooling(WIDTH, pooling_mode="mean"), router]
    model = SentenceTransformer(modules=modules, device="cpu")
    model.save(str(folder))
    return model


def write_sparse(base: Path, folder: Path) -> SparseEncoder:
    """Queries by a weight of each word, documents by BERT's SPLADE."""
    trunk = _trunk(base / "trunk", is_sparse=True)
    weights = torch.rand(VOCAB, generator=torch.Generator().manual_seed(3))
    weights[40:50] = 0.0
    router = Router.for_query_document(
        query_modules=[SparseStaticEmbedding(trunk.tokenizer, weight=weights, frozen=True)],
        document_modules=[trunk, SpladePooling(pooling_strategy="max")],
    )
    model = SparseEncoder(modules=[router], similarity_fn_name="dot", device="cpu")
    model.save(str(folder))
    return model
