"""Text Embeddings Inference's interface."""
