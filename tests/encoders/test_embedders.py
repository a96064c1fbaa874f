"""Decoders as embedders, as published, against sentence-transformers; which folders are taken."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lookalikes import LLAMA, POOLING, QWEN3, folder_of
from lookalikes import TRUNK as TRUNK_ROW
from tiny.checkpoint import write
from tiny.embedders import EMBEDDERS, PUBLISHED, write_embedder
from tiny.sentence import close, embed, encode, refused, run, update
from torch import Tensor

from atoll.config import Settings
from atoll.encoders.embedder import Embedder, EmbedOptions
from atoll.errors import AtollError, ConfigError, UnsupportedModel
from atoll.models.detect import decide, read_model
from atoll.models.registry import Checkpoint, load_encoder
from atoll.weights.load import LoadOptions

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
