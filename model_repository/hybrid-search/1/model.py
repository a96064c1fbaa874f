"""all-minilm-l6-v2, splade-cocondenser-ensembledistil, bge-reranker-base: a fused search."""

from atoll.serving import HybridSearchModel as TritonPythonModel

__all__ = ["TritonPythonModel"]
