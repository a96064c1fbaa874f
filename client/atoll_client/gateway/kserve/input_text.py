"""Embedding requests of LiteLLM's ``triton/`` models, which expect a signature of their own.

Texts are in ``input_text``, which has one dimension. LiteLLM reads every output as vectors.
"""

from __future__ import annotations

from typing import Any

from atoll_client.gateway.kserve.signature import Signature

_THEIRS, _OURS, _VECTORS = "input_text", "text_input", "embedding"


def adapt(message: Any, signature: Signature) -> None:
    """Converts such a request to an embedder of Atoll; leaves others unchanged."""
    is_embedder = signature.is_ours and _OURS in signature.inputs and _VECTORS in signature.outputs
    if not is_embedder or [tensor.name for tensor in message.inputs] != [_THEIRS]:
        return
    (texts,) = message.inputs
    if len(texts.shape) != 1:
        return
    texts.name = _OURS
    texts.shape.append(1)
    if not message.outputs:
        message.outputs.add(name=_VECTORS)
