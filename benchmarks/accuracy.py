"""What a smaller dtype costs in quality: vectors and rankings of MiniLM, perplexity of SmolLM2.

``python benchmarks/accuracy.py --out docs/accuracy.md`` runs both embedded models in every dtype of
a CPU. The texts are the help topics that come with Python, so it runs offline.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import torch
import torch.nn.functional as F
from harness.measure import machine, markdown, versions
from harness.models import EMBEDDER_ID, GENERATOR_ID, Generator, load_embedder
from torch import Tensor

from atoll.encoders.embedder import EmbedOptions
from atoll.encoders.packer import Item, batch_of
from atoll.layers import Batch
from atoll.text.tokenizer import Tokenizer
from atoll.weights.files import resolve
from atoll_kernels.cpu.native import library

DTYPES = ("float32", "bfloat16", "float16", "int8", "int4")
CPU = torch.device("cpu")
WINDOW = 512
_NOTE = """
An int4 weight takes 4.5 bits, plus 32 / in_features for its output's factors: each group of 32
inputs has a scale and an offset of one byte each. On CPUs without bfloat16 instructions, torch's
kernel is used, which takes 6 bits, with both in float32. The head stays in int8.

The embedded SmolLM2 was published in 4 bits (GGUF's Q4_1, its head in 8 bits), so int4 costs it
little. MiniLM, published in float32, shows what 4 bits cost a model that was not prepared for them.
"""


def paragraphs(count: int) -> tuple[list[str], list[str]]:
    """Paragraphs of the help topics, and the topic of each."""
    found = [
        (" ".join(paragraph.split()), name)
        for name, text in sorted(topics.items())
        for paragraph in text.split("\n\n")
        if 80 <= len(paragraph) <= 800
    ]
    step = max(1, len(found) // count)
    chosen = found[::step][:count]
    return [text for text, _ in chosen], [name for _, name in chosen]


def vectors(texts: Sequence[str], dtype: str) -> Tensor:
    """Unit vectors (texts, hidden) float32 of MiniLM in ``dtype``."""
    embedder, encoder = load_embedder(resolve(EMBEDDER_ID), dtype)
    encoded = encoder.encode(texts, name="texts", truncate=True)
    rows: list[Tensor] = []
    for start in range(0, len(encoded), 32):
        items = [
            Item(text.ids, lambda result: None, text.type_ids, EmbedOptions())
            for text in encoded[start : start + 32]
        ]
        found: list[Any] = embedder(batch_of(items, CPU), items)
        rows += [torch.from_numpy(embedded.vector) for embedded in found]
    return torch.stack(rows)


def ranking(found: Tensor, exact: Tensor, names: Sequence[str]) -> list[str]:
    """Cells of a row: cosines with float32's vectors, shared neighbours, neighbours' topics."""
    cosine = F.cosine_similarity(found.double(), exact.double())
    near, wanted = _neighbours(found), _neighbours(exact)
    shared = torch.stack(
        [torch.isin(a, b).float().mean() for a, b in zip(near, wanted, strict=True)]
    )
    same = sum(names[int(row[0])] == name for row, name in zip(near, names, strict=True))
    cosines = [f"{cosine.mean():.5f}", f"{cosine.min():.5f}"]
    return [*cosines, f"{shared.mean():.3f}", f"{same / len(names):.3f}"]


def _neighbours(rows: Tensor, count: int = 10) -> Tensor:
    """The ``count`` nearest other rows of each, nearest first."""
    scores = rows @ rows.t() - 3 * torch.eye(len(rows))
    return scores.topk(count).indices


def perplexity(ids: Sequence[int], dtype: str, folder: Path | None = None) -> float:
    """exp of the mean negative log-likelihood of windows of ``WINDOW`` tokens.

    folder: of the generator; SmolLM2's if None.
    """
    model, places = Generator(dtype, 1, WINDOW, folder), torch.arange(WINDOW)
    count, losses = torch.tensor([WINDOW], dtype=torch.int32), []
    for start in range(0, len(ids) - WINDOW + 1, WINDOW):
        window = torch.tensor(ids[start : start + WINDOW])
        batch = Batch(
            input_ids=window, positions=places, cu_seqlens=torch.tensor([0, WINDOW]).int(),
            max_position=WINDOW - 1, prompt_lens=count, seq_lens=count,
            block_tables=(torch.zeros(1, 1).int(),), slot_mappings=(places,),
            kv_cache=model.kv_cache,
        )  # fmt: skip
        losses.append(float(F.cross_entropy(model.logits(batch)[:-1], window[1:])))
    return math.exp(sum(losses) / len(losses))


def report(num_paragraphs: int, num_tokens: int) -> str:
    """The page: both tables, and how they were made."""
    native = library()
    texts, names = paragraphs(num_paragraphs)
    exact = vectors(texts, "float32")
    rankings = [[dtype, *ranking(vectors(texts, dtype), exact, names)] for dtype in DTYPES]
    text = "\n\n".join(topics[name] for name in sorted(topics))
    ids = Tokenizer.load(resolve(GENERATOR_ID)).encode(text)[:num_tokens]
    found = {dtype: perplexity(ids, dtype) for dtype in DTYPES}
    titles = ("dtype", "mean cosine with float32", "minimum", "share of float32's 10 nearest")
    lines = [
        "# Accuracy of the dtypes on CPU",
        "",
        f"`python benchmarks/accuracy.py` on {machine()}; {versions(['torch', 'tokenizers'])};",
        f"native kernels: {'none' if native is None else native.level.name}.",
        "The texts are the help topics that come with Python (`pydoc_data.topics`).",
        "",
        f"## Embeddings: all-MiniLM-L6-v2, {len(texts)} paragraphs",
        "",
        markdown((*titles, "nearest is of the same topic"), rankings),
        "",
        f"## Generation: SmolLM2-135M-Instruct, {len(ids)} tokens in windows of {WINDOW}",
        "",
        markdown(
            ("dtype", "perplexity", "relative to float32"),
            ([d, f"{p:.3f}", f"{p / found['float32']:.4f}"] for d, p in found.items()),
        ),
    ]
    return "\n".join(lines) + "\n" + _NOTE


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("docs/accuracy.md"))
    parser.add_argument("--paragraphs", type=int, default=300)
    parser.add_argument("--tokens", type=int, default=4096)
    arguments = parser.parse_args()
    with torch.inference_mode():
        page = report(arguments.paragraphs, arguments.tokens)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(page)
    print(page)


if __name__ == "__main__":
    main()
