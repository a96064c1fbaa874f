"""Encoders of an unusual kind: tokenizers without special tokens that keep the end of a text, and
scores beyond float32's sigmoid."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import torch
from gateways import Served, fronted
from safetensors.torch import load_file, save_file
from scored import reference
from serving import ONE_THREAD
from tiny.checkpoint import write
from tiny.encoders import MASKED, TRUNKS, classifiers, write_text_files
from tiny.late import write_m3
from tiny.sentence import update
from transformers import AutoModel

from atoll.cli.choose import entry_of
from atoll.launcher import ServerProcess
from atoll.launcher.options import ServerOptions

QUERY = "abc def"
TEXTS = ["ghi", "abc abc def", "zzz", "abc", "(x)", "QQ Q"]
LONG = "".join(chr(33 + i % 80) for i in range(150))
KINDS = {
    "steep": ("rerank", classifiers(1)[0]), "steep-labels": ("classify", classifiers(4)[0]),
    "bare": ("embed", TRUNKS[0]), "bare-sparse": ("sparse", MASKED),
}  # fmt: skip


def make_steep(folder: Path, least: float) -> None:
    """Logits far beyond those whose sigmoids float32 tells apart."""
    file = folder / "model.safetensors"
    tensors = load_file(file)
    tensors["classifier.weight"] *= 2
    tensors["classifier.bias"] = tensors["classifier.bias"] + least
    save_file(tensors, file, {"format": "pt"})


def write_encoders(base: Path, names: Iterable[str]) -> dict[str, Path]:
    """Checkpoints whose tokenizers add nothing, and keep the end of a long text.

    "three" has the three outputs of bge-m3, and an ordinary tokenizer.
    """
    found = {}
    for name in names:
        if name == "three":
            found[name] = base / name
            write_m3(found[name])
            continue
        variant, folder = KINDS[name][1], base / name
        found[name] = folder
        write(variant, folder)
        prompts = {"query": "Q: "} if name == "bare" else None
        write_text_files(folder, "cls" if name == "bare" else None, prompts)
        update(folder / "tokenizer.json", post_processor=None)
        update(folder / "tokenizer_config.json", truncation_side="left")
    make_steep(found["steep"], 27.0)
    make_steep(found["steep-labels"], 45.0)
    update(found["steep-labels"] / "config.json", problem_type="multi_label_classification")
    return found


@contextmanager
def encoders_served(folders: dict[str, Path]) -> Iterator[Served]:
    """Behind a gateway; the embedder and the reranker take 40 texts in a request."""
    more = {"max_client_batch_size": "40"}
    settings: dict[str, dict[str, str]] = {"bare": more, "steep": more}
    tasks = {name: {"task": task} for name, (task, _) in KINDS.items()}
    entries = tuple(
        entry_of(str(folder), {**tasks.get(name, {}), **settings.get(name, {})})
        for name, folder in folders.items()
    )
    options = ServerOptions.on_free_ports(
        entries=entries, exit_timeout_s=3, watch_interval_s=0.0, environment=ONE_THREAD
    )
    with ServerProcess(options) as server, fronted(server) as served:
        yield served


def logits_of(bare_folders: dict[str, Path]) -> Any:
    """The reranker's of ``TEXTS``, (texts,), float64, by transformers."""
    return reference(bare_folders["steep"], [(QUERY, t) for t in TEXTS])[:, 0].astype(float)


def post(http: httpx.Client, path: str, body: Any) -> Any:
    response = http.post(path, json=body)
    assert response.status_code == 200, response.text
    return response.json()


def refused(http: httpx.Client, path: str, body: Any, status: int, *words: str) -> Any:
    response = http.post(path, json=body)
    assert response.status_code == status, response.text
    assert all(word in response.text for word in words), response.text
    return response.json()


def vectors_of(folder: Path) -> Any:
    """vector(ids): the embedder's for token ids, by transformers."""
    model = AutoModel.from_pretrained(folder).eval()

    def found(ids: list[int], normalize: bool = True) -> Any:
        with torch.inference_mode():
            first = model(torch.tensor([ids])).last_hidden_state[0, 0].numpy()
        return first / np.linalg.norm(first) if normalize else first

    return found
