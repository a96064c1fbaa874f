"""all-minilm-l6-v2 and bge-reranker-base: a query and documents to the best documents."""

from atoll.serving import RetrieveRerankModel as TritonPythonModel

__all__ = ["TritonPythonModel"]
