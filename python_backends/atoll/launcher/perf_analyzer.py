"""NVIDIA's perf_analyzer: finds it, supplies missing libraries, runs it, and reads its export.

The Linux wheel of tritonclient contains the binary without two libraries that it links: libb64,
which comes with the server's wheel, and libcudart, from ``nvidia-cuda-runtime-cu12``.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from atoll.errors import ConfigError
from atoll.launcher.libraries import missing_libraries

BINARY = "perf_analyzer"
_PLACES = (
    Path(sys.prefix, "perf_analyzer", "bin", BINARY),
    Path(sys.executable).parent / BINARY,
)
_LIBRARIES = {
    "libb64.so.0d": ("pytriton", "../nvidia_pytriton.libs", "libb64-*.so.0d"),
    "libcudart.so.12": ("nvidia", "cuda_runtime/lib", "libcudart.so.12"),
}


@dataclass(frozen=True)
class Load:
    """The measurements of one run.

    latencies_s: from sending a request to its last response, sorted.
    first_s: from sending a request to its first response, sorted.
    responses: number of responses to all requests.
    duration_s: from the first request to the last response.
    """

    latencies_s: tuple[float, ...]
    first_s: tuple[float, ...]
    responses: int
    duration_s: float

    @property
    def requests_per_s(self) -> float:
        """Requests answered per second."""
        return len(self.latencies_s) / self.duration_s

    @property
    def p50_ms(self) -> float:
        """Median latency."""
        return 1000 * statistics.median(self.latencies_s)

    @property
    def p99_ms(self) -> float:
        """99th percentile of latency."""
        return 1000 * self.latencies_s[int(0.99 * (len(self.latencies_s) - 1))]


@dataclass(frozen=True)
class PerfAnalyzer:
    """The binary, and the folders with its libraries."""

    binary: Path
    libraries: Mapping[str, Path]

    @classmethod
    def find(cls) -> PerfAnalyzer:
        """Raises ConfigError: it or one of its libraries is missing; says what to install."""
        found = next((str(path) for path in _PLACES if path.exists()), None) or shutil.which(BINARY)
        if found is None:
            raise ConfigError(
                "perf_analyzer is not installed: pip install --no-deps --target "
                f"{_PLACES[0].parents[1]} tritonclient==2.50.0"
            )
        analyzer = cls(Path(found), dict(_installed_libraries()))
        with tempfile.TemporaryDirectory() as scratch:
            missing = missing_libraries(analyzer.binary, analyzer._environment(Path(scratch)))
        if missing:
            raise ConfigError(
                f"perf_analyzer needs {', '.join(missing)}: "
                "pip install nvidia-pytriton nvidia-cuda-runtime-cu12"
            )
        return analyzer

    def run(
        self,
        url: str,
        model: str,
        inputs: Sequence[Mapping[str, Any]],
        *,
        concurrency: int = 1,
        requests: int = 100,
        streaming: bool = False,
        timeout_s: float = 600.0,
    ) -> Load:
        """Sends ``requests`` requests over gRPC, ``concurrency`` at once.

        Args:
            url: host:port of the server's gRPC endpoint.
            inputs: tensors of each request, used in turn: name -> values of a row, or
                {"content": values, "shape": sizes}.
            streaming: the model is decoupled.

        Raises:
            ConfigError: perf_analyzer failed; includes what it printed.
        """
        with tempfile.TemporaryDirectory() as scratch:
            data, export = Path(scratch, "inputs.json"), Path(scratch, "export.json")
            data.write_text(json.dumps({"data": [dict(row) for row in inputs]}))
            command = [
                str(self.binary), "-m", model, "-u", url, "-i", "grpc", "--input-data", str(data),
                "--concurrency-range", str(concurrency), "--request-count", str(requests),
                "--profile-export-file", str(export), *(["--streaming"] if streaming else []),
            ]  # fmt: skip
            done = subprocess.run(
                command, env=self._environment(Path(scratch)), capture_output=True, text=True,
                timeout=timeout_s,
            )  # fmt: skip
            # On a loaded machine it can succeed and leave an empty file.
            if done.returncode or not export.exists() or not export.stat().st_size:
                said = (done.stdout + done.stderr).strip()
                raise ConfigError(f"perf_analyzer ended with {done.returncode}: {said[-1000:]}")
            return _load(json.loads(export.read_text()))

    def _environment(self, scratch: Path) -> dict[str, str]:
        """Links the libraries under the names that the binary expects."""
        folder = scratch / "libraries"
        folder.mkdir(exist_ok=True)
        for name, path in self.libraries.items():
            (folder / name).symlink_to(path)
        paths = [str(folder), *{str(path.parent) for path in self.libraries.values()}]
        inherited = os.environ.get("LD_LIBRARY_PATH")
        paths += [inherited] if inherited else []
        return {**os.environ, "LD_LIBRARY_PATH": ":".join(paths)}


def _installed_libraries() -> dict[str, Path]:
    found = {}
    for name, (package, folder, pattern) in _LIBRARIES.items():
        spec = importlib.util.find_spec(package)
        for location in (spec.submodule_search_locations or ()) if spec else ():
            files = sorted(Path(location, folder).resolve().glob(pattern))
            if files:
                found[name] = files[0]
    return found


def _load(export: Mapping[str, Any]) -> Load:
    """All times in the export are nanoseconds of the same clock."""
    requests = [r for e in export["experiments"] for r in e["requests"]]
    # A stream's last response may be the empty one that closes it.
    answered = [r for r in requests if r["response_timestamps"]]
    starts = [r["timestamp"] for r in answered]
    ends = [r["response_timestamps"][-1] for r in answered]
    firsts = [r["response_timestamps"][0] for r in answered]
    return Load(
        latencies_s=tuple(sorted((e - s) / 1e9 for s, e in zip(starts, ends, strict=True))),
        first_s=tuple(sorted((f - s) / 1e9 for s, f in zip(starts, firsts, strict=True))),
        responses=sum(len(r["response_timestamps"]) for r in answered),
        duration_s=(max(ends) - min(starts)) / 1e9,
    )
