"""Qwen3-Reranker-4B: query and texts to scores."""

from atoll.serving import RerankModel as TritonPythonModel

__all__ = ["TritonPythonModel"]
