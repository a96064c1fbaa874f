"""Where the time of one short text goes: ``python benchmarks/kernels/short_text.py``.

MiniLM without tritonserver: the whole engine (text to vector, through its thread), the trunk's
forward pass, and the parts of one layer with their weights in the CPU's caches. It prints the
median and the fastest call.
"""

from __future__ import annotations

import sys

import atoll  # noqa: F401  # before torch: it sets how long torch's threads spin

# isort: split
import statistics
import threading
from collections.abc import Callable
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))


import torch
from harness.measure import call_times_ms, machine, markdown
from harness.models import EMBEDDER_ID, load_embedder

from atoll.encoders.embedder import Embedder, EmbedOptions
from atoll.encoders.engine import EncoderEngine
from atoll.encoders.packer import Item
from atoll.layers import Batch
from atoll.serving.triton.instance import in_temporary_thread
from atoll.text.text_encoder import TextEncoder
from atoll.weights.files import resolve

TEXT = "How do I bake sourdough bread at home?"


def timed(function: Callable[[], object], repetitions: int = 600) -> str:
    """Median and best of the calls, in ms."""
    times = call_times_ms(function, repetitions)
    return f"{statistics.median(times):.3f} ({min(times):.3f})"


def measure(dtype: str) -> dict[str, str]:
    """Times by name, each measured on a thread that then ends, like the one that loads a model."""
    loaded = load_embedder(resolve(EMBEDDER_ID), dtype)
    return in_temporary_thread(engine_times, *loaded) | in_temporary_thread(layer_times, *loaded)


def engine_times(embedder: Embedder, tokenizer: TextEncoder) -> dict[str, str]:
    """From the text to its vector, through the engine's thread."""
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
def layer_times(embedder: Embedder, tokenizer: TextEncoder) -> dict[str, str]:
    """The trunk, replayed and call by call, and the parts of a layer."""
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
    rows = [(name, *(found[dtype][name] for dtype in dtypes)) for name in found[dtypes[0]]]
    print(markdown(("ms, median (best)", *dtypes), rows))


if __name__ == "__main__":
    main()
