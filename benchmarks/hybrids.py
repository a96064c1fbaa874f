"""Generators with recurrent states beside a Llama of the same size: tokens per second, and memory.

``python benchmarks/hybrids.py --out docs/benchmarks`` races the decoding of engines, each in a
process of its own, in every dtype, with states in float32 and in bfloat16, after short prompts
and, in the dtypes of ``--long``, after longer ones. Memory of a text is what its keys, values and
states take by the engine's specs, which each process compares with what it has allocated.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

sys.path.append(str(Path(__file__).parent))

import numpy as np
import torch
from harness.apart import Apart
from harness.decoding import decoder
from harness.hybrid_models import BASELINE, MODELS, checkpoint
from harness.measure import Result, Work, machine, markdown, race, table, versions, write

from atoll.models import families, registry
from atoll.models.rank_shares import RankShare, Storage, rank_shares

SHORT, LONG = 64, 1024
LENGTHS = (1024, 8192, 65536)
DTYPES = ("float32", "bfloat16", "int8")
STATE_DTYPES = ("float32", "bfloat16")
MAX_SEQUENCES = 32
METHOD = (
    "Random weights with SmolLM2-135M's vocabulary and width, and as many layers as make about 135 "
    "million, in the proportions of the models that are published; states are larger beside so few "
    "weights than they are there. Tokens per second are those of decoding alone, from when every "
    "request has its first token until one has its last. States are stored in float32, or as "
    "written behind the name."
)


@dataclass(frozen=True)
class Entrant:
    """One engine of a race. state_dtype: the setting; None: the model has no matrices."""

    model: str
    dtype: str
    state_dtype: str | None

    @property
    def title(self) -> str:
        """Its row in the tables."""
        is_default = self.state_dtype in (None, STATE_DTYPES[0])
        return self.model if is_default else f"{self.model}, {self.state_dtype} states"

    def share(self, folder: Path) -> RankShare:
        """What it holds, by its config."""
        raw = registry.Checkpoint.open(folder).raw
        module = registry.architecture(raw, families.DECODERS)
        storage = Storage(
            torch.float32 if self.dtype == "float32" else torch.bfloat16,
            self.dtype if self.dtype == "int8" else "dense",
            state_dtype=getattr(torch, self.state_dtype or STATE_DTYPES[0]),
        )
        (found,) = rank_shares(module, module.Config.from_hf(raw), storage, [1])
        return found


def entrants(names: Sequence[str], dtype: str, cache: Path) -> list[Entrant]:
    """Every model, with each dtype of states that makes a difference to it."""
    found = []
    for name in names:
        each = [Entrant(name, dtype, stored) for stored in STATE_DTYPES]
        sizes = {one.share(checkpoint(name, cache)).state_bytes for one in each}
        found += each if len(sizes) > 1 else [Entrant(name, dtype, None)]
    return found


def memory(names: Sequence[str], cache: Path) -> str:
    """A table of weights and of what texts take, in bfloat16."""
    rows = []
    for entrant in entrants(names, "bfloat16", cache):
        share = entrant.share(checkpoint(entrant.model, cache))
        texts = (share.state_bytes + n * share.cache_bytes_per_token for n in LENGTHS)
        rows.append([
            entrant.title, f"{share.weight_bytes / 2e6:.0f}", f"{share.state_bytes / 1e6:.2f}",
            f"{share.cache_bytes_per_token / 1e3:.1f}", *(f"{n / 1e6:.1f}" for n in texts),
        ])  # fmt: skip
    lengths = [f"{n:,} tokens, MB" for n in LENGTHS]
    return markdown(["", "weights, M", "state, MB", "KV of a token, KB", *lengths], rows)


def traffic(names: Sequence[str], concurrency: Sequence[int], cache: Path) -> str:
    """A table of the MB that a step must read or write, in bfloat16: weights, states, KV."""
    rows = []
    for entrant in entrants(names, "bfloat16", cache):
        share = entrant.share(checkpoint(entrant.model, cache))
        per_text = [2 * share.state_bytes + n * share.cache_bytes_per_token for n in (SHORT, LONG)]
        steps = (share.weight_bytes + n * one for one in per_text for n in concurrency)
        rows.append([entrant.title, *(f"{num_bytes / 1e6:.0f}" for num_bytes in steps)])
    titles = [f"{n} x {length}" for length in (SHORT, LONG) for n in concurrency]
    return markdown(["", *titles], rows)


def races(
    names: Sequence[str], dtype: str, lengths: Sequence[int], arguments: argparse.Namespace
) -> Iterator[tuple[str, list[Result]]]:
    """Title and results of each length of prompts and each number of requests at once."""
    random = np.random.default_rng(0)
    with ExitStack() as stack:
        engines = {
            one.title: stack.enter_context(_engine(one, max(lengths), arguments))
            for one in entrants(names, dtype, arguments.cache)
        }
        for length in lengths:
            prompts = random.integers(1000, 20000, (MAX_SEQUENCES, length)).tolist()
            for count in arguments.concurrency:
                contestants = {
                    name: lambda e=engine, n=count, p=prompts: e(p[:n], arguments.tokens)
                    for name, engine in engines.items()
                }
                title = f"{dtype}, {count} at once, prompts of {length:,}"
                print(title, flush=True)
                yield title, race(contestants, "tokens/s", arguments.rounds)


def _engine(entrant: Entrant, length: int, arguments: argparse.Namespace) -> Apart[Work]:
    folder = checkpoint(entrant.model, arguments.cache)
    share = entrant.share(folder)
    settings = {
        "dtype": entrant.dtype, "max_batch_size": MAX_SEQUENCES,
        "state_dtype": entrant.state_dtype or STATE_DTYPES[0],
        "max_batch_total_tokens": MAX_SEQUENCES * (length + arguments.tokens + 16),
    }  # fmt: skip
    return Apart(
        f"Atoll {entrant.title}", decoder, folder, settings, share.cache_bytes_per_token,
        share.state_bytes,
    )  # fmt: skip


def page(
    names: Sequence[str], results: Mapping[str, Sequence[Result]], arguments: argparse.Namespace
) -> list[str]:
    """Its paragraphs."""
    tables = [f"## {title}\n\n{table(found, BASELINE)}" for title, found in results.items()]
    return [
        "# Generators with recurrent states", machine(), versions(["torch", "transformers"]),
        METHOD, "![tokens per second](hybrids.svg)", *tables,
        "## Memory of a text, bfloat16", memory(names, arguments.cache),
        "## MB read and written by a step, bfloat16",
        "Requests at once x tokens of each text. A state is read and written.",
        traffic(names, arguments.concurrency, arguments.cache),
    ]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=96, help="of an answer")
    parser.add_argument("--concurrency", nargs="+", type=int, default=[1, 8, 32])
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=list(MODELS))
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=list(DTYPES))
    parser.add_argument("--long", nargs="*", choices=DTYPES, default=["bfloat16"])
    cache = Path(tempfile.gettempdir()) / "atoll-hybrids"
    parser.add_argument("--cache", type=Path, default=cache)
    parser.add_argument("--out", type=Path, help="folder for hybrids.md, .json and .svg")
    arguments = parser.parse_args()
    arguments.cache.mkdir(parents=True, exist_ok=True)
    names = list(dict.fromkeys([BASELINE, *arguments.models]))
    results: dict[str, Sequence[Result]] = {}
    for dtype in arguments.dtypes:
        lengths = (SHORT, LONG) if dtype in arguments.long else (SHORT,)
        for title, found in races(names, dtype, lengths, arguments):
            results[title] = found
            print(table(found, BASELINE), flush=True)
            if arguments.out is not None:  # after every race: the next ones may be interrupted
                write(arguments.out, "hybrids", page(names, results, arguments), results)


if __name__ == "__main__":
    main()
