"""Text generation through the real server next to libraries that people call directly, in one run.

``python benchmarks/peers/generate.py --models smollm2 1.1b --out docs/benchmarks`` measures
SmolLM2-135M-Instruct and a Llama of 1.1 billion random weights with 1, 8 and 32 requests at once
(``qwen3-0.6b``: the sizes of Qwen3-0.6B, random weights too):
tokens/s, time to the first token, time per token after it, and how much of the answer equals that
of transformers in float32. All get the same prompts, as token ids, and give answers of the same
length. Each library runs in its own process, is built once, and is timed there, without the pipe.
If memory is too small for all of them, those in float32 are left out, then those of
``MAY_STAY_OUT``. After every race, ``generate.json``, ``.md`` and ``.svg`` are written; they keep
the other races of the same day.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

sys.path.append(str(Path(__file__).resolve().parents[1]))


import numpy as np
import psutil
import torch
from generate_peers import MAX_SEQUENCES, MAX_TOKENS, PEERS, Generate, built, peers
from harness.apart import Apart, contestant, timed
from harness.measure import Result, machine, race, table, versions, write
from harness.models import GENERATOR_ID, save_random_llama, save_random_qwen3
from harness.served import DTYPES, server_of
from harness.streams import Streams, Times
from vllm_peer import vllm

from atoll.launcher import ServerProcess
from atoll.weights.files import resolve

PACKAGES = ["torch", "transformers", "ctranslate2", "llama_cpp_python"]
BASELINE = "transformers bf16"
REFERENCE = "transformers fp32"
VLLM = "vLLM CPU bf16"
PROMPT_TOKENS = 64
COMPARED_PROMPTS, COMPARED_TOKENS = 32, 32
METHOD = (
    f"{PROMPT_TOKENS} tokens in, {{tokens}} out. Every library runs in its own process, and so "
    "does Atoll's engine; Atoll is also measured as it is served, behind tritonserver and gRPC. As "
    f"fp32: the share of an answer of {COMPARED_TOKENS} tokens before its first difference to that "
    f"of {REFERENCE}; the mean of {COMPARED_PROMPTS} prompts, answered at once, measured once for "
    "all races of a model."
)

# Peers that were never the fastest; the largest first.
MAY_STAY_OUT = ("llama.cpp BF16", "llama.cpp Q8_0", "ctranslate2 int8")
_BYTES_A_WEIGHT = {"fp32": 4.0, "bf16": 2.0, "int8": 1.1, "Q8_0": 1.1, "int4": 0.6, "Q4_0": 0.6}
# A process with its libraries, its KV cache and its scratch memory.
_GB_A_PROCESS = 1.0


class Model(NamedTuple):
    """A title, and the number of weights in billions."""

    title: str
    billions: float


MODELS = {
    "smollm2": Model("SmolLM2-135M", 0.135),
    "1.1b": Model("Llama 1.1B (random weights)", 1.1),
    "qwen3-0.6b": Model("Qwen3-0.6B (random weights)", 0.6),
}


def served(folder: Path, dtypes: Sequence[str]) -> ServerProcess:
    """One server with an entry per dtype, named by it. No prefix is reused between rounds.

    Each entry's cache holds as much as llama.cpp's, so that all entries and peers fit into memory.
    """
    given = {"prefix_caching": "false", "max_batch_total_tokens": str(MAX_SEQUENCES * MAX_TOKENS)}
    return server_of({name: (folder, {"dtype": DTYPES[name], **given}) for name in dtypes})


def agreement(found: list[list[int]], expected: list[list[int]]) -> float:
    """Mean share of an answer before its first difference to the expected one."""
    shares = []
    for answer, right in zip(found, expected, strict=True):
        same = [a == b for a, b in zip(answer, right, strict=True)]
        shares.append(same.index(False) / len(same) if False in same else 1.0)
    return statistics.mean(shares)


def measured(
    contestants: Mapping[str, Generate],
    streams: Mapping[str, Streams],
    prompts: list[list[int]],
    count: int,
    rounds: int,
) -> list[Result]:
    """The race, with the times of a first token and of each further one."""
    for stream in streams.values():
        stream.times = Times()
    entrants = {
        name: contestant(len(prompts) * count, generate, prompts, count)
        for name, generate in contestants.items()
    }
    results = race(entrants, "tokens/s", rounds)
    for r in results:
        if r.name in streams:
            times = streams[r.name].times
            first, between = statistics.median(times.first), statistics.median(times.between)
        else:
            # A library returns all tokens at once: the first takes as long as an answer of one.
            prefills = [timed(1, contestants[r.name], prompts, 1)[1] for _ in range(rounds)]
            first = statistics.median(prefills)
            between = (len(prompts) * count / r.median - first) / max(1, count - 1)
        r.cells["first token ms"] = f"{1000 * first:.1f}"
        r.cells["per token ms"] = f"{1000 * between:.1f}"
    return results


def checkpoint(model: str, cache: Path) -> Path:
    """One of ``MODELS``: the sizes of its family, random weights and SmolLM2's tokenizer."""
    from transformers import AutoTokenizer

    if model == "smollm2":
        return resolve(GENERATOR_ID)
    folder = cache / {"1.1b": "llama-1.1b"}.get(model, model)
    if (folder / "tokenizer.json").exists():
        return folder
    tokenizer = AutoTokenizer.from_pretrained(str(resolve(GENERATOR_ID)))
    torch.manual_seed(0)
    if model == "1.1b":
        save_random_llama(folder, len(tokenizer), torch.device("cpu"))
    else:
        save_random_qwen3(folder)
    tokenizer.save_pretrained(folder)
    return folder


