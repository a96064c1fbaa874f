"""How the GPU benchmark times calls, measures the device's ceilings, and stores results.

On a GPU, calls are timed with events and, if they can be captured, replayed from a graph, so that
launches cost nothing, as in a model's step. A dry run only differs in its clock and sizes, and its
kernels are interpreted on the CPU.
"""

from __future__ import annotations

import json
import math
import os
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

import torch

# One result of a phase, as a JSON object; all rows of a phase have the same keys.
Row = dict[str, Any]
Case = TypeVar("Case")

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
# Larger than any second-level cache.
_FLUSH_BYTES = 256 << 20
_SECONDS = 0.1


@dataclass(frozen=True)
class Peaks:
    """Measured ceilings of the device: FLOP/s by dtype, and bytes/s of memory."""

    flops: Mapping[str, float]
    bytes_per_s: float

    def limit_us(self, dtype: str, flops: float, num_bytes: float) -> float:
        """The shortest possible time for products and memory traffic, in microseconds."""
        return 1e6 * max(flops / self.flops[dtype], num_bytes / self.bytes_per_s)


@dataclass
class Bench:
    """The device at hand. is_dry: tiny shapes on the CPU."""

    is_dry: bool
    device: torch.device
    _peaks: Peaks | None = field(default=None, repr=False)

    @property
    def mode(self) -> str:
        """``dry`` or ``gpu``, as in the JSON of each phase."""
        return "dry" if self.is_dry else "gpu"

    def choose(self, full: Case, dry: Case) -> Case:
        """A size for the GPU, or the one for a dry run."""
        return dry if self.is_dry else full

    @property
    def peaks(self) -> Peaks:
        """Measured once per process."""
        if self._peaks is None:
            self._peaks = _measure_peaks(self)
        return self._peaks

    def synchronize(self) -> None:
        """Waits for the device."""
        if not self.is_dry:
            torch.cuda.synchronize(self.device)

    def time_us(self, call: Callable[[], object]) -> tuple[float, str]:
        """Median microseconds of a call, and the clock: graph or events; host in a dry run."""
        call()
        if self.is_dry:
            return _host_us(call), "host"
        captured = _captured(call)
        found = self.event_us(call if captured is None else captured)
        return found, "events" if captured is None else "graph"

    def event_us(self, call: Callable[[], object]) -> float:
        """The median of as many calls as fit the time, each after the caches were emptied.

        Reads empty them: after writes, the call would have to write the caches back.
        """
        flush = torch.zeros(_FLUSH_BYTES // 4, dtype=torch.float32, device=self.device)
        once = max(_spans(call, flush, 3))
        count = min(200, max(10, math.ceil(1e6 * _SECONDS / once)))
        return statistics.median(_spans(call, flush, count))

    def release(self) -> None:
        """Frees the memory of finished cases."""
        if not self.is_dry:
            torch.cuda.empty_cache()


def attempt(row: Row, work: Callable[[], Row]) -> Row:
    """``row`` with the results of ``work``, or with ``failed``: an error does not end a phase."""
    try:
        return {**row, **work()}
    except Exception as error:
        return {**row, "failed": f"{type(error).__name__}: {str(error)[:500]}"}


@contextmanager
def poisoned() -> Iterator[None]:
    """Within, new memory is filled with NaN (the largest integer), which shows if a kernel does not
    write an output."""
    deterministic = torch.utils.deterministic  # type: ignore[attr-defined]
    before = deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True, warn_only=True)
    deterministic.fill_uninitialized_memory = True
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)
        deterministic.fill_uninitialized_memory = before


class Report:
    """The JSON file of a run: ``phases`` by name, each with its mode and rows.

    Written after every row, first under another name, so that an interrupted run keeps its rows.
    """

    def __init__(self, path: Path, mode: str) -> None:
        self.path, self._mode = path, mode
        self.phases: dict[str, dict[str, Any]] = {}
        if path.exists():
            self.phases = json.loads(path.read_text())["phases"]

    def run(self, name: str, rows: Iterator[Row], deadline_s: float) -> None:
        """Replaces a phase by its new rows, up to the deadline."""
        start, found = time.monotonic(), list[Row]()
        phase: dict[str, Any] = {
            "mode": self._mode, "started": datetime.now().isoformat(timespec="seconds"),
            "is_complete": False, "seconds": 0.0, "rows": found,
        }  # fmt: skip
        self.phases[name] = phase
        self.save()
        for row in rows:
            found.append(row)
            print(f"  {name}: {_brief(row)}", flush=True)
            seconds = time.monotonic() - start
            phase["seconds"] = round(seconds, 2)
            self.save()
            if seconds > deadline_s:
                print(f"  {name}: stopped after its {deadline_s:.0f} s", flush=True)
                return
        phase["is_complete"] = True
        self.save()

    def save(self) -> None:
        """Replaces the file."""
        part = self.path.with_suffix(".part")
        part.write_text(json.dumps({"mode": self._mode, "phases": self.phases}, indent=1) + "\n")
        os.replace(part, self.path)


def _brief(row: Row) -> str:
    values = (f"{v:.4g}" if isinstance(v, float) else str(v) for v in row.values())
    return " ".join(value for value in values if len(value) < 80)


def _measure_peaks(bench: Bench) -> Peaks:
    """Products of large matrices, a copy of memory, and a sum, which only reads memory."""
    size = bench.choose(8192, 64)
    flops = {}
    for name, dtype in DTYPES.items():
        x = torch.randn(size, size, device=bench.device).to(dtype)
        flops[name] = 2e6 * size**3 / bench.time_us(lambda x=x: x @ x)[0]
    source = torch.ones(bench.choose(1 << 30, 1 << 14), dtype=torch.float32, device=bench.device)
    target = torch.empty_like(source)
    # In a graph, a copy may use the copy engines, which are slower.
    time_us = _host_us if bench.is_dry else bench.event_us
    copied = 2 * source.nbytes / time_us(lambda: target.copy_(source))
    read = source.nbytes / time_us(source.sum)
    return Peaks(flops, 1e6 * max(copied, read))


def _host_us(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return 1e6 * (time.perf_counter() - start)


def _captured(call: Callable[[], object]) -> Callable[[], object] | None:
    """The call's launches as a graph; None if the call waits for the device."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.stream(stream):
            call()
        torch.cuda.current_stream().wait_stream(stream)
        with torch.cuda.graph(graph):
            call()
    except Exception:
        # After a failed capture, its stream is still the current one.
        torch.cuda.set_stream(torch.cuda.default_stream())
        torch.cuda.synchronize()
        return None
    return graph.replay


def _spans(call: Callable[[], object], flush: torch.Tensor, count: int) -> list[float]:
    events = [
        (torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True))
        for _ in range(count)
    ]
    for start, end in events:
        flush.sum()
        start.record()
        call()
        end.record()
    torch.cuda.synchronize()
    return [1e3 * start.elapsed_time(end) for start, end in events]
