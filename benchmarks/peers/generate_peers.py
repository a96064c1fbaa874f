"""The libraries that people generate text with on a CPU, all greedy, on the same token ids.

transformers runs static batches, ctranslate2 its own batches, llama.cpp all sequences in one
``llama_batch`` per step, as its server does. All have the weights of the served checkpoint. Atoll's
engine is measured like a library.
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import os
import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from harness.apart import started

# Prompts of equal length, tokens per answer -> answers of exactly that length.
Generate = Callable[[list[list[int]], int], list[list[int]]]
MAX_SEQUENCES = 32
MAX_TOKENS = 256


def peers(
    names: Collection[str], folder: Path, cache: Path
) -> AbstractContextManager[Mapping[str, Generate]]:
    """Those of ``PEERS`` with these names that are installed, each in its own process."""
    packages = {name: package for name, (package, _) in PEERS.items() if name in names}
    return started(packages, built, folder, cache)


def built(name: str, folder: Path, cache: Path) -> Generate:
    """The peer, in the process that calls this."""
    return PEERS[name][1](folder, cache)


def _transformers(dtype: torch.dtype, folder: Path, cache: Path) -> Generate:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()

    @torch.inference_mode()
    def generate(prompts: list[list[int]], count: int) -> list[list[int]]:
        ids = torch.tensor(prompts)
        found: torch.Tensor = model.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=False, pad_token_id=0,
            min_new_tokens=count, max_new_tokens=count,
        )  # fmt: skip
        answers: list[list[int]] = found[:, len(prompts[0]) :].tolist()
        return answers

    return generate


def _ctranslate2(compute_type: str, folder: Path, cache: Path) -> Generate:
    import ctranslate2
    from tokenizers import Tokenizer

    target = cache / f"{folder.name}-ctranslate2"
    if not target.exists():
        ctranslate2.converters.TransformersConverter(str(folder)).convert(str(target))
    generator = ctranslate2.Generator(
        str(target), compute_type=compute_type, intra_threads=torch.get_num_threads()
    )
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))

    def generate(prompts: list[list[int]], count: int) -> list[list[int]]:
        words = [[tokenizer.id_to_token(i) for i in prompt] for prompt in prompts]
        found = generator.generate_batch(
            words, min_length=count, max_length=count, include_prompt_in_result=False,
            end_token=[], sampling_topk=1,
        )  # fmt: skip
        return [result.sequences_ids[0] for result in found]

    return generate


def _llama_cpp(kind: str, folder: Path, cache: Path) -> Generate:
    import llama_cpp
    from gguf_copy import quantized

    with quiet():
        llama = LlamaCpp(llama_cpp, quantized(folder, cache, kind))
    return llama.generate


class _Answer:
    """A request's sink."""

    def __init__(self) -> None:
        self.ids: list[int] = []
        self.ended = threading.Event()
        self.error: Exception | None = None

    def on_prompt(self, logprobs: object) -> None:
        """No prompt's logprobs are requested."""

    def on_token(self, token: Any) -> None:
        """Keeps the token."""
        self.ids.append(token.id)

    def on_finished(self, outcome: object) -> None:
        """Ends the answer."""
        self.ended.set()

    def on_failed(self, error: Exception) -> None:
        """Keeps the error for the thread that waits."""
        self.error = error
        self.ended.set()


def engine(dtype: str, folder: Path, cache: Path) -> Generate:
    from atoll.config import Settings
    from atoll.engine.request import Request, SamplingOptions
    from atoll.serving.engine_loader import load_engine
    from atoll.serving.triton.instance import in_temporary_thread

    settings = Settings(
        dtype=dtype, prefix_caching=False, max_batch_total_tokens=MAX_SEQUENCES * MAX_TOKENS
    )
    engine = in_temporary_thread(load_engine, settings, folder).engine
    engine.start()
    names = itertools.count()

    def generate(prompts: list[list[int]], count: int) -> list[list[int]]:
        answers = [_Answer() for _ in prompts]
        options = SamplingOptions(max_new_tokens=count)
        for prompt, answer in zip(prompts, answers, strict=True):
            engine.submit(Request(f"{next(names)}", tuple(prompt), options, answer))
        for answer in answers:
            answer.ended.wait()
            if answer.error is not None:
                raise answer.error
        return [answer.ids for answer in answers]

    return generate


