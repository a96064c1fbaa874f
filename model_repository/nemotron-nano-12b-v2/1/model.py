"""NVIDIA-Nemotron-Nano-12B-v2: prompt to text."""

from atoll.serving import GenerateModel as TritonPythonModel

__all__ = ["TritonPythonModel"]
