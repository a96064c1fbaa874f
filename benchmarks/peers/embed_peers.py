"""The libraries that people embed with on a CPU, each used as its documentation advises.

Every peer gets the same tokenizer, sorts by length and pads batches of ``ROWS`` texts, which is
what sentence-transformers does; pooling and normalisation are numpy. A peer that is not installed
is left out, and the report says so. Atoll's engine is measured like a library.
"""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from harness.apart import started
from harness.texts import ROWS, Embed, Floats
from tokenizers import Tokenizer

Ids = npt.NDArray[np.int64]
# ids and mask (rows, longest) -> hidden states (rows, longest, hidden).
Hidden = Callable[[Ids, Ids], Floats]

MAX_LENGTH = 512


def peers(
    folder: Path, pooling: str, cache: Path, left_out: tuple[str, ...] = ()
) -> AbstractContextManager[Mapping[str, Embed]]:
    """Every peer that is installed, in a process of its own, but those that are left out.

    left_out: how their names begin.
    """
    packages = {
        name: package for name, (package, _) in _PEERS.items() if not name.startswith(left_out)
    }
    return started(packages, built, folder, pooling, cache)


def built(name: str, folder: Path, pooling: str, cache: Path) -> Embed:
    """The peer, in the process that calls this."""
    with contextlib.redirect_stdout(io.StringIO()):
        return _PEERS[name][1](folder, pooling, cache)


def _sentence_transformers(dtype: torch.dtype, folder: Path, pooling: str, cache: Path) -> Embed:
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(folder), device="cpu").to(dtype)

    def embed(texts: list[str]) -> Floats:
        vectors: Floats = model.encode(
            texts, batch_size=ROWS, normalize_embeddings=True, show_progress_bar=False
        )
        return vectors

    return embed


def _engine(dtype: str, folder: Path, pooling: str, cache: Path) -> Embed:
    from harness.models import load_embedder

    from atoll.encoders.embedder import EmbedOptions
    from atoll.encoders.engine import EncoderEngine
    from atoll.encoders.packer import Item

    embedder, tokenizer = load_embedder(folder, dtype)
    engine = EncoderEngine(embedder, torch.device("cpu"), max_batch_tokens=16384)
    engine.start()

    def embed(texts: list[str]) -> Floats:
        answers: list[Future[Any]] = []
        for start in range(0, len(texts), ROWS):
            items = []
            for row in tokenizer.encode(texts[start : start + ROWS], name="texts", truncate=True):
                answers.append(Future())
                items.append(Item(row.ids, answers[-1].set_result, row.type_ids, EmbedOptions()))
            engine.submit(items)
        return np.stack([answer.result().vector for answer in answers])

    return embed


def _onnxruntime(is_int8: bool, folder: Path, pooling: str, cache: Path) -> Embed:
    import onnxruntime
    from onnxruntime.quantization import QuantType, quantize_dynamic

    path = _onnx(folder, cache)
    if is_int8:
        small = path.with_name(f"{path.stem}-int8.onnx")
        if not small.exists():
            logging.disable(logging.WARNING)
            quantize_dynamic(path, small, weight_type=QuantType.QInt8, per_channel=True)
            logging.disable(logging.NOTSET)
        path = small
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(str(path), options, ["CPUExecutionProvider"])

    def hidden(ids: Ids, mask: Ids) -> Floats:
        found: Floats = session.run(None, {"ids": ids, "mask": mask})[0]
        return found

    return _padded(folder, pooling, hidden)


def _openvino(precision: str, folder: Path, pooling: str, cache: Path) -> Embed:
    import openvino

    core = openvino.Core()
    model = core.compile_model(
        openvino.convert_model(_onnx(folder, cache)),
        "CPU",
        {
            "INFERENCE_PRECISION_HINT": precision,
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "PERFORMANCE_HINT": "LATENCY",
        },
    )
    request = model.create_infer_request()

    def hidden(ids: Ids, mask: Ids) -> Floats:
        found: Floats = request.infer({"ids": ids, "mask": mask})[model.outputs[0]]
        return found

    return _padded(folder, pooling, hidden)


