"""Atoll: a model repository and Python backend for NVIDIA Triton Inference Server."""

__version__ = "0.1.0"
__all__ = ["__version__"]
