"""M2M100's and Marian's tokenizers: sentencepiece's pieces, with ids of a vocabulary beside it.

A model of sentencepiece cuts texts into pieces, and vocab.json numbers them; what it lacks is the
unknown token. Marian has a model for each side, of which that of the source cuts texts; an answer's
vocabulary may be another than a text's. A text may begin with the language of its translation:
``>>deu<<``.

Source: transformers' ``M2M100Tokenizer`` and ``MarianTokenizer``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from tokenizers import AddedToken, Tokenizer, decoders, models

from atoll.errors import ConfigError
from atoll.text.languages import M2M100, WMT_21
from atoll.text.piece_encoder import PieceEncoder
from atoll.text.sentencepiece import Converted
from atoll.weights.json_fields import Fields

_SPACE = "\u2581"
_VOCABULARY, _TARGET_VOCABULARY = "vocab.json", "target_vocab.json"
_LANGUAGE_CODES = {"m2m100": M2M100, "wmt21": WMT_21}
# More spaces than begin any text.
_ALL = 1 << 30


class Family(NamedTuple):
    """A tokenizer class. model: the file that cuts texts. needed: further files. special: texts of
    special tokens by name. has_codes: whether a text may begin with a language.
    """

    model: str
    needed: tuple[str, ...]
    special: Mapping[str, str]
    has_codes: bool


_ENDS = {"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
_FAMILIES = {
    "M2M100Tokenizer": Family(
        "sentencepiece.bpe.model", (_VOCABULARY,),
        {**_ENDS, "bos_token": "<s>", "sep_token": "</s>"}, False,
    ),
    "MarianTokenizer": Family("source.spm", ("target.spm", _VOCABULARY), _ENDS, True),
}  # fmt: skip
_CLASSES = {"m2m_100": "M2M100Tokenizer", "marian": "MarianTokenizer"}


def load(
    folder: Path, config: Mapping[str, Any], model: Mapping[str, Any]
) -> tuple[Converted, PieceEncoder] | None:
    """What decodes and what encodes; None: it is no such folder, or lacks these files.

    Args:
        config: tokenizer_config.json. model: config.json.

    Raises:
        ConfigError: a file is damaged, or lacks a token; names it.
    """
    named = config.get("tokenizer_class") or model.get("tokenizer_class")
    name = str(named or _CLASSES.get(str(model.get("model_type")))).removesuffix("Fast")
    family = _FAMILIES.get(name)
    if family is None or not all((folder / n).exists() for n in (family.model, *family.needed)):
        return None
    fields = Fields(config, "tokenizer_config.json")
    special = {name: _named(config.get(name)) or text for name, text in family.special.items()}
    ids = answer_ids = _vocabulary(folder / _VOCABULARY)
    if family.has_codes and fields.flag("separate_vocabs", default=False, nullable=True):
        answer_ids = _vocabulary(folder / _TARGET_VOCABULARY)
    for text in special.values():
        for file, known in ((_VOCABULARY, ids), (_TARGET_VOCABULARY, answer_ids)):
            if text not in known:
                raise ConfigError(f"{folder / file} lacks {text!r}, a special token")
    core = Tokenizer(models.WordLevel(answer_ids, unk_token=special["unk_token"]))
    core.decoder = decoders.Sequence([
        decoders.Replace(_SPACE, " "), decoders.Fuse(), decoders.Strip(" ", left=_ALL),
    ])  # fmt: skip
    core.add_special_tokens([AddedToken(t, normalized=False) for t in {*special.values()}])
    if not family.has_codes:
        kind = fields.text("language_codes", default="m2m100", nullable=True)
        if kind not in _LANGUAGE_CODES:
            raise fields.wrong(f"one of {', '.join(_LANGUAGE_CODES)}", "language_codes")
        tokens = [f"__{code}__" for code in _LANGUAGE_CODES[kind]]
        core.add_special_tokens([AddedToken(token, normalized=False) for token in tokens])
        known = core.get_vocab()
        ids = {**ids, **{token: known[token] for token in tokens}}
    encoder = PieceEncoder(
        _model(folder / family.model), core, ids, ids[special["unk_token"]],
        special["eos_token"], family.has_codes,
    )  # fmt: skip
    return Converted(core, special), encoder


def _named(token: Any) -> str | None:
    """The text of a special token, which may be an object with flags."""
    return token.get("content") if isinstance(token, Mapping) else token


def _vocabulary(path: Path) -> dict[str, int]:
    """Raises ConfigError: it is missing, or does not number its tokens from 0 on."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error
    if not isinstance(found, dict) or any(type(index) is not int for index in found.values()):
        raise ConfigError(f"{path}: expected an object of tokens and their ids")
    if sorted(found.values()) != list(range(len(found))):
        raise ConfigError(f"{path}: expected ids from 0 to {len(found) - 1}, each of one token")
    return found


def _model(path: Path) -> Any:
    """Raises ConfigError: it is no model of sentencepiece."""
    import sentencepiece

    try:
        return sentencepiece.SentencePieceProcessor(model_proto=path.read_bytes())
    except (OSError, RuntimeError) as error:
        raise ConfigError(f"{path}: is no sentencepiece model ({error})") from error
