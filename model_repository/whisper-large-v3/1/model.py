"""whisper-large-v3: speech to text."""

from atoll.serving import TranscribeModel as TritonPythonModel

__all__ = ["TritonPythonModel"]
