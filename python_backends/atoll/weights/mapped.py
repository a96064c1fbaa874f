"""Tables of vectors that stay in a file: a model reads few of their rows at a time.

A process then has in memory what its texts have needed, not the whole table (47 of the 90 MB of
all-MiniLM-L6-v2 in float32, 768 of the 1,112 MB of XLM-RoBERTa's base), and the system can take
even that back. The file must not change while the model runs: a shortened one would end the
process. Files of the hub's cache, of installed packages and of our own cache do not; for others, a
copy is written that has no name, and is gone with the process.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor

from atoll.weights.embedded import cache_folder

logger = logging.getLogger(__name__)

# Below this, memory costs less than a file that stays open; above, writing takes too long.
_LEAST_BYTES, _MOST_WRITTEN_BYTES = 1 << 20, 1 << 28
# The hub's cache names files by their content, and packages are replaced, not written to.
_UNCHANGING = {"blobs", "site-packages", "dist-packages"}
_IN_MEMORY = {"tmpfs", "ramfs", "devtmpfs"}
_MADV_DONTNEED = 4


def never_change(files: Iterable[Path]) -> bool:
    """Whether nobody writes to any of the files."""
    own = cache_folder().resolve()
    found = [file.resolve() for file in files]
    return all(_UNCHANGING & set(file.parts) or own in file.parents for file in found)


def is_mapped(tensor: Tensor) -> bool:
    """Whether it is a view of a file."""
    return tensor.device.type == "cpu" and not tensor.untyped_storage().resizable()


def is_large(tensor: Tensor) -> bool:
    """Whether it is worth a file that stays open."""
    return tensor.nbytes >= _LEAST_BYTES


def moved_to_file(tensor: Tensor) -> Tensor:
    """A view of a nameless file with the same values; ``tensor`` itself where there is none.

    There is none of a tensor too small or too large for it, or where temporary files are in memory
    or have little room.
    """
    folder = Path(tempfile.gettempdir())
    if not _LEAST_BYTES <= tensor.nbytes <= _MOST_WRITTEN_BYTES or tensor.device.type != "cpu":
        return tensor
    try:
        if _is_in_memory(folder) or shutil.disk_usage(folder).free < 4 * tensor.nbytes:
            return tensor
        with tempfile.NamedTemporaryFile(prefix="atoll-table-", dir=folder) as file:
            tensor.contiguous().view(torch.uint8).numpy().tofile(file)
            file.flush()
            number = tensor.numel()
            mapped = torch.from_file(file.name, shared=False, size=number, dtype=tensor.dtype)
    except (OSError, RuntimeError) as error:
        logger.warning("a table of vectors stays in memory: %s", error)
        return tensor
    _drop(mapped.data_ptr(), mapped.nbytes)
    return mapped.view(tensor.shape)


def give_back(files: Iterable[Path]) -> None:
    """Gives back the pages of the files that loading has read; they are read again when needed.

    No view of the files may have been written to.
    """
    paths = {str(file.resolve()) for file in files}
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/maps").read_text(errors="replace").splitlines():
            place, *_, path = line.split(maxsplit=5)
            if path in paths:
                first, last = (int(end, 16) for end in place.split("-"))
                _drop(first, last - first)


def _drop(address: int, size: int) -> None:
    libc = ctypes.CDLL(None)
    libc.madvise(ctypes.c_void_p(address), ctypes.c_size_t(size), _MADV_DONTNEED)


def _is_in_memory(folder: Path) -> bool:
    """By the kind of the file system that holds it."""
    found: dict[Path, str] = {}
    for line in Path("/proc/self/mountinfo").read_text(errors="replace").splitlines():
        left, _, right = line.partition(" - ")
        found[Path(left.split()[4])] = right.split()[0]
    place = folder.resolve()
    return next((found[p] for p in (place, *place.parents) if p in found), "") in _IN_MEMORY
