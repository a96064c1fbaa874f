"""gemma-4-e2b-it: one turn after another."""

from atoll.serving import SessionModel as TritonPythonModel

__all__ = ["TritonPythonModel"]
