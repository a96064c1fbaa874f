"""Opens a checkpoint folder, whichever files its tensors are in."""

from pathlib import Path

from atoll.weights.gguf.index import is_gguf
from atoll.weights.gguf.reader import GgufReader
from atoll.weights.reader import CheckpointReader


def open_checkpoint(folder: Path) -> CheckpointReader:
    """Raises WeightError: there is no weight file, or one is missing or unreadable."""
    return GgufReader(folder) if is_gguf(folder) else CheckpointReader(folder)
