"""Which tokens end an answer, by the files that name them."""

from pathlib import Path
from typing import Any

import fake_backend  # noqa: F401  (stands in for Triton's own module)
import pytest
from tiny.tokenizer import write_tokenizer
from tokenizer_folders import Json, write_json
from tokenizers import Tokenizer as RustTokenizer
from tokenizers import models

from atoll.errors import ConfigError
from atoll.text.tokenizer import Tokenizer


@pytest.mark.parametrize(
    ("generation", "model", "expected"),
    [
        ({"eos_token_id": [2, 5]}, {"eos_token_id": 7}, {2, 5}),
        ({"eos_token_id": 5, "pad_token_id": 9, "temperature": 0.7}, {"eos_token_id": 7}, {5}),
        ({"eos_token_id": None, "do_sample": True}, {"eos_token_id": [7, 8]}, {7, 8}),
        ({"eos_token_id": []}, {}, {1}),
        # GPT-2's default in the config of a smaller vocabulary.
        ({"eos_token_id": 50256}, {"eos_token_id": 50256}, {1}),
        (None, {"eos_token_id": 7}, {7}),
        (None, {}, {1}),
    ],
)
def test_ending_tokens(
    generation: Json | None, model: Json, expected: set[int], tmp_path: Path
) -> None:
    write_tokenizer(tmp_path)
    write_json(tmp_path, config={"model_type": "llama", "vocab_size": 96, **model})
    if generation is not None:
        write_json(tmp_path, generation_config=generation)
    assert Tokenizer.load(tmp_path).eos_token_ids == expected


@pytest.mark.parametrize("files", [
    {"generation_config": {"eos_token_id": [200002, 199999, 200012]}},
    {"generation_config": {"eos_token_id": [200002, 199999]}},
    {"generation_config": {}, "config": {"eos_token_id": [200002, 199999]}},
])  # fmt: skip
def test_ending_tokens_of_harmony(files: dict[str, Json], tmp_path: Path) -> None:
    """A call ends the answer, also by files that name the other ends; ``<|end|>`` does not: the
    final message follows the analysis that ends with it."""
    names = ["<|endoftext|>", "<|return|>", "<|constrain|>", "<|end|>", "<|call|>"]
    places = [199999, 200002, 200003, 200007, 200012]
    vocabulary: Any = {"a": 0, **dict(zip(names, places, strict=True))}
    core = RustTokenizer(models.WordLevel(vocabulary, unk_token="a"))
    core.add_special_tokens(names)
    core.save(str(tmp_path / "tokenizer.json"))
    write_json(tmp_path, tokenizer_config={"eos_token": "<|return|>"})
    write_json(tmp_path, **{"config": {"vocab_size": 201088}, **files})
    assert Tokenizer.load(tmp_path).eos_token_ids == {200002, 199999, 200012}


@pytest.mark.parametrize("name", ["generation_config", "config"])
@pytest.mark.parametrize("value", ["</s>", 1.5, True, {}, ["2"], [2, None], -1, 96, [2, 1000000]])
def test_ending_tokens_that_are_none_are_refused(name: str, value: Any, tmp_path: Path) -> None:
    """Ids beyond the vocabulary were left out, and another file's ended the answers."""
    write_tokenizer(tmp_path)
    files = {"config": {"vocab_size": 96}}
    files.setdefault(name, {})["eos_token_id"] = value
    write_json(tmp_path, **files)
    with pytest.raises(ConfigError, match=rf"/{name}\.json: eos_token_id is "):
        Tokenizer.load(tmp_path)


def test_ending_tokens_of_another_form_are_refused(tmp_path: Path) -> None:
    write_tokenizer(tmp_path)
    write_json(tmp_path, config={"eos_token_id": "</s>"})
    with pytest.raises(ConfigError, match=r"config\.json: eos_token_id is '</s>'"):
        Tokenizer.load(tmp_path)
