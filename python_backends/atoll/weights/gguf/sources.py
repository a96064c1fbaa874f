"""Which GGUF files of a folder or a hub repository are meant.

A repository's are written as ``owner/name:Q4_K_M``, by what their names contain, or as
``owner/name/file.gguf``. Files of one series (``-00001-of-00003.gguf``) are one model.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

from atoll.errors import ConfigError
from atoll.weights.gguf.file import SPLIT

_REPOSITORY = r"\w[\w.-]*/\w[\w.-]*"
_BY_KIND = re.compile(rf"({_REPOSITORY}):([\w.-]+)")
_BY_NAME = re.compile(rf"({_REPOSITORY})/(.+\.gguf)", re.IGNORECASE)
# Image encoders, importance matrices and adapters lie beside models.
_OTHERS = re.compile(r"mmproj|imatrix|lora", re.IGNORECASE)


class HubFile(NamedTuple):
    """A repository, and the name of a file in it or what it contains (``Q4_K_M``)."""

    repository: str
    wanted: str

    @property
    def is_name(self) -> bool:
        """Whether it is the whole name."""
        return self.wanted.lower().endswith(".gguf")


def hub_file(model_id: str) -> HubFile | None:
    """A model id that means a GGUF file on the hub; None for others."""
    match = _BY_KIND.fullmatch(model_id) or _BY_NAME.fullmatch(model_id)
    return None if match is None else HubFile(*match.groups())


def models(names: Iterable[str]) -> list[str]:
    """The GGUF models among file names, each by its first file."""
    firsts: dict[str, str] = {}
    for name in sorted(names):
        match = SPLIT.fullmatch(name)
        if name.lower().endswith(".gguf") and not _OTHERS.search(name.rpartition("/")[2]):
            firsts.setdefault(match[1] if match else name, name)
    return list(firsts.values())


def chosen(names: Iterable[str], wanted: str, source: str) -> str:
    """The model that ``wanted`` names: its first file.

    Args:
        source: whose files they are, in messages.

    Raises:
        ConfigError: none of the files, or several; names them.
    """
    every = models(names)
    exact = [name for name in every if name == wanted]
    # As a word of the name: Q4_K is not part of Q4_K_M.
    word = re.compile(rf"(?<![a-z0-9_]){re.escape(wanted)}(?![a-z0-9_])", re.IGNORECASE)
    found = exact or [name for name in every if word.search(name)]
    if len(found) != 1:
        what = f"{len(found)} GGUF models" if found else "no GGUF model"
        shown = ", ".join((found or every)[:12]) or "none"
        raise ConfigError(f"{source} has {what} {wanted!r}; there are: {shown}")
    return found[0]


def together(first: str, names: Iterable[str]) -> list[str]:
    """All files of the model that ``first`` is the first one of."""
    match = SPLIT.fullmatch(first)
    if match is None:
        return [first]
    return sorted(n for n in names if (m := SPLIT.fullmatch(n)) and m[1] == match[1])
