"""An embedder's further heads, which are linear layers for each token: bge-m3's two, and GTE's one.

bge-m3 has a file for each. In gte-multilingual-base, the classifier of tokens beside the trunk has
one label, which is the weight of a word.

Source: Chen et al. 2024 (M3-Embedding), Zhang et al. 2024 (mGTE); the files of BAAI/bge-m3 and of
Alibaba-NLP/gte-multilingual-base.
"""

from __future__ import annotations

from pathlib import Path

from atoll.weights.json_fields import Fields
from atoll.weights.modules import read_object

# A weight for each token, and a vector for each.
SPARSE, COLBERT = "sparse_linear", "colbert_linear"
_WEIGHING_CLASS = "NewForTokenClassification"


def token_heads(folder: Path) -> tuple[str, ...]:
    """The heads that a checkpoint has: SPARSE, COLBERT. folder: that of the trunk."""
    found = tuple(name for name in (SPARSE, COLBERT) if (folder / f"{name}.pt").exists())
    return found or ((SPARSE,) if classifier_weighs(folder) else ())


def classifier_weighs(folder: Path) -> bool:
    """Whether SPARSE is the classifier beside the trunk; the published file names no labels."""
    fields = Fields(read_object(folder / "config.json"))
    is_named = next(iter(fields.texts("architectures")), "") == _WEIGHING_CLASS
    return is_named and len(fields.inside("id2label").raw) <= 1
