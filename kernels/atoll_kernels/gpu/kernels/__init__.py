"""Triton-language kernels alone; what calls them, with shapes and types, is one folder up."""
