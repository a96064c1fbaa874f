"""Opens a checkpoint folder, whichever files its tensors are in."""

from pathlib import Path

from atoll.weights.gguf.gpt_oss import GptOssReader
from atoll.weights.gguf.index import Index, is_gguf
from atoll.weights.gguf.reader import GgufReader
from atoll.weights.reader import CheckpointReader


def open_checkpoint(folder: Path) -> CheckpointReader:
    """Raises WeightError: there is no weight file, or one is missing or unreadable."""
    return gguf_reader(folder) if is_gguf(folder) else CheckpointReader(folder)


def gguf_reader(folder: Path) -> GgufReader:
    """The reader of a folder whose tensors are in GGUF files; errors as ``GgufReader``."""
    is_gpt_oss = Index.load(folder).architecture == "gpt-oss"
    return GptOssReader(folder) if is_gpt_oss else GgufReader(folder)
