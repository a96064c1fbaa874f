"""GGUF files in llama.cpp and in Atoll: tokens per second, and the perplexity of docs/*.md.

``python benchmarks/gguf_file.py one.gguf other.gguf`` prints a page, or writes it with ``--out``;
of SmolLM2, ``--types Q8_0 Q4_0`` makes the files itself. llama-cpp-python must be installed; both
use as many threads as torch. ``--dtypes`` are Atoll's: with float32 the numbers of the file are
exact, with bfloat16 they are rounded, int8 packs them again.
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent / "peers"))

import numpy as np
import torch
import torch.nn.functional as F
from accuracy import WINDOW, perplexity
from generate_peers import Generate, LlamaCpp, engine, quiet
from gguf_copy import quantized
from harness.measure import machine, markdown, race, table, versions
from harness.models import GENERATOR_ID

from atoll.text.tokenizer import Tokenizer
from atoll.weights.files import resolve

DOCS = Path(__file__).resolve().parents[1] / "docs"
CACHE = Path(tempfile.gettempdir()) / "atoll-gguf"


def llama_perplexity(ids: Sequence[int], model: LlamaCpp) -> float:
    """As ``accuracy.perplexity``, of llama.cpp."""
    losses = []
    for start in range(0, len(ids) - WINDOW + 1, WINDOW):
        window = list(ids[start : start + WINDOW])
        logits = torch.from_numpy(model.logits(window))
        losses.append(float(F.cross_entropy(logits[:-1], torch.tensor(window[1:]))))
    return math.exp(sum(losses) / len(losses))


def head() -> str:
    """The page's title, and what all of its figures were measured with."""
    made_with = f"{machine()}; {versions(['torch', 'llama_cpp_python'])}"
    return (
        f"# GGUF files in llama.cpp and Atoll\n\n{made_with}; {torch.get_num_threads()} threads.\n"
    )


def report(path: Path, dtypes: Sequence[str], arguments: argparse.Namespace) -> str:
    """A file's part of the page: perplexities, then a table per number of sequences."""
    import llama_cpp

    folder = resolve(str(path))
    text = "\n\n".join(page.read_text() for page in sorted(DOCS.glob("*.md")))
    ids = Tokenizer.load(folder).encode(text)[: arguments.tokens]
    with quiet():
        llama = LlamaCpp(llama_cpp, path, WINDOW)
    found = {"llama.cpp": llama_perplexity(ids, llama)}
    found |= {f"Atoll {dtype}": perplexity(ids, dtype, folder) for dtype in dtypes}
    lines = [
        f"## {path.name}",
        "",
        f"Perplexity of {len(ids)} tokens in windows of {WINDOW}:",
        "",
        markdown(("system", "perplexity"), [(name, f"{p:.4f}") for name, p in found.items()]),
    ]
    systems: dict[str, Generate] = {"llama.cpp": llama.generate}
    systems |= {f"Atoll {dtype}": engine(dtype, folder, folder) for dtype in dtypes}
    for count in arguments.sequences:
        results = race(_contestants(systems, ids, count, arguments), "tokens", arguments.rounds)
        title = f"{count} at once, {arguments.answer} tokens after {arguments.prompt}:"
        lines += ["", title, "", table(results, "llama.cpp")]
    return "\n".join(lines) + "\n"


def _contestants(
    systems: dict[str, Generate], ids: Sequence[int], count: int, arguments: argparse.Namespace
) -> dict[str, Any]:
    size = arguments.prompt
    prompts = [list(ids[i * size : (i + 1) * size]) for i in range(count)]

    def contestant(generate: Generate) -> Any:
        def work() -> int:
            return int(np.sum([len(a) for a in generate(prompts, arguments.answer)]))

        return work

    return {name: contestant(generate) for name, generate in systems.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", type=Path, nargs="*")
    parser.add_argument("--types", nargs="+", default=[], help="of llama.cpp, for SmolLM2")
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16", "int8"])
    parser.add_argument("--sequences", nargs="+", type=int, default=[1, 8])
    parser.add_argument("--prompt", type=int, default=64)
    parser.add_argument("--answer", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    CACHE.mkdir(exist_ok=True)
    made = [quantized(resolve(GENERATOR_ID), CACHE, kind) for kind in arguments.types]
    with torch.inference_mode():
        parts = [report(path, arguments.dtypes, arguments) for path in (*arguments.files, *made)]
    page = "\n".join([head(), *parts])
    if arguments.out is not None:
        arguments.out.write_text(page)
    print(page)


if __name__ == "__main__":
    main()
