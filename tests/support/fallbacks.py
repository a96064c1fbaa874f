"""Architectures as if they had no file in ``atoll.models``, so that transformers runs them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from atoll.models import detect, registry


@contextmanager
def without_files(*model_types: str) -> Iterator[None]:
    """Tests of the fallback take well-known families, each of which may get a file some day."""
    kept = tuple(kind for kind in detect.GENERATOR_TYPES if kind not in model_types)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(detect, "GENERATOR_TYPES", kept)
        for kind in model_types:
            patch.delitem(registry.DECODERS, kind, raising=False)
        yield
