"""One example request per task, to paste into a shell."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from atoll.catalogue import ServedModel


def _texts(name: str, *texts: str) -> dict[str, Any]:
    return {"name": name, "shape": [len(texts), 1], "datatype": "BYTES", "data": texts}


_EMBED = {
    "inputs": [_texts("text_input", "A man is eating food.", "A man is eating a piece of bread.")]
}
_TOKENS = {
    "inputs": [_texts("text_input", "Darwin saw the Cocos Islands from the Beagle.")],
    "parameters": {"aggregation_strategy": "simple"},
}
_RERANK = {
    "inputs": [
        _texts("query", "What is an atoll?"),
        _texts("text_input", "A ring of coral around a lagoon.", "A man is eating food."),
    ]
}
_GENERATE = {
    "text_input": "The capital of France is",
    "parameters": {"temperature": 0, "max_tokens": 8},
}
# Samples at 16 kHz; files are sent over gRPC, or to the gateway.
_TRANSCRIBE = {"waveform": [0.0, 0.1, 0.0, -0.1], "language": "en"}
_REQUESTS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "embed": ("infer", _EMBED),
    "sparse": ("infer", _EMBED),
    "multi_vector": ("infer", _RERANK),
    "classify": ("infer", _EMBED),
    "token_classify": ("infer", _TOKENS),
    "rerank": ("infer", _RERANK),
    "generate": ("generate", _GENERATE),
    "transcribe": ("generate", _TRANSCRIBE),
}


def example(model: ServedModel, http_url: str) -> str:
    """A curl command that queries the model; its metadata if we do not know its tensors."""
    url = f"{http_url}/v2/models/{model.name}"
    if model.task is None or model.task not in _REQUESTS:
        return f"curl -s {url}"
    route, body = _REQUESTS[model.task]
    return f"curl -s {url}/{route} -d '{json.dumps(body)}'"
