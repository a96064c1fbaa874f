"""A checkpoint's tokenizer: the Rust object, and what its JSON files say around it.

The ids are those of tokenizer.json. transformers is asked only for checkpoints without that file.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as RustTokenizer
from tokenizers import normalizers

from atoll.errors import ConfigError
from atoll.text.families import TextRule, complete, text_rule
from atoll.weights.modules import sentence_config, transformer_folder

SPECIAL_TOKENS = ("bos_token", "eos_token", "unk_token", "pad_token", "cls_token", "sep_token")


@dataclass(frozen=True)
class Tokenizer:
    """The tokenizer of one checkpoint folder.

    config: tokenizer_config.json. special_tokens: texts by name (``bos_token``, ...).
    eos_token_ids: every id that ends a generated text. text_rule: what the family does to a text
    before it is tokenized, see ``families``.
    """

    core: RustTokenizer
    config: Mapping[str, Any]
    special_tokens: Mapping[str, str]
    eos_token_ids: frozenset[int]
    text_rule: TextRule | None = None

    @classmethod
    def load(cls, folder: Path) -> Tokenizer:
        """Raises ConfigError: the folder has no tokenizer that can be read."""
        is_lower_case = bool(sentence_config(folder).get("do_lower_case"))
        folder = transformer_folder(folder)
        config = _read(folder / "tokenizer_config.json")
        core = _core(folder)
        complete(core, _read(folder / "config.json").get("architectures"))
        core.no_truncation()
        core.no_padding()
        if is_lower_case:
            _lower(core)
        texts = _special_tokens(folder, config)
        eos_token_ids = _eos_token_ids(folder, core, texts)
        return cls(core, config, texts, eos_token_ids, text_rule(core))

    @property
    def vocab_size(self) -> int:
        """Entries, added tokens included; a model's vocabulary may be padded beyond it."""
        return int(self.core.get_vocab_size(with_added_tokens=True))

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """Token ids of one text."""
        text = text if self.text_rule is None else self.text_rule(text)
        # encode_batch, of one text too: it releases the GIL, encode does not.
        encoding = self.core.encode_batch([text], add_special_tokens=add_special_tokens)[0]
        return list(encoding.ids)

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        """The text of token ids."""
        return str(self.core.decode(list(ids), skip_special_tokens=skip_special_tokens))


def _core(folder: Path) -> RustTokenizer:
    path = folder / "tokenizer.json"
    try:
        if path.exists():
            return RustTokenizer.from_file(str(path))
        from transformers import AutoTokenizer

        slow = AutoTokenizer.from_pretrained(folder, use_fast=True, trust_remote_code=False)
        core: RustTokenizer = slow.backend_tokenizer
        return core
    except Exception as error:
        raise ConfigError(f"{folder}: no tokenizer can be read: {error}") from error


def _lower(core: RustTokenizer) -> None:
    """What sentence-transformers' ``do_lower_case`` asks for, whatever tokenizer.json does."""
    own = core.normalizer
    after = [] if own is None else [own]
    core.normalizer = normalizers.Sequence([normalizers.Lowercase(), *after])


def _special_tokens(folder: Path, config: Mapping[str, Any]) -> dict[str, str]:
    """Texts by name; special_tokens_map.json fills what tokenizer_config.json leaves out."""
    found = {}
    for source in (_read(folder / "special_tokens_map.json"), config):
        for name in SPECIAL_TOKENS:
            value = source.get(name)
            text = value.get("content") if isinstance(value, dict) else value
            if isinstance(text, str):
                found[name] = text
    return found


def _eos_token_ids(
    folder: Path, core: RustTokenizer, special_tokens: Mapping[str, str]
) -> frozenset[int]:
    """generation_config.json's, else config.json's, else the tokenizer's own."""
    for name in ("generation_config.json", "config.json"):
        value = _read(folder / name).get("eos_token_id")
        if value is not None:
            return frozenset(value if isinstance(value, list) else [value])
    eos = core.token_to_id(special_tokens.get("eos_token", ""))
    return frozenset() if eos is None else frozenset([eos])


def _read(path: Path) -> dict[str, Any]:
    """A JSON object; empty if there is no such file."""
    if not path.exists():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error
    if not isinstance(found, dict):
        raise ConfigError(f"{path}: expected an object")
    return found
