"""Models with parts for images: the text part is served, and says so; images are refused."""

import json
from pathlib import Path
from typing import Any

import pytest
from lookalikes import folder_of
from safetensors.torch import load_file, save_file
from tiny.checkpoint import Variant, write
from tiny.nested import MISTRAL3_OLD, NESTED
from tiny.tokenizer import write_tokenizer

from atoll.config import Settings
from atoll.errors import ConfigError, ValidationError, WeightError
from atoll.models.detect import decide
from atoll.models.registry import Checkpoint, load_decoder
from atoll.text.chat import ChatTemplate
from atoll.text.tokenizer import Tokenizer
from atoll.weights.load import LoadOptions
from atoll.weights.text_part import text_part

HUB_CONFIGS = Path(__file__).parents[1] / "data" / "hub_configs"

GEMMA4 = json.loads((HUB_CONFIGS / "google__gemma-4-E2B-it.json").read_text())


@pytest.mark.parametrize(
    ("config", "kind", "max_tokens", "left_out"),
    [
        (MISTRAL3_OLD, "mistral", 64, "vision_config"),
        (GEMMA4, "gemma4_text", 131072, "audio_config, vision_config"),
    ],
    ids=["mistral3", "gemma4"],
)
def test_what_is_left_out_is_told(
    config: Any, kind: str, max_tokens: int, left_out: str, tmp_path: Path
) -> None:
    folder = folder_of(tmp_path, config)
    found = decide(folder, Settings(model_id=str(folder)))
    assert (found.runs_on, found.model_type, found.max_tokens) == ("native", kind, max_tokens)
    assert found.architecture == config["architectures"][0]
    assert found.notes == (
        f"only its text part is served, without {left_out}: images and sound are refused",
    )


@pytest.mark.parametrize(
    ("outer", "inner", "expected"),
    [
        ({}, {}, None),
        ({"tie_word_embeddings": True}, {"tie_word_embeddings": False}, True),
        ({"tie_word_embeddings": False}, {"tie_word_embeddings": True}, True),
        ({"tie_word_embeddings": False}, {}, False),
        ({}, {"tie_word_embeddings": False}, False),
    ],
)
def test_either_level_ties(outer: Any, inner: Any, expected: bool | None) -> None:
    raw = {"model_type": "mistral3", "text_config": {"model_type": "mistral", **inner}, **outer}
    assert text_part(raw).get("tie_word_embeddings") is expected


@pytest.mark.parametrize(
    ("outer", "inner", "expected"),
    [({"eos_token_id": [1, 2]}, {"eos_token_id": 5}, {1, 2}), ({}, {"eos_token_id": 5}, {5})],
)
def test_stop_tokens_of_either_level(
    outer: Any, inner: Any, expected: set[int], tmp_path: Path
) -> None:
    text = {**MISTRAL3_OLD["text_config"], **inner}
    folder = folder_of(tmp_path, {**MISTRAL3_OLD, "text_config": text, **outer})
    write_tokenizer(folder)
    assert Tokenizer.load(folder).eos_token_ids == expected


def test_images_are_refused_and_older_template_files_read(tmp_path: Path) -> None:
    """Vision models' templates are in chat_template.json, beside the processor's other files."""
    template = "{% for m in messages %}{% for p in m.content %}{{ p.text }}{% endfor %}{% endfor %}"
    write_tokenizer(folder_of(tmp_path, MISTRAL3_OLD))
    (tmp_path / "chat_template.json").write_text(json.dumps({"chat_template": template}))
    chat = ChatTemplate.load(tmp_path, Tokenizer.load(tmp_path))
    assert chat is not None
    text, image = {"type": "text", "text": "hi"}, {"type": "image_url", "image_url": {"url": "x"}}
    assert chat.render([{"role": "user", "content": [text]}]) == "hi"
    with pytest.raises(ValidationError, match=r"messages\[0\].content\[1\] is of type 'image_url'"):
        chat.render([{"role": "user", "content": [text, image]}])


def test_mistrals_own_files(tmp_path: Path) -> None:
    """Weights by other names are skipped; where there is nothing else, the message says so."""
    folder = folder_of(tmp_path, MISTRAL3_OLD)
    (folder / "tekken.json").write_text("{}")
    with pytest.raises(ConfigError, match="no tokenizer.json, and tekken.json.*chat template"):
        Tokenizer.load(folder)
    variant: Variant = NESTED[0]
    write(variant, folder)
    tensors = load_file(folder / "model.safetensors")
    save_file({"norm.weight": tensors["language_model.model.norm.weight"]},
              folder / "consolidated.safetensors")  # fmt: skip
    (folder / "model.safetensors").rename(folder / "weights.safetensors")
    load_decoder(Checkpoint.open(folder), LoadOptions())
    (folder / "weights.safetensors").unlink()
    with pytest.raises(WeightError, match="consolidated.safetensors is in Mistral's own format"):
        load_decoder(Checkpoint.open(folder), LoadOptions())


def test_a_part_that_is_not_known_is_refused(tmp_path: Path) -> None:
    write(NESTED[0], tmp_path)
    path = tmp_path / "model.safetensors"
    tensors = load_file(path)
    save_file({**tensors, "router.weight": tensors["vision_tower.ln_pre.weight"].clone()}, path)
    with pytest.raises(WeightError, match=r"left over, .*router.weight"):
        load_decoder(Checkpoint.open(tmp_path), LoadOptions())


@pytest.mark.parametrize(
    ("name", "value"),
    [("llama_4_scaling_beta", None), ("llama_4_scaling_beta", "0.1"),
     ("original_max_position_embeddings", 0)],
)  # fmt: skip
def test_what_queries_grow_by_is_checked(name: str, value: Any, tmp_path: Path) -> None:
    write(next(v for v in NESTED if v.name == "ministral3"), tmp_path)
    path = tmp_path / "config.json"
    raw = json.loads(path.read_text())
    raw["text_config"]["rope_parameters"][name] = value
    path.write_text(json.dumps(raw))
    with pytest.raises(ConfigError, match=name):
        load_decoder(Checkpoint.open(tmp_path), LoadOptions())
