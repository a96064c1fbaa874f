"""Where one short text's time goes in the encoder engine.

``python benchmarks/kernels/short_text.py`` prints it.
MiniLM without tritonserver: the whole engine (tokens to vector, over its thread), the trunk's
forward, and the parts of one layer with their weights in the cache. Medians, and the best call.
"""

from __future__ import annotations

import sys

import atoll  # noqa: F401  # before torch: it says how torch's threads wait

# isort: split
import statistics
import threading
import time
from collections.abc import Callable
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))


import torch
from harness.measure import machine

from atoll.config import Settings
from atoll.encoders.encoder import Embedder, EmbedOptions
from atoll.encoders.engine import EncoderEngine
from atoll.encoders.packer import Item
from atoll.layers import Batch
from atoll.serving.triton.instance import in_temporary_thread
from atoll.text.text_encoder import TextEncoder
from atoll.text.tokenizer import Tokenizer
from atoll.weights.files import resolve

MINILM = "sentence-transformers/all-MiniLM-L6-v2"
TEXT = "How do I bake sourdough bread at home?"


def timed(function: Callable[[], object], repetitions: int = 600) -> str:
    """Median and best of the calls, in ms."""
    seconds = []
    for _ in range(repetitions):
        start = time.perf_counter()
        function()
        seconds.append(1000 * (time.perf_counter() - start))
    return f"{statistics.median(seconds):.3f} ({min(seconds):.3f})"


def measure(dtype: str) -> dict[str, str]:
    """Times by what was timed, each on threads that end, as a server's loading does."""
    folder = resolve(MINILM)
    embedder = in_temporary_thread(Embedder, folder, Settings(model_id=str(folder), dtype=dtype))
    times = in_temporary_thread(engine_times, folder, embedder)
    return times | in_temporary_thread(layer_times, folder, embedder)


def engine_times(folder: Path, embedder: Embedder) -> dict[str, str]:
    """From the text to its vector, over the engine's thread."""
    tokenizer = TextEncoder(Tokenizer.load(folder).core, embedder.spec.max_length)
    engine = EncoderEngine(embedder, torch.device("cpu"), max_batch_tokens=16384)
    options = EmbedOptions(normalize=True, dimensions=None, return_token_embeddings=False)

    def whole() -> None:
        found = tokenizer.encode([TEXT], name="text", truncate=True, direction="right")[0]
        done = threading.Event()
        engine.submit([Item(found.ids, lambda _: done.set(), found.type_ids, options)])
        done.wait()

    engine.start()
    times = {"engine, with tokenizer": timed(whole)}
    engine.stop()
    return times


@torch.inference_mode()
def layer_times(folder: Path, embedder: Embedder) -> dict[str, str]:
    """The trunk, replayed and call by call, and what a layer is made of."""
    tokenizer = TextEncoder(Tokenizer.load(folder).core, embedder.spec.max_length)
    encoded = tokenizer.encode([TEXT], name="text", truncate=True, direction="right")[0]
    count = len(encoded.ids)
    bounds = torch.tensor([0, count], dtype=torch.int32)
    batch = Batch(torch.from_numpy(encoded.ids).long(), torch.arange(count), bounds, count - 1)
    trunk = embedder.trunk
    layer = trunk.blocks[0]
    times = {
        "forward, replayed": timed(lambda: embedder.hidden(batch)),
        "forward, call by call": timed(lambda: trunk(batch)),
    }
    x = trunk.norm(trunk.words(batch.input_ids), trunk.positions(batch.positions))
    attention, mlp = layer.attention, layer.mlp
    wide = mlp.up(x, mlp.activation)
    times["a layer: qkv"] = timed(lambda: attention.qkv(x))
    times["a layer: attention, with qkv and out"] = timed(lambda: attention(x, batch))
    times["a layer: out"] = timed(lambda: attention.out(x))
    times["a layer: up"] = timed(lambda: mlp.up(x, mlp.activation))
    times["a layer: down"] = timed(lambda: mlp.down(wide))
    times["a layer: each of two norms"] = timed(lambda: layer.norm1(x, x))
    return times


def main() -> None:
    dtypes = ("float32", "bfloat16", "int8")
    found = {dtype: measure(dtype) for dtype in dtypes}
    print(f"{machine()}, {torch.get_num_threads()} threads\n")
    print(f"| ms, median (best) | {' | '.join(dtypes)} |\n|-|{'-:|' * len(dtypes)}")
    for name in found[dtypes[0]]:
        print(f"| {name} | {' | '.join(found[dtype][name] for dtype in dtypes)} |")


if __name__ == "__main__":
    main()
