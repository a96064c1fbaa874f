"""Short texts alone are replayed from graphs, and get what they get without."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny.checkpoint import write
from tiny.embedders import EMBEDDERS
from tiny.encoders import TRUNKS, VOCAB
from tiny.families import FAMILIES
from torch import Tensor

from atoll.config import Settings
from atoll.encoders.embedder import Embedder, EmbedOptions
from atoll.encoders.packer import Item, batch_of
from atoll.encoders.short_text_graphs import MOST_TOKENS, ShortTexts
from atoll.layers import Batch
from atoll_kernels import dispatch
from atoll_kernels.backends import KernelPolicy
from atoll_kernels.cpu import native

# What no encoder has: a last token's sight alone, and windows of both sides.
DECODERS = [v for v in EMBEDDERS if v.name in ("qwen3-embedding", "embedding-gemma")]
# With ALiBi on both sides.
JINA = [family for family in FAMILIES if family.name in ("jina", "jina-code")]
SAVED: dict[str, Callable[[Path], Any]] = {
    **{variant.name: partial(write, variant) for variant in (*TRUNKS, *DECODERS)},
    **{family.name: family.write for family in JINA},
}
CPU = torch.device("cpu")
pytestmark = pytest.mark.skipif(native.library() is None, reason="there is no C++ compiler")


def batch(*texts: list[int], types: list[int] | None = None) -> Batch:
    return batch_of([Item(_ints(ids), lambda result: None, _ints(types)) for ids in texts], CPU)


def _ints(values: list[int] | None) -> Any:
    return None if values is None else np.array(values, np.int32)


def random_ids(count: int, seed: int) -> list[int]:
    generator = torch.Generator().manual_seed(seed)
    found: list[int] = torch.randint(5, VOCAB, (count,), generator=generator).tolist()
    return found


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
@pytest.mark.parametrize("name", SAVED)
def test_every_trunk_is_replayed(name: str, dtype: str, tmp_path: Path) -> None:
    SAVED[name](tmp_path)
    encoder = Embedder(tmp_path, Settings(dtype=dtype, pooling="mean"))
    graphs: Any = encoder.hidden.graphs
    found: list[Tensor] = []
    with torch.inference_mode():
        texts = [batch(random_ids(n, seed)) for seed in range(5) for n in (3, 17)]
        for text in texts:
            found.append(encoder.hidden(text))
        assert graphs.num_checked == 2
        # All at the end: no later text has changed an earlier one's states.
        for text, hidden in zip(texts, found, strict=True):
            assert torch.equal(hidden, encoder.trunk(text))


def test_padding_tokens_are_counted_anew(tmp_path: Path) -> None:
    """Where they stand decides the positions, so these are no part of what a graph keeps."""
    write(next(v for v in TRUNKS if v.name.startswith("roberta")), tmp_path)
    encoder = Embedder(tmp_path, Settings())
    with torch.inference_mode():
        for ids in ([0, 5, 6, 2], [0, 7, 8, 2], [0, 1, 6, 2], [0, 6, 1, 2], [1, 1, 6, 1]):
            assert torch.equal(encoder.hidden(batch(ids)), encoder.trunk(batch(ids)))
    assert encoder.hidden.graphs is not None and encoder.hidden.graphs.num_checked == 1


def test_the_same_text_again_and_again(tmp_path: Path) -> None:
    write(TRUNKS[0], tmp_path)
    encoder = Embedder(tmp_path, Settings())
    with torch.inference_mode():
        for ids in ([0], [7, 7, 7], [VOCAB - 1] * 5):
            expected = encoder.trunk(batch(ids))
            assert all(torch.equal(encoder.hidden(batch(ids)), expected) for _ in range(4))
    assert encoder.hidden.graphs is not None and encoder.hidden.graphs.num_checked == 3


def test_types_of_tokens_are_theirs(tmp_path: Path) -> None:
    write(next(v for v in TRUNKS if v.name.startswith("bert")), tmp_path)
    encoder = Embedder(tmp_path, Settings())
    with torch.inference_mode():
        for seed in range(6):
            for types in (None, [0, 0, 0, 1], [0, 1, 1, 1]):
                text = batch(random_ids(4, seed), types=types)
                assert torch.equal(encoder.hidden(text), encoder.trunk(text))
    assert encoder.hidden.graphs is not None and encoder.hidden.graphs.num_checked == 2


def test_others_take_the_plain_way() -> None:
    """Several texts, long ones and empty ones; and all of them without native kernels."""
    calls: list[int] = []

    def trunk(given: Batch) -> Tensor:
        calls.append(len(given.input_ids))
        return given.input_ids.float().unsqueeze(1) + 1

    short = ShortTexts(trunk, CPU, torch.float32)
    others = [
        batch([5, 6], [7]),
        batch([9] * (MOST_TOKENS + 1)),
        Batch(torch.zeros(0, dtype=torch.int64), torch.zeros(0), torch.zeros(2), 0),
    ]
    with torch.inference_mode():
        for _ in range(4):
            for other in others:
                assert len(short(other)) == len(other.input_ids)
    assert len(calls) == 12 and short.graphs is not None and short.graphs.num_checked == 0
    assert ShortTexts(trunk, CPU, torch.float16).graphs is None
    dispatch.configure(KernelPolicy(disable_custom_kernels=True))
    try:
        assert ShortTexts(trunk, CPU, torch.float32).graphs is None
    finally:
        dispatch.configure(KernelPolicy())


def test_kept_token_vectors_stay(tmp_path: Path) -> None:
    """A request of several texts keeps the first one's while the others run."""
    write(TRUNKS[0], tmp_path)
    encoder = Embedder(tmp_path, Settings())
    options, kept = EmbedOptions(return_token_embeddings=True), []
    with torch.inference_mode():
        for seed in range(5):
            item = Item(_ints(random_ids(6, seed)), lambda result: None, None, options)
            result: Any = encoder(batch_of([item], CPU), [item])[0]
            kept.append((result.token_vectors, result.token_vectors.copy()))
    assert all((now == before).all() for now, before in kept)
    assert not (kept[0][0] == kept[1][0]).all()
