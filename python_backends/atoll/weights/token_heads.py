"""The two further heads of bge-m3's checkpoints: linear layers for each token, a file for each.

Source: Chen et al. 2024 (M3-Embedding); the files of BAAI/bge-m3.
"""

from __future__ import annotations

from pathlib import Path

# A weight for each token, and a vector for each.
SPARSE, COLBERT = "sparse_linear", "colbert_linear"


def token_heads(folder: Path) -> tuple[str, ...]:
    """The heads that a checkpoint has: SPARSE, COLBERT."""
    return tuple(name for name in (SPARSE, COLBERT) if (folder / f"{name}.pt").exists())
