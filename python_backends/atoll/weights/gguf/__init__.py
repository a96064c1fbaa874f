"""GGUF files as checkpoints: metadata becomes a folder's small files, tensors stay in place."""
