"""Triton-language kernels; their wrappers are one folder up."""
