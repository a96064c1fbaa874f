"""mxbai-rerank-base-v2: query and texts to scores."""

from atoll.serving import RerankModel as TritonPythonModel

__all__ = ["TritonPythonModel"]
