"""Triton-language kernels for NVIDIA and AMD GPUs; the only package that imports triton."""
