"""Qwen3-Coder-30B-A3B-Instruct: prompt to text."""

from atoll.serving import GenerateModel as TritonPythonModel

__all__ = ["TritonPythonModel"]