class LlamaCpp:
    """llama.cpp over its C interface: any number of sequences in one step."""

    def __init__(self, llama_cpp: Any, path: Path, max_tokens: int = MAX_TOKENS) -> None:
        """max_tokens: of each sequence."""
        self._lib = llama_cpp
        llama_cpp.llama_backend_init()
        self._model = llama_cpp.llama_model_load_from_file(
            str(path).encode(), llama_cpp.llama_model_default_params()
        )
        parameters = llama_cpp.llama_context_default_params()
        parameters.n_ctx = MAX_SEQUENCES * max_tokens
        parameters.n_batch = parameters.n_ubatch = 2048
        parameters.n_seq_max = MAX_SEQUENCES
        parameters.n_threads = parameters.n_threads_batch = torch.get_num_threads()
        self._context = llama_cpp.llama_init_from_model(self._model, parameters)
        self._batch = llama_cpp.llama_batch_init(2048, 0, 1)
        vocabulary = llama_cpp.llama_model_get_vocab(self._model)
        self._vocab_size = llama_cpp.llama_vocab_n_tokens(vocabulary)

    def generate(self, prompts: list[list[int]], count: int) -> list[list[int]]:
        """Greedy answers of ``count`` tokens."""
        self._lib.llama_memory_clear(self._lib.llama_get_memory(self._context), True)
        rows = [
            (token, position, sequence, position + 1 == len(prompt))
            for sequence, prompt in enumerate(prompts)
            for position, token in enumerate(prompt)
        ]
        following: list[int] = []
        for start in range(0, len(rows), 2048):
            following += self._step(rows[start : start + 2048])
        answers = [[token] for token in following]
        for step in range(count - 1):
            position = len(prompts[0]) + step
            following = self._step([(t, position, s, True) for s, t in enumerate(following)])
            for answer, token in zip(answers, following, strict=True):
                answer.append(token)
        return answers

    def logits(self, ids: list[int]) -> np.ndarray[Any, Any]:
        """Of every token of a text, (tokens, vocab) float32."""
        self._lib.llama_memory_clear(self._lib.llama_get_memory(self._context), True)
        self._run([(token, position, 0, True) for position, token in enumerate(ids)])
        return np.stack([self._scores(i) for i in range(len(ids))])

    def _step(self, rows: list[tuple[int, int, int, bool]]) -> list[int]:
        """Runs rows; the best tokens of those that need logits."""
        self._run(rows)
        return [int(self._scores(i).argmax()) for i, row in enumerate(rows) if row[3]]

    def _scores(self, index: int) -> np.ndarray[Any, Any]:
        """The logits of a row of the last step, which the next one overwrites."""
        pointer = self._lib.llama_get_logits_ith(self._context, index)
        return np.ctypeslib.as_array(pointer, (self._vocab_size,))

    def _run(self, rows: list[tuple[int, int, int, bool]]) -> None:
        """Computes (token, position, sequence, needs logits) rows."""
        batch = self._batch
        batch.n_tokens = len(rows)
        for i, (token, position, sequence, wants_logits) in enumerate(rows):
            batch.token[i], batch.pos[i] = token, position
            batch.n_seq_id[i], batch.seq_id[i][0] = 1, sequence
            batch.logits[i] = wants_logits
        status = self._lib.llama_decode(self._context, batch)
        if status:
            raise RuntimeError(f"llama_decode: status {status}")


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Hides what llama.cpp prints on standard error while it converts and loads."""
    saved, sink = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(sink, 2)
    try:
        yield
    finally:
        ctypes.CDLL(None).fflush(None)
        os.dup2(saved, 2)
        os.close(saved)
        os.close(sink)


PEERS: dict[str, tuple[str, Callable[[Path, Path], Generate]]] = {
    "transformers fp32": ("transformers", partial(_transformers, torch.float32)),
    "transformers bf16": ("transformers", partial(_transformers, torch.bfloat16)),
    "ctranslate2 int8": ("ctranslate2", partial(_ctranslate2, "int8")),
    "llama.cpp BF16": ("llama_cpp", partial(_llama_cpp, "BF16")),
    "llama.cpp Q8_0": ("llama_cpp", partial(_llama_cpp, "Q8_0")),
    "llama.cpp Q4_0": ("llama_cpp", partial(_llama_cpp, "Q4_0")),
    "Atoll int8, engine": ("atoll", partial(engine, "int8")),
    "Atoll int4, engine": ("atoll", partial(engine, "int4")),
}
