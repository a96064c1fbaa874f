"""Which files of a folder become its tokenizer, and which tokens its other files add.

tokenizer.json takes precedence, with the changes that keys of tokenizer_config.json make (see
``overrides``), but for families that transformers reads from other files (see
``own_vocabularies``). Without it, a sentencepiece model is read here, and the rest (vocab.json with
merges.txt, vocab.txt, ...) is left to transformers.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from tokenizers import AddedToken, Tokenizer

from atoll.errors import ConfigError
from atoll.text import overrides, own_vocabularies, sentencepiece
from atoll.text.piece_encoder import PieceEncoder
from atoll.text.sentencepiece import Converted
from atoll.text.token_keys import FLAGS, SPECIAL_TOKENS, check_ids, check_named
from atoll.weights.json_fields import Fields
from atoll.weights.modules import read_object

logger = logging.getLogger(__name__)

_SENTENCEPIECE = ("tokenizer.model", "spiece.model", "sentencepiece.bpe.model")
_OTHERS = ("vocab.json", "merges.txt", "vocab.txt", "tiktoken.model")
# Its texts' special tokens and the chat template are code of Mistral's own library.
_TEKKEN = "tekken.json"


class Loaded(NamedTuple):
    """A tokenizer, the texts of its special tokens by name, and what encodes, if not it."""

    core: Tokenizer
    special_tokens: dict[str, str]
    pieces: PieceEncoder | None


def load(folder: Path, config: Mapping[str, Any], model: Mapping[str, Any]) -> Loaded:
    """The tokenizer of a folder.

    Args:
        config: tokenizer_config.json.
        model: config.json.

    Raises:
        ConfigError: there is no tokenizer, or none that can be read; suggests a remedy.
    """
    check_named(f"{folder}/tokenizer_config.json", config)
    path = folder / "special_tokens_map.json"
    check_named(str(path), read_object(path))
    Fields(model).text("tokenizer_class", default="", nullable=True)
    file = folder / "tokenizer.json"
    own = own_vocabularies.load(folder, config, model)
    pieces = None
    if own is not None:
        (found, pieces), is_ours = own, True
    elif file.exists():
        try:
            core = Tokenizer.from_file(str(file))
        except Exception as error:
            raise ConfigError(f"{file}: cannot be read: {error}") from error
        found, is_ours = Converted(core, {}), False
    else:
        found, is_ours = _convert(folder, config, model)
    named = special_tokens(folder, config)
    special = found.special_tokens | {name: text for name, text in named.items() if text}
    if own is None and file.exists():
        special = overrides.default_names(found.core, config, model) | special
        overrides.apply(found.core, config, model, special)
    wrong = _declare(found.core, folder, config, special, model.get("vocab_size"))
    if wrong and is_ours:
        raise ConfigError(f"{folder}: added tokens have other ids than their files say: {wrong}")
    if wrong:
        logger.warning("%s: tokenizer.json has other ids than tokenizer_config: %s", folder, wrong)
    return Loaded(found.core, special, pieces)


def special_tokens(folder: Path, config: Mapping[str, Any]) -> dict[str, str]:
    """Texts by name.

    special_tokens_map.json adds what tokenizer_config.json leaves out; if the latter is of the
    older kind, without ``added_tokens_decoder``, the map takes precedence, as in transformers.
    """
    found = {}
    for source in _named(folder, config):
        for name in SPECIAL_TOKENS:
            text = _text(source.get(name))
            if text is not None:
                found[name] = text
    return found


def _named(folder: Path, config: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The files that name special tokens; later ones take precedence."""
    files = [read_object(folder / "special_tokens_map.json"), config]
    return files if "added_tokens_decoder" in config else files[::-1]


