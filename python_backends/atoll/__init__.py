"""Atoll: a model repository and Python backend for NVIDIA Triton Inference Server."""

import os

__version__ = "0.1.0"
__all__ = ["__version__"]

# libgomp reads it when torch loads it. Its own default, 300,000 turns, keeps a worker awake for
# some 20 ms after a kernel: two models on the same cores then hold each other up, ten times over.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
