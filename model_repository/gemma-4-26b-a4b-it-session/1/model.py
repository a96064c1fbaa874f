"""gemma-4-26b-a4b-it: one turn after another."""

from atoll.serving import SessionModel as TritonPythonModel

__all__ = ["TritonPythonModel"]
