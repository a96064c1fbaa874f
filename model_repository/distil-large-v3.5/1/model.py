"""distil-large-v3.5: speech to text."""

from atoll.serving import TranscribeModel as TritonPythonModel

__all__ = ["TritonPythonModel"]
