"""Decoders as embedders, as published, against sentence-transformers; which folders are taken."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lookalikes import LLAMA, POOLING, QWEN3, folder_of
from lookalikes import TRUNK as TRUNK_ROW
from tiny.checkpoint import Variant, write
from tiny.decoders import DECODERS
from tiny.embedders import EMBEDDERS, PUBLISHED, SIZES, qwen3, write_embedder
from tiny.quantize import Packing, quantized_checkpoints
from tiny.sentence import close, embed, encode, refused, run, update
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from atoll.cli.catalogue import info
from atoll.config import Settings
from atoll.encoders.embedder import Embedder, EmbedOptions
from atoll.encoders.packer import Item, batch_of
from atoll.errors import AtollError, ConfigError, UnsupportedModel
from atoll.models.detect import decide, read_model
from atoll.models.registry import Checkpoint, load_encoder
from atoll.weights.load import LoadOptions
from atoll_kernels import dispatch
from atoll_kernels.backends import KernelPolicy

LONG = "".join(chr(33 + i % 80) for i in range(150))
TEXTS = ["x", "A ring of coral", LONG, "fish " * 7]
BY_NAME = {variant.name: variant for variant in EMBEDDERS}


def reference(folder: Path, **options: Any) -> Tensor:
    """sentence-transformers' vectors, computed in float64."""
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(folder), device="cpu", local_files_only=True).double()
    found: Tensor = model.encode(TEXTS, convert_to_tensor=True, **options)
    return found


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_folders_equal_sentence_transformers(name: str, tmp_path: Path) -> None:
    """Pooling, Dense modules, prompts and cut texts; the tokens that frame a text always stay."""
    write_embedder(name, tmp_path, max_length=40)
    found = decide(tmp_path, Settings(model_id=str(tmp_path)))
    assert (found.task, found.runs_on, found.max_tokens) == ("embed", "native", 40)
    assert found.pooling == ("mean" if name == "embedding-gemma" else "last-token")
    assert found.notes == ()
    close(embed(tmp_path, TEXTS, normalize=True), reference(tmp_path))
    prompt = next(iter(PUBLISHED[name].prompts))
    ours = embed(tmp_path, TEXTS, normalize=True, prompt_name=prompt)
    close(ours, reference(tmp_path, prompt_name=prompt))
    update(tmp_path / "tokenizer_config.json", truncation_side="left")
    encoder = Embedder(tmp_path, Settings())
    cut = encode(tmp_path, [LONG], encoder)[0].ids.tolist()
    assert len(cut) == 40 and cut[-1] == 3
    assert (cut[0] == 2) == PUBLISHED[name].frame.startswith("[CLS]")


@pytest.mark.parametrize("name", ["qwen3-embedding", "embedding-gemma"])
def test_shorter_vectors(name: str, tmp_path: Path) -> None:
    """Cut, then normalized."""
    write_embedder(name, tmp_path)
    update(tmp_path / "config_sentence_transformers.json", truncate_dim=16)
    encoder = Embedder(tmp_path, Settings())
    assert read_model(tmp_path).embedding_size == 16
    found = run(tmp_path, TEXTS, encoder, EmbedOptions(True, encoder.truncate_dim))
    ours = torch.stack([torch.from_numpy(row.vector) for row in found])
    close(ours, reference(tmp_path, normalize_embeddings=True))


def test_what_is_no_embedder_by_its_files(tmp_path: Path) -> None:
    """A trunk alone has no pooling: nobody named the task, and then no pooling."""
    write(BY_NAME["qwen3-embedding"], tmp_path)
    with pytest.raises(UnsupportedModel, match=r"Qwen3Model \(model_type 'qwen3'\) is not"):
        read_model(tmp_path)
    message = "no file says how .*--pooling last-token"
    with pytest.raises(UnsupportedModel, match=message):
        decide(tmp_path, Settings(task="embed"))
    refused(tmp_path, UnsupportedModel, message)
    found = decide(tmp_path, Settings(task="embed", pooling="last-token"))
    assert (found.task, found.pooling, found.hidden_size) == ("embed", "last-token", 48)
    update(tmp_path / "config.json", architectures=["Qwen3ForCausalLM"])
    assert decide(tmp_path, Settings()).task == "generate"
    assert decide(tmp_path, Settings(task="embed", pooling="mean")).task == "embed"
    # An entry's task alone is no user's word against the class.
    refused(tmp_path, UnsupportedModel, "Qwen3ForCausalLM .* its head", pooling="mean")


