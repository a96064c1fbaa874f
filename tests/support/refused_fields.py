"""Requests to encoders that ask for what is not done: the route, the body, and the field."""

from __future__ import annotations

from typing import Any

from unusual_encoders import LONG

UNASKED: list[tuple[str, dict[str, Any], str]] = [
    ("/embed", {"inputs": "a", "pooling": "mean"}, "pooling"),
    ("/embed", {"inputs": "a", "encoding_format": "base64"}, "encoding_format"),
    ("/embed", {"inputs": "a", "parameters": {"normalize": False}}, "parameters"),
    ("/embed", {"inputs": "a", "truncate_prompt_tokens": 3}, "truncate_prompt_tokens"),
    ("/embed_all", {"inputs": "a", "normalize": True}, "normalize"),
    ("/embed_sparse", {"inputs": "a", "dimensions": 3}, "dimensions"),
    ("/rerank", {"query": "q", "texts": ["a"], "top_n": 1}, "top_n"),
    ("/rerank", {"query": "q", "texts": ["a"], "prompt_name": "x"}, "prompt_name"),
    ("/similarity", {"inputs": {"source_sentence": "a", "sentences": ["b"]}, "truncate": True},
     "truncate"),
    ("/predict", {"inputs": "a", "top_k": 1}, "top_k"),
    ("/", {"inputs": "a", "parameters": {"candidate_labels": ["x"]}, "model": "steep-labels"},
     "parameters.candidate_labels"),
    ("/vertex", {"instances": [{"inputs": "a"}], "parameters": {"truncate": False}}, "parameters"),
    ("/v2/rerank", {"query": "q", "documents": ["a"], "max_tokens_per_doc": 5},
     "max_tokens_per_doc"),
    ("/v2/embed", {"texts": ["a"], "images": ["b"]}, "images"),
    ("/v2/embed", {"texts": ["a"], "max_tokens": 5}, "max_tokens"),
    ("/v2/embed", {"texts": [LONG], "truncate": "NONE"}, "texts"),
    ("/v2/embed", {"texts": ["a"], "output_dimension": 49}, "output_dimension"),
    ("/v2/embed", {"texts": ["a"], "output_dimension": 12, "embedding_types": ["binary"]},
     "embedding_types"),
    ("/v2/embed", {"texts": ["a"], "input_type": "image"}, "input_type"),
    ("/v2/embed", {"texts": []}, "texts"),
    ("/v1/rerank", {"query": "q", "documents": ["a"], "rank_fields": ["title"]}, "rank_fields"),
    ("/v1/rerank", {"query": "q", "documents": ["a"], "top_n": 0}, "top_n"),
    ("/v1/ranking", {"query": {"text": "q"}, "passages": [{"text": "a"}], "truncate": "foo"},
     "truncate"),
    ("/v1/score", {"text_1": "a", "text_2": "b", "activation": False}, "activation"),
]  # fmt: skip
