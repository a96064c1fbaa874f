"""Architectures as if they had no file in ``atoll.models``, so that transformers runs them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from atoll.models import families


@contextmanager
def without_files(*model_types: str) -> Iterator[None]:
    """Tests of the fallback take well-known families, each of which may get a file some day."""
    with pytest.MonkeyPatch.context() as patch:
        for kind in model_types:
            patch.delitem(families.DECODERS, kind, raising=False)
        yield
