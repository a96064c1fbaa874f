"""Tokens that files beside tokenizer.json add or name: the ids are those of transformers."""

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizer_folders import (
    TEXTS,
    Json,
    bert,
    check,
    folder_of,
    llama,
    roberta,
    with_token,
    xlm_roberta,
)
from tokenizers import Tokenizer as RustTokenizer

from atoll.errors import ConfigError
from atoll.text.tokenizer import Tokenizer

ADDED: dict[str, dict[str, Json]] = {
    "old list": {"added_tokens": {"covid19": 300}},
    "old list of a special token": {
        "added_tokens": {"<x>": 300}, "tokenizer_config": {"pad_token": "<x>"},
    },
    "extra": {"tokenizer_config": {"extra_special_tokens": ["<x>", "<y>"]}},
    "extra with names": {"tokenizer_config": {"extra_special_tokens": {"x_token": "<x>"}}},
    "additional, in the map": {
        "special_tokens_map": {"additional_special_tokens": ["<x>"]},
    },
    "with flags, in the map": {
        "special_tokens_map": {
            "mask_token": {"content": "<x>", "lstrip": True, "rstrip": True, "normalized": False,
                           "single_word": False},
        },
    },
    "flags": {
        "tokenizer_config": {"added_tokens_decoder": {
            "300": {"content": "<x>", "lstrip": True, "rstrip": True, "normalized": False,
                    "single_word": False, "special": False},
            "301": {"content": "<Y>", "lstrip": False, "rstrip": False, "normalized": True,
                    "single_word": True, "special": False},
        }},
    },
}  # fmt: skip


@pytest.mark.parametrize("case", ADDED)
@pytest.mark.parametrize("kind", ["bert", "bert without a class", "roberta"])
def test_tokens_that_other_files_add(kind: str, case: str, tmp_path: Path) -> None:
    core = roberta() if kind == "roberta" else bert()
    size = core.get_vocab_size()
    text = json.dumps(ADDED[case]).replace('"300"', f'"{size}"').replace('"301"', f'"{size + 1}"')
    files = json.loads(text.replace(": 300", f": {size}"))
    if kind == "bert without a class":
        files["tokenizer_config"] = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            **files.get("tokenizer_config", {}),
        }
    # transformers 5 forgets the flags of the file's <mask> beside added_tokens_decoder.
    texts = [text for text in TEXTS if (kind, case) != ("roberta", "flags") or "<mask>" not in text]
    check(folder_of(core, kind.split()[0], tmp_path, **files), tuple(texts))


@pytest.mark.parametrize("is_normalized", [True, False])
def test_the_files_own_token_wins_over_the_old_list(is_normalized: bool, tmp_path: Path) -> None:
    """added_tokens.json has no flags: those of tokenizer.json were lost, and "Covid19" was text."""
    core = with_token(bert(), "covid19", normalized=is_normalized)
    index = core.token_to_id("covid19")
    folder = folder_of(core, "bert", tmp_path, added_tokens={"covid19": index})
    check(folder)
    assert (index in Tokenizer.load(folder).encode("Covid19 cases")) == is_normalized


def test_special_tokens_that_only_the_class_knows(tmp_path: Path) -> None:
    """A vocabulary with [MASK], and no file that says what it is: the text "[MASK]" was split."""
    core = RustTokenizer.from_str(bert().to_str())
    state = json.loads(core.to_str())
    state["added_tokens"] = []
    folder = folder_of(RustTokenizer.from_str(json.dumps(state)), "bert", tmp_path)
    check(folder)
    assert Tokenizer.load(folder).core.encode("[MASK]").tokens == ["[CLS]", "[MASK]", "[SEP]"]


UNKNOWN = "a \u2603 b \u00a3 cases"


@pytest.mark.parametrize("files", [
    {"tokenizer_config": {"unk_token": "[PAD]"}},
    {"special_tokens_map": {"unk_token": "[BOS]"}},
    {"tokenizer_config": {"unk_token": {"content": "[NEW]"}}},
    {"tokenizer_config": {"unk_token": "[UNK]"}, "special_tokens_map": {"unk_token": "[PAD]"}},
])  # fmt: skip
def test_berts_unknown_token_is_named_alike(files: dict[str, Any], tmp_path: Path) -> None:
    """transformers 5 takes the key beside tokenizer.json, 4 the file's own: other ids."""
    folder = folder_of(bert(), "bert", tmp_path, **files)
    with pytest.raises(ConfigError, match=r"model.unk_token is '\[UNK\]', but .* unk_token '\["):
        Tokenizer.load(folder)


@pytest.mark.parametrize(
    ("kind", "model_type", "config"),
    [
        (bert, "bert", {"tokenizer_class": "BertTokenizer", "unk_token": "[UNK]"}),
        (bert, "bert", {"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "[BOS]"}),
        (roberta, "roberta", {"tokenizer_class": "RobertaTokenizer", "unk_token": "<pad>"}),
        (xlm_roberta, "xlm-roberta", {"tokenizer_class": "XLMRobertaTokenizer",
                                      "unk_token": "<pad>"}),
        (llama, "llama", {"tokenizer_class": "LlamaTokenizer", "unk_token": "</s>"}),
        (llama, "llama", {"tokenizer_class": "LlamaTokenizer", "unk_token": "[NEW]"}),
    ],
)  # fmt: skip
def test_other_unknown_tokens_are_the_files(
    kind: Any, model_type: str, config: Json, tmp_path: Path
) -> None:
    more = {"unk_token": "<s>"} if kind is not bert else {}
    for files in ({}, {"special_tokens_map": more}):
        check(folder_of(kind(), model_type, tmp_path, tokenizer_config=config, **files), (UNKNOWN,))