def _convert(
    folder: Path, config: Mapping[str, Any], model: Mapping[str, Any]
) -> tuple[Converted, bool]:
    """A tokenizer from other files, and whether we are responsible for its ids."""
    file = next((folder / name for name in _SENTENCEPIECE if (folder / name).exists()), None)
    named = config.get("tokenizer_class") or model.get("tokenizer_class")
    kind = sentencepiece.family(named, model.get("model_type"))
    if file is not None and kind is not None:
        return sentencepiece.convert(file, kind, config), True
    there = [name for name in (*_SENTENCEPIECE, *_OTHERS) if (folder / name).exists()]
    if not there and (folder / _TEKKEN).exists():
        raise ConfigError(
            f"{folder}: there is no tokenizer.json, and {_TEKKEN}, Mistral's own format, is not "
            "supported: add tokenizer.json, tokenizer_config.json and the chat template of another "
            "repository of this model, or write them with "
            "transformers.integrations.mistral.convert_tekken_tokenizer, beside mistral-common"
        )
    if not there:
        raise ConfigError(
            f"{folder}: there is no tokenizer.json, and none of "
            f"{', '.join((*_SENTENCEPIECE, *_OTHERS))}: copy tokenizer.json from the model's "
            "repository"
        )
    from transformers import AutoTokenizer

    try:
        slow = AutoTokenizer.from_pretrained(folder, use_fast=True, trust_remote_code=False)
        texts = {name: getattr(slow, name, None) for name in SPECIAL_TOKENS}
        special = {name: str(text) for name, text in texts.items() if text is not None}
        return Converted(slow.backend_tokenizer, special), False
    except Exception as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise ConfigError(
            f"{folder}: there is no tokenizer.json, and transformers cannot convert "
            f"{', '.join(there)} ({reason}); copy tokenizer.json from the model's repository, or "
            "write it where the tokenizer loads: AutoTokenizer.from_pretrained(...).save_pretrained"
        ) from error


def _declare(
    core: Tokenizer,
    folder: Path,
    config: Mapping[str, Any],
    special: Mapping[str, str],
    vocab_size: Any,
) -> list[str]:
    """Adds the tokens that the JSON files name and ``core`` lacks, as transformers does.

    Not beyond the model's vocabulary: a padding token that is named but not in it would be an id
    without an embedding. Returns the tokens that got a different id than in their file.
    """
    names = _special_entries(folder, config, special)
    tokens = [(_token(entry, names), index) for index, entry in _added(core, folder, config, names)]
    known = {token.content for token, _ in tokens}
    known |= {token.content for token in core.get_added_tokens_decoder().values()}
    named = [_token(entry, names) for text, entry in names.items() if text not in known]
    for token in (*(token for token, _ in tokens), *named):
        is_new = core.token_to_id(token.content) is None
        if is_new and vocab_size and core.get_vocab_size() >= vocab_size:
            logger.info("%s: token %r is beyond the vocabulary", folder, token.content)
        else:
            core.add_tokens([token])
    pairs = [(token.content, index, core.token_to_id(token.content)) for token, index in tokens]
    return [f"{text!r}: {index}, not {got}" for text, index, got in pairs if got != index]


def _added(
    core: Tokenizer, folder: Path, config: Mapping[str, Any], names: Mapping[str, Any]
) -> list[tuple[int, Any]]:
    """Tokens that tokenizer_config.json or an old added_tokens.json adds, in order of their ids.

    tokenizer.json's own entry for an id takes precedence over the old file's, which has no flags.
    """
    declared = config.get("added_tokens_decoder")
    if declared is not None:
        found = {int(index): entry for index, entry in declared.items()}
    else:
        path = folder / "added_tokens.json"
        old, own = read_object(path), core.get_added_tokens_decoder()
        check_ids(str(path), old)
        found = {
            index: {"content": text, "normalized": text not in names}
            for text, index in old.items()
            if index not in own
        }
    return sorted(found.items())


def _special_entries(
    folder: Path, config: Mapping[str, Any], special: Mapping[str, str]
) -> dict[str, Any]:
    """Text of every special token -> its entry in the files, with flags if they give them."""
    found: dict[str, Any] = {text: text for text in special.values()}
    for source in _named(folder, config):
        more = source.get("additional_special_tokens") or source.get("extra_special_tokens") or ()
        named = [source[name] for name in SPECIAL_TOKENS if source.get(name) is not None]
        for entry in (*(more.values() if isinstance(more, dict) else more), *named):
            text = _text(entry)
            if text and (text in special.values() or entry not in named):
                found[text] = entry
    return found


def _token(entry: Any, names: Mapping[str, Any]) -> AddedToken:
    if isinstance(entry, str):
        return AddedToken(entry, special=True)
    flags = {name: entry[name] for name in FLAGS if name in entry}
    flags.setdefault("special", entry["content"] in names)
    return AddedToken(entry["content"], **flags)


def _text(token: Any) -> str | None:
    """The text of a special token, which may be an object with flags."""
    text = token.get("content") if isinstance(token, dict) else token
    return text if isinstance(text, str) else None
