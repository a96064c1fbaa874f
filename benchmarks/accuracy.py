"""What a smaller dtype costs in quality: vectors and rankings of MiniLM, perplexity of SmolLM2.

``python benchmarks/accuracy.py --out docs/accuracy.md`` runs both embedded models in every dtype of
a CPU. The texts are the help topics that come with Python, so that anyone can run it offline.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any, cast

import torch
import torch.nn.functional as F
from harness.measure import machine, versions
from torch import Tensor

from atoll.config import Settings
from atoll.encoders.encoder import Embedder, EmbedOptions
from atoll.encoders.packer import Item, batch_of
from atoll.layers import Batch
from atoll.models.load_options import load_options
from atoll.models.registry import Checkpoint, load_decoder
from atoll.runner.kv_cache import allocate
from atoll.text.text_encoder import TextEncoder
from atoll.text.tokenizer import Tokenizer
from atoll.weights.files import resolve
from atoll_kernels.cpu.native import library

EMBEDDER_ID = "sentence-transformers/all-MiniLM-L6-v2"
GENERATOR_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"
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
    folder = resolve(EMBEDDER_ID)
    embedder = Embedder(folder, Settings(dtype=dtype))
    encoder = TextEncoder(Tokenizer.load(folder).core, embedder.spec.max_length)
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


def ranking(found: Tensor, exact: Tensor, names: Sequence[str]) -> str:
    """A row: cosines with float32's vectors, neighbours shared with it, and neighbours' topics."""
    cosine = F.cosine_similarity(found.double(), exact.double())
    near, wanted = _neighbours(found), _neighbours(exact)
    shared = torch.stack(
        [torch.isin(a, b).float().mean() for a, b in zip(near, wanted, strict=True)]
    )
    same = sum(names[int(row[0])] == name for row, name in zip(near, names, strict=True))
    return (
        f"{cosine.mean():.5f} | {cosine.min():.5f} | {shared.mean():.3f} | {same / len(names):.3f}"
    )


def _neighbours(rows: Tensor, count: int = 10) -> Tensor:
    """The ``count`` nearest other rows of each, nearest first."""
    scores = rows @ rows.t() - 3 * torch.eye(len(rows))
    return scores.topk(count).indices


class LanguageModel:
    """SmolLM2 in a dtype, with a cache of one window."""

    def __init__(self, dtype: str) -> None:
        checkpoint = Checkpoint.open(resolve(GENERATOR_ID))
        options = load_options(Settings(dtype=dtype), checkpoint.raw)
        self.model = cast(Any, load_decoder(checkpoint, options))
        specs = self.model.cache_specs()
        self.kv_cache = allocate(specs, 1, WINDOW, options.dtype, options.device)

    def logits(self, ids: Sequence[int]) -> Tensor:
        """(tokens, vocab) float32."""
        count = torch.tensor([len(ids)], dtype=torch.int32)
        batch = Batch(
            input_ids=torch.tensor(ids),
            positions=torch.arange(len(ids)),
            slot_mappings=(torch.arange(len(ids)),),
            cu_seqlens=torch.tensor([0, len(ids)], dtype=torch.int32),
            seq_lens=count,
            block_tables=(torch.zeros(1, 1, dtype=torch.int32),),
            kv_cache=self.kv_cache,
            max_position=len(ids) - 1,
            prompt_lens=count,
        )
        found: Tensor = self.model.logits(self.model(batch))
        return found


def perplexity(ids: Sequence[int], dtype: str) -> float:
    """exp of the mean negative log-likelihood of windows of ``WINDOW`` tokens."""
    model = LanguageModel(dtype)
    losses = []
    for start in range(0, len(ids) - WINDOW + 1, WINDOW):
        window = ids[start : start + WINDOW]
        logits = model.logits(window)[:-1]
        losses.append(float(F.cross_entropy(logits, torch.tensor(window[1:]))))
    return math.exp(sum(losses) / len(losses))


def report(num_paragraphs: int, num_tokens: int) -> str:
    """The page: both tables, and how they were made."""
    native = library()
    texts, names = paragraphs(num_paragraphs)
    exact = vectors(texts, "float32")
    lines = [
        "# Accuracy of the dtypes on CPU",
        "",
        f"`python benchmarks/accuracy.py` on {machine()}; {versions(['torch', 'tokenizers'])};",
        f"native kernels: {'none' if native is None else native.level.name}.",
        "The texts are the help topics that come with Python (`pydoc_data.topics`).",
        "",
        f"## Embeddings: all-MiniLM-L6-v2, {len(texts)} paragraphs",
        "",
        "| dtype | mean cosine with float32 | minimum | share of float32's 10 nearest | nearest is "
        "of the same topic |",
        "|-|-:|-:|-:|-:|",
    ]
    for dtype in DTYPES:
        lines.append(f"| {dtype} | {ranking(vectors(texts, dtype), exact, names)} |")
        print(lines[-1], flush=True)
    text = "\n\n".join(topics[name] for name in sorted(topics))
    ids = Tokenizer.load(resolve(GENERATOR_ID)).encode(text)[:num_tokens]
    lines += [
        "",
        f"## Generation: SmolLM2-135M-Instruct, {len(ids)} tokens in windows of {WINDOW}",
        "",
        "| dtype | perplexity | relative to float32 |",
        "|-|-:|-:|",
    ]
    base = perplexity(ids, "float32")
    for dtype in DTYPES:
        found = base if dtype == "float32" else perplexity(ids, dtype)
        lines.append(f"| {dtype} | {found:.3f} | {found / base:.4f} |")
        print(lines[-1], flush=True)
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
