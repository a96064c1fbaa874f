"""bge-reranker-v2-gemma: query and texts to scores."""

from atoll.serving import RerankModel as TritonPythonModel

__all__ = ["TritonPythonModel"]
