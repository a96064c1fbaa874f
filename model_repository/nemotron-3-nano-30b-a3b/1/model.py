"""NVIDIA-Nemotron-3-Nano-30B-A3B-BF16: prompt to text."""

from atoll.serving import GenerateModel as TritonPythonModel

__all__ = ["TritonPythonModel"]