def fitting(names: Sequence[str], model: Model, available_gb: float) -> list[str]:
    """Those that fit into memory together, mapped weights included.

    Otherwise, the operating system would evict the mapped weights of the contestant whose turn was
    longest ago, and they would be read from disk while it is timed.
    """
    kept = list(names)
    for name in (*(n for n in names if "fp32" in n), *(n for n in MAY_STAY_OUT if n in names)):
        if sum(_gb(n, model) for n in kept) <= available_gb:
            break
        kept.remove(name)
    return kept


def _gb(name: str, model: Model) -> float:
    return _GB_A_PROCESS + model.billions * next(
        size for kind, size in _BYTES_A_WEIGHT.items() if kind.lower() in name.lower()
    )


def earlier(out: Path, head: str) -> dict[str, list[Result]]:
    """The races that another run left in ``out`` with the same machine, date, versions, lengths."""
    text, races = out / "generate.md", out / "generate.json"
    if not (text.exists() and races.exists() and text.read_text().startswith(head)):
        return {}
    found = json.loads(races.read_text())["races"]
    return {title: [Result(**saved) for saved in race_] for title, race_ in found.items()}


def page(head: str, races: Mapping[str, Sequence[Result]]) -> list[str]:
    """Paragraphs of the page."""
    parts = [head]
    for title, results in races.items():
        parts += [f"**{title}**", table(results, BASELINE)]
        if absent := set(PEERS) - {r.name for r in results}:
            names = ", ".join(sorted(absent))
            parts.append(f"Not installed, or too large for memory beside the others: {names}.")
    return parts


def races_of(
    model: str, prompts: list[list[int]], arguments: argparse.Namespace
) -> Iterator[tuple[str, list[Result]]]:
    """Title and results of each race of the model."""
    cache, count = arguments.cache, arguments.tokens
    folder = checkpoint(model, cache)
    ours = [f"Atoll {dtype}, served" for dtype in arguments.dtypes]
    vllms = [VLLM] if arguments.vllm is not None else []
    available_gb = psutil.virtual_memory().available / (1 << 30)
    racing = fitting([*PEERS, *vllms, *ours], MODELS[model], available_gb)
    dtypes = [d for d in arguments.dtypes if f"Atoll {d}, served" in racing]
    compared = prompts[:COMPARED_PROMPTS]
    # Before the others, which may not leave enough memory for it.
    with Apart(REFERENCE, built, REFERENCE, folder, cache) as reference:
        expected = reference(compared, COMPARED_TOKENS)
    with ExitStack() as stack:
        libraries = {**stack.enter_context(peers(racing, folder, cache))}
        if arguments.vllm is not None:
            made = vllm(arguments.vllm, folder, MAX_SEQUENCES, MAX_TOKENS)
            libraries[VLLM] = stack.enter_context(made)
        url = stack.enter_context(served(folder, dtypes)).grpc_url
        streams = {f"Atoll {dtype}, served": Streams(url, dtype) for dtype in dtypes}
        contestants = {**libraries, **{name: s.generate for name, s in streams.items()}}
        same = {
            name: f"{agreement(generate(compared, COMPARED_TOKENS), expected):.0%}"
            for name, generate in contestants.items()
        }
        for concurrency in arguments.concurrency:
            title = f"{MODELS[model].title}, {concurrency} at once"
            print(title, flush=True)
            results = measured(contestants, streams, prompts[:concurrency], count, arguments.rounds)
            for r in results:
                r.cells["as fp32"] = same[r.name]
            yield title, results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("docs/benchmarks"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--concurrency", nargs="+", type=int, default=[1, 8, 32])
    parser.add_argument("--vllm", type=Path, help="the Python that has it (vllm_peer.py)")
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=["smollm2"])
    parser.add_argument("--dtypes", nargs="+", choices=list(DTYPES), default=list(DTYPES))
    cache = Path(tempfile.gettempdir()) / "atoll-generate"
    parser.add_argument("--cache", type=Path, default=cache)
    arguments = parser.parse_args()
    arguments.cache.mkdir(parents=True, exist_ok=True)
    # Ids of ordinary words: the first ones of a vocabulary are special tokens.
    shape = max(COMPARED_PROMPTS, *arguments.concurrency), PROMPT_TOKENS
    prompts = np.random.default_rng(0).integers(1000, 20000, shape).tolist()
    head = f"{machine()}; {versions(PACKAGES)}\n\n{METHOD.format(tokens=arguments.tokens)}"
    races = earlier(arguments.out, head)
    for model in arguments.models:
        for title, results in races_of(model, prompts, arguments):
            races[title] = results
            report = write(arguments.out, "generate", page(head, races), races)
    print(report)


if __name__ == "__main__":
    main()
