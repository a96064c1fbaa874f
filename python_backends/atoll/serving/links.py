"""The parameters by which an entry names the models that it asks, and what these have to do.

Imports nothing of Triton, so that the launcher can check a repository before anything is loaded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

# In the order in which the models are asked.
LINKED_TASKS: Mapping[str, tuple[str, ...]] = {
    "generator": ("generate",),
    "embedder": ("embed",),
    "sparse_embedder": ("sparse",),
    "reranker": ("rerank", "multi_vector"),
}


def wrong_link(parameter: str, model: str, tasks: Sequence[str]) -> str | None:
    """What is wrong with a link; None: nothing. tasks: the model's own, then what else it does."""
    known = LINKED_TASKS[parameter]
    if set(known) & set(tasks):
        return None
    return f"{parameter} is {model!r}, which is for {tasks[0]}; expected {' or '.join(known)}"
