"""Faults one by one, against ``atoll serve`` as a user runs it: what was done, what happened.

``python benchmarks/reliability/failures.py --out docs/benchmarks`` writes ``failures.md``,
``failures.json`` and the section "Failures one by one" of ``docs/reliability.md``. The rows are
those of ``failing/``: processes that are killed, headers, hostile bodies, requests that ask for too
much, and signals. ``--rows F1,F3`` does some of them again; what was found of the others stays.
Without ``--out``, nothing is written. The exit status says whether everything was as it should be.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))
sys.path.append(str(Path(__file__).resolve().parents[2] / "tests" / "support"))

import transformers as hf
from failing import headers, hostile, large, processes, stopping
from failing.case import RERANKER, Case
from gateways import EMBEDDER, GENERATOR
from harness.measure import machine
from serving import Serving, serving
from tiny.checkpoint import Variant
from tiny.checkpoint import write as write_checkpoint
from tiny.encoder_sizes import SIZES
from tiny.encoders import write_text_files

_COMMAND = "python benchmarks/reliability/failures.py --out docs/benchmarks"
_HEADING = "## Failures one by one"
_TITLES = {
    "F1": "A model's process is killed or stopped under load",
    "F2": "Headers and metadata",
    "F3": "Hostile bodies and tensors",
    "F4": "The server and the gateway die, again and again",
    "F5": "One request that asks for as much as many",
    "F6": "The launcher gets a signal",
    "F7": "How the models' processes end",
    "F8": "Readers who never read",
}
_Cases = Callable[[Serving], Iterator[Case]]
# Those of a line have one server; what ends it makes its later starts wait longer.
_SHARED: Sequence[tuple[tuple[str, _Cases], ...]] = (
    (
        ("F2", headers.headers), ("F3", hostile.hostile), ("F5", large.large),
        ("F8", stopping.slow_readers), ("F1", processes.killed),
    ),
    (("F4", processes.server_dies),),
    (("F3", hostile.native),),
)  # fmt: skip
_ALONE: dict[str, Callable[[], Iterator[Case]]] = {
    "F6": stopping.stopping,
    "F7": stopping.ends_of_stubs,
}


def measure(rows: set[str]) -> Iterator[Case]:
    """The cases of these rows, as they are done."""
    for line in _SHARED:
        wanted = [cases for row, cases in line if row in rows]
        if wanted:
            with (
                tempfile.TemporaryDirectory() as folder,
                serving(
                    Path(folder), *_models(Path(folder), rows), ATOLL_NUM_THREADS="1",
                    XDG_RUNTIME_DIR=folder, ATOLL_GATEWAY_BATCH_FOLDER=f"{folder}/batches",
                ) as server,
            ):  # fmt: skip
                for cases in wanted:
                    yield from cases(server)
    for row, alone in _ALONE.items():
        if row in rows:
            yield from alone()


def _models(folder: Path, rows: set[str]) -> Sequence[str]:
    """Flags for the two embedded models and, where it is asked, a tiny reranker."""
    if "F5" not in rows:
        return ()
    place = folder / RERANKER
    config = hf.BertConfig(**SIZES | {"max_position_embeddings": 512}, num_labels=1)
    write_checkpoint(Variant(RERANKER, lambda: hf.BertForSequenceClassification(config)), place)
    write_text_files(place)
    return [f"--model-id={one}" for one in (EMBEDDER, GENERATOR, place)]


def write(cases: Sequence[Case], out: Path) -> None:
    """The page, the figures, and the section of the summary."""
    load = " ".join(f"{number:.1f}" for number in os.getloadavg())
    facts = {
        "machine": machine(),
        "load_average": load,
        "cases": [case._asdict() for case in cases],
    }
    (out / "failures.json").write_text(json.dumps(facts, indent=1, ensure_ascii=False) + "\n")
    intro = [
        "# Failures one by one", machine(), f"`{_COMMAND}`",
        f"Load average at the end: {load}. Other programs ran on the two cores meanwhile, so that "
        "seconds are an upper bound. Each row was done to `atoll serve` with the two embedded "
        "models, one thread each; the launcher's settings are the defaults.",
    ]  # fmt: skip
    page = "\n\n".join([*intro, *_tables(cases)])
    (out / "failures.md").write_text(f"{page}\n")
    summary = out.parent / "reliability.md"
    text = summary.read_text()
    head, _, rest = text.partition(_HEADING)
    _, mark, tail = rest.partition("\n## ")
    summary.write_text(f"{head}{_HEADING}\n\n{_section(cases)}\n{mark}{tail}")


def _kept(out: Path, again: set[str]) -> list[Case]:
    """What was found before of rows that were not done again."""
    file = out / "failures.json"
    before = json.loads(file.read_text())["cases"] if file.is_file() else []
    return [Case(**case) for case in before if case["row"] not in again]


def _tables(cases: Sequence[Case]) -> Iterator[str]:
    for row, title in _TITLES.items():
        found = [case for case in cases if case.row == row]
        if found:
            yield f"## {title}"
            lines = [
                (_cell(case.done), _cell(case.happened), f"{case.seconds:.1f}",
                 "yes" if case.is_right else "**no**")
                for case in found
            ]  # fmt: skip
            yield _table(("what was done", "what happened", "s", "as it should be"), lines)


def _table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(titles)} |", "|-" * len(titles) + "|"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _section(cases: Sequence[Case]) -> str:
    lines = []
    for row, title in _TITLES.items():
        found = [case for case in cases if case.row == row]
        right = sum(case.is_right for case in found)
        if not found:
            continue
        longest = max(case.seconds for case in found)
        lines.append((title, str(len(found)), str(right), f"{longest:.0f}"))
    return (
        f"`{_COMMAND}` does {len(cases)} things to a running server, one after the other, and says "
        "of each what happened: [the table](benchmarks/failures.md).\n\n"
        + _table(("", "tried", "as it should be", "longest, s"), lines)
        + "\n\nEvery request was answered or refused with a reason. Triton's own ports check "
        "nothing: some bodies end the server, which the launcher starts again. They listen on this "
        "machine only; the gateway's port has the same routes, and checks."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", default=",".join(_TITLES))
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    # A shell has what runs in the background ignore it, and so would the servers.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    found = []
    for case in measure(set(arguments.rows.split(","))):
        found.append(case)
        print("ok   " if case.is_right else "WRONG", *case[:4], sep=" | ", flush=True)
    if arguments.out is not None:
        write([*found, *_kept(arguments.out, {case.row for case in found})], arguments.out)
    sys.exit(not all(case.is_right for case in found))


if __name__ == "__main__":
    main()