POOLED: dict[str, Any] = {
    "modules.json": [TRUNK_ROW, POOLING], "1_Pooling/config.json": {"pooling_mode": "lasttoken"},
}  # fmt: skip
OWN = {"auto_map": {"AutoModel": "modeling_own.OwnModel"}}
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "code of its own": (
        {**QWEN3, **OWN},
        "modeling_own.OwnModel, code of the checkpoint's own.*add is_causal",
    ),
    "a class of its own": (
        {**QWEN3, **OWN, "architectures": ["OwnModel"]},
        r"OwnModel .* none of the family's classes, but code .*modeling_own.OwnModel",
    ),
    "both sides, Gemma 1": (
        {**LLAMA, "model_type": "gemma", "architectures": ["GemmaModel"], "head_dim": 8,
         "use_bidirectional_attention": True},
        "use_bidirectional_attention is True; supported",
    ),
    "both sides twice": (
        {**LLAMA, "model_type": "gemma3_text", "architectures": ["Gemma3TextModel"],
         "head_dim": 8, "use_bidirectional_attention": True, "is_causal": False},
        "is_causal is false and use_bidirectional_attention is true",
    ),
    "both sides, of a family without": (
        {**LLAMA, "model_type": "granite", "architectures": ["GraniteModel"], "is_causal": False},
        "is_causal is false, which is not supported for model_type 'granite'",
    ),
    "both sides or not": ({**QWEN3, "is_causal": None}, "is_causal is null; expected true or"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_embedders_that_are_refused(name: str, tmp_path: Path) -> None:
    config, message = REFUSED[name]
    folder = folder_of(tmp_path, config, POOLED)
    with pytest.raises((ConfigError, UnsupportedModel), match=message):
        decide(folder, Settings())
    refused(folder, AtollError, message)


@pytest.mark.parametrize("name", ["gte-qwen2", "embedding-gemma", "llama-bidirec"])
def test_what_sees_both_sides_does_not_generate(name: str, tmp_path: Path) -> None:
    write(BY_NAME[name], tmp_path)
    with pytest.raises(ConfigError, match="it is an embedder, and cannot generate"):
        decide(tmp_path, Settings(task="generate"))


def test_classifiers_of_both_sides_are_refused(tmp_path: Path) -> None:
    """llama_bidirec's scores are of a mean of tokens, and a temperature's; no layout has them."""
    write(BY_NAME["llama-bidirec"], tmp_path)
    model = load_encoder(Checkpoint.open(tmp_path), LoadOptions())
    assert model.config.classifiers == ()


class _Largest(TorchDispatchMode):
    """The numbers of the largest tensor that is made."""

    numbers = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        for one in tree_leaves(found):
            if isinstance(one, Tensor):
                self.numbers = max(self.numbers, one.numel())
        return found


@pytest.mark.parametrize("is_native", [True, False])
def test_long_texts_take_memory_by_their_length(is_native: bool, tmp_path: Path) -> None:
    """Nothing is made of every pair of tokens, in plain torch either."""
    long = Variant("long", lambda: qwen3(max_position_embeddings=2048))
    write(long, tmp_path)
    encoder, count = Embedder(tmp_path, Settings(pooling="last-token")), 2048
    item = Item(np.arange(count, dtype=np.int32) % 90, lambda result: None, None, EmbedOptions())
    dispatch.configure(KernelPolicy(disable_custom_kernels=not is_native))
    try:
        with torch.inference_mode(), _Largest() as largest:
            (found,) = encoder(batch_of([item], torch.device("cpu")), [item])
    finally:
        dispatch.configure(KernelPolicy())
    assert np.isfinite(found.vector).all()
    assert count * 96 <= largest.numbers <= count * 2 * SIZES["intermediate_size"]


@pytest.mark.parametrize(("dtype", "least"), [("int8", 0.999), ("int4", 0.9)])
def test_quantized_at_load(dtype: str, least: float, tmp_path: Path) -> None:
    write_embedder("qwen3-embedding", tmp_path)
    exact = embed(tmp_path, TEXTS, normalize=True)
    ours = embed(tmp_path, TEXTS, normalize=True, dtype=dtype)
    assert float((exact * ours).sum(1).min()) > least


def test_quantized_files(tmp_path: Path) -> None:
    """A decoder's, with the head's tensors, which have no use."""
    variant = next(v for v in DECODERS if v.name == "qwen3")
    vectors = []
    for folder in quantized_checkpoints(variant, Packing(), tmp_path):
        model = Embedder(folder, Settings(task="embed", pooling="last-token"))
        item = Item(np.arange(5, 40, dtype=np.int32), lambda result: None, None, EmbedOptions())
        with torch.inference_mode():
            (found,) = model(batch_of([item], torch.device("cpu")), [item])
        vectors.append(found.vector)
    np.testing.assert_allclose(vectors[0], vectors[1], atol=2e-6)


def test_info_names_the_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_embedder("qwen3-embedding", tmp_path)
    info(str(tmp_path), as_json=True)
    facts = json.loads(capsys.readouterr().out)
    assert (facts["task"], facts["pooling"]) == ("embed", "last-token")
    assert facts["implementation"] == "atoll.models.qwen"


@pytest.mark.parametrize("side", ["left", "right"])
def test_gtes_own_tokenizer_ends_texts(side: str, tmp_path: Path) -> None:
    """Its code does, and tokenizer.json does not: the last token was one of the text."""
    ended, plain = tmp_path / "ended", tmp_path / "plain"
    for folder in (ended, plain):
        write_embedder("gte-qwen2", folder, max_length=40)
        update(folder / "tokenizer_config.json", truncation_side=side)
    update(plain / "tokenizer.json", post_processor=None)
    code = ["gte--tokenization_qwen.Qwen2Tokenizer", "gte--tokenization_qwen.Qwen2TokenizerFast"]
    own = {"tokenizer_class": "Qwen2Tokenizer", "auto_map": {"AutoTokenizer": code}}
    update(plain / "tokenizer_config.json", add_eos_token=True, eos_token="[SEP]", **own)
    assert torch.equal(embed(plain, TEXTS), embed(ended, TEXTS))
    encoder = Embedder(plain, Settings())
    assert encode(plain, [LONG], encoder)[0].ids[-1] == 3
    update(plain / "tokenizer_config.json", add_eos_token=False)
    assert len(encode(plain, ["x"], encoder)[0].ids) == 1
    update(plain / "tokenizer_config.json", add_eos_token=True, eos_token="<nothing>")
    with pytest.raises(ConfigError, match="add_eos_token is true, and eos_token is '<nothing>'"):
        encode(plain, ["x"], encoder)


def test_a_limit_below_the_models_is_told(tmp_path: Path) -> None:
    """max_batch_tokens is less than the 32768 tokens of Qwen3-Embedding."""
    write_embedder("qwen3-embedding", tmp_path)
    (note,) = decide(tmp_path, Settings(max_batch_tokens=60)).notes
    assert note == "texts are cut at max_batch_tokens, 60; the model accepts 64 tokens"
    assert Embedder(tmp_path, Settings(max_batch_tokens=60)).spec.max_length == 60
    assert decide(tmp_path, Settings(max_batch_tokens=60, max_input_tokens=50)).notes == ()
