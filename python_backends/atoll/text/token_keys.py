"""Checks that token keys in JSON files have the right types: texts, or objects with flags.

Later readers need not check again.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from atoll.weights.json_fields import Fields

SPECIAL_TOKENS = (
    "bos_token", "eos_token", "unk_token", "pad_token", "cls_token", "sep_token", "mask_token",
)  # fmt: skip
FLAGS = ("lstrip", "rstrip", "normalized", "single_word", "special")
_MORE = ("additional_special_tokens", "extra_special_tokens")


def check_named(file: str, keys: Mapping[str, Any]) -> None:
    """Checks that tokenizer_config.json or a similar file names tokens by texts or objects.

    Args:
        file: its name in errors.

    Raises:
        ConfigError: a token is not; names its key and the value.
    """
    fields = Fields(keys, file)
    fields.text("tokenizer_class", default="", nullable=True)
    for name in SPECIAL_TOKENS:
        if fields.has(name):
            _check(fields, name)
    for name in _MORE:
        more = keys.get(name)
        if more is None:
            continue
        if not isinstance(more, list | dict):
            raise fields.wrong("a list of tokens, or an object of them", name)
        found = more if isinstance(more, dict) else {str(i): token for i, token in enumerate(more)}
        inner = Fields(found, f"{file}: {name}")
        for key in found:
            _check(inner, key)
    declared = fields.inside("added_tokens_decoder")
    for key, entry in declared.raw.items():
        if not key.isdecimal() or not isinstance(entry, dict):
            raise declared.wrong("an object, by a token's id", key)
        _check(declared, key)


def check_ids(file: str, ids: Mapping[str, Any]) -> None:
    """Checks that added_tokens.json gives every token an id.

    Raises:
        ConfigError: it does not; names the token and the value.
    """
    fields = Fields(ids, file)
    for name in ids:
        fields.count(name)


def _check(fields: Fields, name: str) -> None:
    entry = fields.raw[name]
    if isinstance(entry, dict):
        token = fields.inside(name)
        token.text("content")
        for flag in FLAGS:
            if flag in entry:
                token.flag(flag)
    elif not isinstance(entry, str):
        raise fields.wrong("a token's text, or an object with its content", name)
