"""bge-reranker-v2-m3: query and texts to scores."""

from atoll.serving import RerankModel as TritonPythonModel

__all__ = ["TritonPythonModel"]
