"""Cohere's embeddings; its reranking is in ``tei.rerankers``, which other interfaces share."""
