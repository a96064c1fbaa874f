"""JSON files beside tokenizer.json with values of the wrong kind: named, whatever the key.

They ended in one of Python's own errors (KeyError 'content'), or the value was left out in silence
and other tokens were made.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tiny.tokenizer import write_tokenizer

from atoll.errors import AtollError
from atoll.models import generation_keys
from atoll.text.chat import ChatTemplate
from atoll.text.tokenizer import Tokenizer

WRONG = ["text", 0, -1, 1.5, float("nan"), True, [], [3], {"a": 1}, 2.0**40, {"0": 5}, "\ud800"]
TOKEN = {"content": "<s>", "lstrip": False, "normalized": False, "special": True}
FILES: dict[str, dict[str, Any]] = {
    "tokenizer_config.json": {
        "bos_token": TOKEN, "eos_token": "</s>", "unk_token": "<unk>", "truncation_side": "right",
        "split_special_tokens": False, "tokenizer_class": "LlamaTokenizer",
        "additional_special_tokens": ["<s>", TOKEN], "add_prefix_space": True,
        "added_tokens_decoder": {"0": TOKEN, "1": {**TOKEN, "content": "</s>"}},
        "chat_template": [{"name": "default", "template": "{{ bos_token }}"}],
        "extra_special_tokens": {"image_token": "<s>"},
    },
    "special_tokens_map.json": {"eos_token": TOKEN, "additional_special_tokens": ["<s>"]},
    "added_tokens.json": {"<s>": 0},
    "generation_config.json": {
        "eos_token_id": [1], "bad_words_ids": [[5]], "suppress_tokens": [7],
        "forced_bos_token_id": None, "begin_suppress_tokens": [7], "forced_eos_token_id": 3,
    },
}  # fmt: skip
# Values that are right, or change nothing that is made here.
RIGHT = {
    "tokenizer_config.json": {("tokenizer_class",): ["text"], ("chat_template",): ["text"],
        ("chat_template", 0, "name"): ["text"], ("chat_template", 0, "template"): ["text"],
    },
    "generation_config.json": {
        ("eos_token_id",): [0, [], [3]], ("eos_token_id", 0): [0], ("bad_words_ids",): [[]],
        ("bad_words_ids", 0): [[3]], ("bad_words_ids", 0, 0): [0], ("suppress_tokens",): [[], [3]],
        ("suppress_tokens", 0): [0], ("forced_bos_token_id",): [[]],
        ("begin_suppress_tokens",): [[], [3]], ("begin_suppress_tokens", 0): [0],
        ("forced_eos_token_id",): [0],
    },
    "added_tokens.json": {("<s>",): [0]},
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("model")
    write_tokenizer(found)
    (found / "config.json").write_text(json.dumps({"model_type": "llama", "vocab_size": 96}))
    return found


def _paths(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    items = value.items() if isinstance(value, dict) else enumerate(value)
    inner = [(*path, key) for key, _ in items]
    for place, found in zip(inner[:], value.values() if isinstance(value, dict) else value,
                            strict=True):  # fmt: skip
        inner += _paths(found, place) if isinstance(found, dict | list) else []
    return inner


def _changed(value: Any, path: tuple[Any, ...], wrong: Any) -> Any:
    copy = json.loads(json.dumps(value))
    inner = copy
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = wrong
    return copy


def _outcome(folder: Path, name: str, content: Any) -> str | None:
    """The error; None where there is none."""
    (folder / name).write_text(content if isinstance(content, str) else json.dumps(content))
    try:
        ChatTemplate.load(folder, Tokenizer.load(folder))
        generation_keys.read(folder, {})
    except AtollError as error:
        return str(error)
    except Exception as error:
        return f"raw {type(error).__name__}: {error}"
    return None


def _is_token_text(path: tuple[Any, ...]) -> bool:
    """Whether any text stands for a special token there."""
    names = [key for key in path if isinstance(key, str)]
    last, is_entry = names[-1], path[-1] != names[-1]
    return last.endswith("_token") or last == "content" or (is_entry and "special" in last)


@pytest.mark.parametrize("name", FILES)
def test_values_of_the_wrong_kind(name: str, folder: Path) -> None:
    for other, content in FILES.items():
        assert _outcome(folder, other, content if other != "added_tokens.json" else {}) is None
    files = dict(FILES)
    if name == "added_tokens.json":  # which is read where the other names none
        files["tokenizer_config.json"] = {"eos_token": "</s>"}
        assert _outcome(folder, "tokenizer_config.json", files["tokenizer_config.json"]) is None
    wrong = []
    for path in _paths(files[name]):
        for value in WRONG:
            right = [json.dumps(v) for v in RIGHT.get(name, {}).get(path, [])]
            if json.dumps(value) in right or (value == "text" and _is_token_text(path)):
                continue
            old = files[name]
            for key in path:
                old = old[key]
            is_neutral = value in ([], {}) and isinstance(old, list | dict)
            if is_neutral or (type(value) is bool and type(old) is bool):
                continue
            told = _outcome(folder, name, _changed(files[name], path, value))
            named = "half a character" if value == "\ud800" else str(path[0])
            if told is None or name not in told or named not in told or told.startswith("raw"):
                wrong.append(f"{path} = {value!r}: {told}")
    assert _outcome(folder, name, files[name]) is None
    assert not wrong, f"{len(wrong)} wrong\n" + "\n".join(wrong)


@pytest.mark.parametrize("text", ["", "{", "[]", "5", "[" * 100_000])
@pytest.mark.parametrize("name", ["tokenizer_config.json", "special_tokens_map.json"])
def test_files_that_are_no_objects(name: str, text: str, folder: Path) -> None:
    told = _outcome(folder, name, text) or ""
    assert name in told and not told.startswith("raw")
    assert _outcome(folder, name, FILES[name]) is None
