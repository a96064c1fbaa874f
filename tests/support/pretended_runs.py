"""Models on a pretended GPU and on the CPU, a JSON line for each: whether their answers agree.

Run as a script in a folder for checkpoints: ``TRITON_INTERPRET=1 python pretended_runs.py FOLDER``.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pretended_gpu  # first: it changes torch
import torch
from driving import make_core, request, run
from tiny.checkpoint import write
from tiny.decoders import DECODERS
from tiny.encoders import TRUNKS
from tiny.sentence import write_trunk

from atoll.config import Settings
from atoll.encoders.embedder import Embedder, EmbedOptions
from atoll.encoders.packer import Item, batch_of
from atoll.models.registry import Checkpoint, load_decoder
from atoll.weights.load import LoadOptions

DEVICES = {"cpu": nullcontext, "cuda:0": pretended_gpu.GPU}
SAMPLING: list[dict[str, Any]] = [
    {}, {"do_sample": True, "seed": 1, "top_k": 5, "top_p": 0.8, "temperature": 0.7},
    {"do_sample": True, "seed": 2, "min_p": 0.05, "typical_p": 0.9, "watermark": True},
    {"repetition_penalty": 1.2, "frequency_penalty": 0.3, "presence_penalty": 0.1,
     "no_repeat_ngram_size": 2, "min_new_tokens": 2, "logit_bias": ((3, 1.5), (4, -2.0)),
     "logprobs": True, "top_logprobs": 3},
    {"watermark": True}, {"prompt_logprobs": True, "logprobs": True},
    {"num_beams": 2, "logprobs": True, "forced_eos_token_id": 3},
]  # fmt: skip
POOLINGS = ("cls", "mean", "max", "mean-sqrt-len", "weighted-mean", "last-token")


def generated(folder: Path, device: torch.device) -> list[Any]:
    """Answers to a request for each of SAMPLING, in one batch, over buffered steps."""
    model: Any = load_decoder(Checkpoint.open(folder), LoadOptions(device=device))
    core = make_core(model, device=device)
    if device.type == "cuda":
        core._runner.buffer_decoding(8)
    made = [request([5 + i, 9, 11] + [8] * (6 * (i % 2)), 3, **o) for i, o in enumerate(SAMPLING)]
    for one, _ in made:
        core.add(one)
    run(core)
    return [sink.ids if sink.error is None else repr(sink.error) for _, sink in made]


def vectors(folder: Path, device: torch.device, pooling: str) -> torch.Tensor:
    """Of three texts, and of their tokens."""
    settings = Settings(str(folder), device=str(device), dtype="float32", pooling=pooling)
    embedder = Embedder(folder, settings)
    options = EmbedOptions(return_token_embeddings=True)
    texts = ([7], [3, 4, 5, 6, 8], [9, 2, 4])
    items = [Item(np.array(ids, np.int32), print, None, options) for ids in texts]
    with torch.inference_mode():
        rows: list[Any] = embedder(batch_of(items, device), items)
    parts = [torch.from_numpy(p).flatten() for row in rows for p in row if p is not None]
    return torch.cat(parts)


def compared(base: Path) -> Iterator[tuple[str, bool, str]]:
    """What ran, whether both devices agree, and what they said."""
    for name in ("llama", "bloom", "deepseek-v3"):
        folder = base / name
        folder.mkdir()
        write(next(v for v in DECODERS if v.name == name), folder)
        found = []
        for device, mode in DEVICES.items():
            with mode():
                found.append(generated(folder, torch.device(device)))
        yield name, found[0] == found[1], str(found)
    write_trunk(TRUNKS[0], base / "bert")
    for pooling in POOLINGS:
        both = []
        for device, mode in DEVICES.items():
            with mode():
                both.append(vectors(base / "bert", torch.device(device), pooling))
        apart = float((both[0] - both[1]).abs().max())
        yield pooling, apart < 1e-4, f"apart by {apart}"


if __name__ == "__main__":
    for name, is_same, detail in compared(Path(sys.argv[1])):
        print(json.dumps({"name": name, "is_same": is_same, "detail": detail}), flush=True)
