"""Embeddings and text through the real server, beside the libraries people call directly.

``python benchmarks/serve.py --out docs/benchmarks`` starts a server with the two embedded models,
lets Atoll, sentence-transformers and transformers take turns on the same texts and prompts, each
library in a process of its own, and writes ``serve.json`` and ``serve.md``.
"""

from __future__ import annotations

import argparse
import queue
import threading
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tritonclient.grpc as triton
from apart import contestant, started
from measure import Contestant, Result, machine, race, save, table, versions
from texts import mixed_lengths, texts

from atoll.launcher import ServerProcess
from atoll.weights.files import resolve

EMBEDDER, GENERATOR = "all-minilm-l6-v2", "smollm2-135m-instruct"
EMBEDDER_ID = "sentence-transformers/all-MiniLM-L6-v2"
GENERATOR_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"
NUM_TOKENS = 64
EMBEDDERS = {
    f"sentence-transformers {dtype}": "sentence_transformers" for dtype in ("fp32", "bf16")
}
GENERATORS = {f"transformers {dtype}": "transformers" for dtype in ("fp32", "bf16")}


def embed_through_server(url: str, documents: list[str], rows: int = 32) -> Contestant:
    """All documents in requests of ``rows``, eight in flight."""
    client = triton.InferenceServerClient(url)
    batches = [documents[i : i + rows] for i in range(0, len(documents), rows)]

    def run() -> float:
        def one(batch: list[str]) -> None:
            data = np.array(batch, dtype=object).reshape(-1, 1)
            tensor = triton.InferInput("text_input", list(data.shape), "BYTES")
            tensor.set_data_from_numpy(data)
            assert client.infer(EMBEDDER, [tensor]).as_numpy("embedding").shape[0] == len(batch)

        in_parallel(batches, one, workers=8)
        return len(documents)

    return run


def sentence_transformers(name: str) -> Callable[[list[str]], None]:
    """``SentenceTransformer.encode`` sorting by length, batches of 32; name ends in a dtype."""
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(resolve(EMBEDDER_ID)), device="cpu").to(_dtype(name))

    def embed(documents: list[str]) -> None:
        model.encode(documents, batch_size=32, show_progress_bar=False)

    return embed


def generate_through_server(url: str, prompts: list[str], concurrency: int) -> Contestant:
    """Greedy, exactly NUM_TOKENS per prompt, ``concurrency`` streams at once."""

    def run() -> float:
        def one(prompt: str) -> None:
            assert _stream(url, prompt) > 0

        in_parallel(prompts, one, workers=concurrency)
        return len(prompts) * NUM_TOKENS

    return run


def transformers(name: str) -> Callable[[list[str], int], None]:
    """``model.generate`` on static, left-padded batches; name ends in a dtype."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = str(resolve(GENERATOR_ID))
    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=_dtype(name)).eval()
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token

    def generate(prompts: list[str], concurrency: int) -> None:
        for i in range(0, len(prompts), concurrency):
            batch = tokenizer(prompts[i : i + concurrency], return_tensors="pt", padding=True)
            model.generate(
                **batch, do_sample=False, min_new_tokens=NUM_TOKENS, max_new_tokens=NUM_TOKENS
            )

    return generate


def _dtype(name: str) -> torch.dtype:
    return torch.bfloat16 if name.endswith("bf16") else torch.float32


def _stream(url: str, prompt: str) -> int:
    """Number of responses of one streamed request."""
    responses: queue.Queue[Any] = queue.Queue()
    client = triton.InferenceServerClient(url)
    client.start_stream(lambda result, error: responses.put(error or result))
    inputs = []
    options = b'{"temperature": 0, "ignore_eos": true, "max_tokens": %d}' % NUM_TOKENS
    for name, kind, value in (
        ("text_input", "BYTES", prompt.encode()),
        ("sampling_parameters", "BYTES", options),
        ("stream", "BOOL", True),
    ):
        data = np.array([value], dtype=object if kind == "BYTES" else bool)
        inputs.append(triton.InferInput(name, [1], kind))
        inputs[-1].set_data_from_numpy(data)
    client.async_stream_infer(GENERATOR, inputs, enable_empty_final_response=True)
    count = 0
    while True:
        item = responses.get(timeout=300)
        if isinstance(item, Exception):
            raise item
        count += 1
        if item.get_response().parameters["triton_final_response"].bool_param:
            client.stop_stream()
            return count


def in_parallel(items: list[Any], work: Callable[[Any], None], workers: int) -> None:
    """``work`` on every item by ``workers`` threads; the first error is raised."""
    todo: queue.SimpleQueue[Any] = queue.SimpleQueue()
    errors: list[BaseException] = []
    for item in items:
        todo.put(item)

    def loop() -> None:
        while not errors:
            try:
                item = todo.get_nowait()
            except queue.Empty:
                return
            try:
                work(item)
            except BaseException as error:
                errors.append(error)

    threads = [threading.Thread(target=loop) for _ in range(workers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("docs/benchmarks"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--texts", type=int, default=512)
    arguments = parser.parse_args()
    documents = texts(mixed_lengths(arguments.texts, 8, 256))
    prompts = texts([64] * 32, seed=1)
    races: dict[str, list[Result]] = {}
    with ExitStack() as stack:
        url = stack.enter_context(ServerProcess.embedded()).grpc_url
        embedders = stack.enter_context(started(EMBEDDERS, sentence_transformers))
        generators = stack.enter_context(started(GENERATORS, transformers))
        entrants = {"Atoll fp32, through the server": embed_through_server(url, documents)}
        for name, embed in embedders.items():
            entrants[name] = contestant(len(documents), embed, documents)
        races["Embedding, all-MiniLM-L6-v2"] = race(entrants, "sentences/s", arguments.rounds)
        for concurrency in (1, 8, 32):
            chosen = prompts[: max(4, concurrency)]
            served = generate_through_server(url, chosen, concurrency)
            entrants = {"Atoll fp32, through the server": served}
            for name, generate in generators.items():
                entrants[name] = contestant(len(chosen) * NUM_TOKENS, generate, chosen, concurrency)
            title = f"Generation, SmolLM2-135M, {concurrency} at once"
            races[title] = race(entrants, "tokens/s", arguments.rounds)
    arguments.out.mkdir(parents=True, exist_ok=True)
    save(arguments.out / "serve.json", races)
    report = _report(races)
    (arguments.out / "serve.md").write_text(report)
    print(report)


def _report(races: dict[str, list[Result]]) -> str:
    parts = [f"{machine()}; {versions(['torch', 'transformers', 'sentence-transformers'])}"]
    for title, results in races.items():
        baseline = next(
            r.name for r in results if r.name.endswith("fp32") and "Atoll" not in r.name
        )
        parts.append(f"**{title}**\n\n{table(results, baseline)}")
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    main()