def _ctranslate2(compute_type: str, folder: Path, pooling: str, cache: Path) -> Embed:
    import ctranslate2

    target = cache / f"{folder.name}-ctranslate2"
    if not target.exists():
        ctranslate2.converters.TransformersConverter(str(folder)).convert(str(target))
    encoder = ctranslate2.Encoder(
        str(target), compute_type=compute_type, intra_threads=torch.get_num_threads()
    )

    def hidden(ids: Ids, mask: Ids) -> Floats:
        rows = ctranslate2.StorageView.from_array(ids.astype(np.int32))
        lengths = ctranslate2.StorageView.from_array(mask.sum(1).astype(np.int32))
        found: Floats = np.array(encoder.forward_batch(rows, lengths).last_hidden_state)
        return found

    return _padded(folder, pooling, hidden)


def _padded(folder: Path, pooling: str, hidden: Hidden) -> Embed:
    """Sorted by length, in padded batches; order restored."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_truncation(MAX_LENGTH)
    tokenizer.enable_padding()

    def embed(texts: list[str]) -> Floats:
        order = sorted(range(len(texts)), key=lambda row: -len(texts[row]))
        vectors: list[Floats] = []
        for start in range(0, len(order), ROWS):
            encoded = tokenizer.encode_batch([texts[row] for row in order[start : start + ROWS]])
            ids = np.array([e.ids for e in encoded], dtype=np.int64)
            mask = np.array([e.attention_mask for e in encoded], dtype=np.int64)
            states = hidden(ids, mask)
            if pooling == "cls":
                vectors.append(states[:, 0])
            elif pooling == "last-token":
                vectors.append(states[np.arange(len(states)), mask.sum(1) - 1])
            else:
                weights = mask[..., None].astype(np.float32)
                vectors.append((states * weights).sum(1) / weights.sum(1))
        found = np.concatenate(vectors)
        result = np.empty_like(found)
        result[order] = found / np.linalg.norm(found, axis=1, keepdims=True)
        return result

    return embed


def _onnx(folder: Path, cache: Path) -> Path:
    """The checkpoint's hidden states as an ONNX graph, exported once."""
    # In a folder of its own: beyond 2 GB, the weights are files beside the graph.
    path = cache / f"{folder.name}-onnx" / "model.onnx"
    if path.exists():
        return path
    from transformers import AutoModel

    model = AutoModel.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")

    class HiddenStates(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model.eval()

        def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            found: torch.Tensor = self.model(ids, attention_mask=mask).last_hidden_state
            return found

    example = torch.ones(2, 8, dtype=torch.long)
    axes = {0: "rows", 1: "longest"}
    with tempfile.TemporaryDirectory(dir=cache) as scratch:
        unfinished = Path(scratch) / "onnx"
        unfinished.mkdir()
        torch.onnx.export(
            HiddenStates(), (example, example), str(unfinished / path.name), dynamo=False,
            input_names=["ids", "mask"], output_names=["hidden"],
            dynamic_axes={"ids": axes, "mask": axes, "hidden": axes},
        )  # fmt: skip
        unfinished.rename(path.parent)
    return path


_PEERS: dict[str, tuple[str, Callable[[Path, str, Path], Embed]]] = {
    "sentence-transformers fp32": (
        "sentence_transformers",
        partial(_sentence_transformers, torch.float32),
    ),
    "sentence-transformers bf16": (
        "sentence_transformers",
        partial(_sentence_transformers, torch.bfloat16),
    ),
    "onnxruntime fp32": ("onnxruntime", partial(_onnxruntime, False)),
    "onnxruntime int8": ("onnxruntime", partial(_onnxruntime, True)),
    "ctranslate2 fp32": ("ctranslate2", partial(_ctranslate2, "float32")),
    "ctranslate2 int8": ("ctranslate2", partial(_ctranslate2, "int8")),
    "OpenVINO fp32": ("openvino", partial(_openvino, "f32")),
    "OpenVINO bf16": ("openvino", partial(_openvino, "bf16")),
    "Atoll bf16, engine": ("atoll", partial(_engine, "bfloat16")),
    "Atoll int8, engine": ("atoll", partial(_engine, "int8")),
}
