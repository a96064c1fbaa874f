"""Tiny random checkpoints of every architecture and layout, and what drives a model on its own."""
