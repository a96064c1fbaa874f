"""A sentencepiece model file as a Rust tokenizer, for folders without tokenizer.json.

Produces the same ids as the sentencepiece library, with the special tokens that T5, Llama, XLM-R
and CamemBERT add. It parses the fields of the file format that affect ids, so that neither
sentencepiece nor protobuf is needed, whose versions often conflict.

Source: sentencepiece_model.proto and normalizer.cc of google/sentencepiece; the special tokens are
those of transformers' convert_slow_tokenizer.py.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
)

from atoll.errors import ConfigError
from atoll.text.languages import MBART, MBART_50
from atoll.text.siglip_texts import canonical
from atoll.weights.json_fields import Fields

_SPACE = "\u2581"
_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _UNUSED, _BYTE = 1, 2, 3, 4, 5, 6
_BPE = 2
# Errors raised by parsing a file with other contents.
_BROKEN = (OSError, ValueError, LookupError, struct.error, AttributeError, TypeError)
# A family by its tokenizer class (without "Fast"), or by its model_type.
_FAMILIES: Mapping[str, str] = {
    "T5Tokenizer": "t5", "MT5Tokenizer": "t5", "t5": "t5", "mt5": "t5",
    "LlamaTokenizer": "llama", "CodeLlamaTokenizer": "llama",
    "llama": "llama", "mistral": "llama", "mixtral": "llama",
    "XLMRobertaTokenizer": "xlm-roberta", "xlm-roberta": "xlm-roberta",
    "CamembertTokenizer": "camembert", "camembert": "camembert", "SiglipTokenizer": "siglip",
    "MBartTokenizer": "mbart", "MBart50Tokenizer": "mbart-50", "mbart": "mbart",
}  # fmt: skip
# Families whose ids are fairseq's, and the tokens of languages behind the file's pieces.
_FAIRSEQ = {"xlm-roberta": (), "camembert": (), "mbart": MBART, "mbart-50": MBART_50}


class Piece(NamedTuple):
    """A token of the file; ``kind`` is one of the format's numbers above."""

    text: str
    score: float
    kind: int


class Converted(NamedTuple):
    """A tokenizer, and the texts of its special tokens by name."""

    core: Tokenizer
    special_tokens: dict[str, str]


@dataclass
class _Model:
    """The fields of ModelProto that affect ids, with the format's defaults."""

    pieces: list[Piece] = field(default_factory=list)
    is_bpe: bool = False
    byte_fallback: bool = False
    special_ids: dict[str, int] = field(
        default_factory=lambda: {"unk_token": 0, "bos_token": 1, "eos_token": 2, "pad_token": -1}
    )
    character_map: bytes = b""
    adds_prefix: bool = True
    removes_extra_spaces: bool = True


def family(tokenizer_class: str | None, model_type: str | None) -> str | None:
    """The family that determines a checkpoint's special tokens; None: unknown."""
    by_class = _FAMILIES.get(str(tokenizer_class).removesuffix("Fast"))
    return by_class or _FAMILIES.get(str(model_type))


def convert(path: Path, kind: str, config: Mapping[str, Any]) -> Converted:
    """The tokenizer of a model file.

    Args:
        kind: the result of ``family``.
        config: tokenizer_config.json.

    Raises:
        ConfigError: the file is not a sentencepiece model with BPE or unigrams.
    """
    model, fields = _read(path), Fields(config, "tokenizer_config.json")
    special = {
        name: model.pieces[index].text
        for name, index in model.special_ids.items()
        if 0 <= index < len(model.pieces)
    }
    pieces, unk_id = list(model.pieces), model.special_ids["unk_token"]
    if kind == "t5":
        count = fields.count("extra_ids", default=100, most=1 << 16)
        pieces += [Piece(f"<extra_id_{i}>", 0.0, _CONTROL) for i in reversed(range(count))]
    elif kind in _FAIRSEQ:
        pieces, unk_id = _shifted(kind, model.pieces), 3
        special = {f"{n}_token": f"<{n}>" for n in ("pad", "unk", "mask")}
        special.update(bos_token="<s>", cls_token="<s>", eos_token="</s>", sep_token="</s>")
    legacy = fields.flag("legacy", default=True, nullable=True)
    try:
        core = _assemble(model, pieces, unk_id, legacy=legacy)
    except Exception as error:
        raise ConfigError(f"{path}: makes no tokenizer: {error}") from error
    if kind == "siglip":
        special["pad_token"] = special.get("eos_token", "</s>")  # its class's default
        core.normalizer = canonical(core.normalizer, fields.flag("do_lower_case", default=True))
    core.post_processor = _template(kind, core, special, fields)
    return Converted(core, special)


def _shifted(kind: str, pieces: list[Piece]) -> list[Piece]:
    """fairseq's order: special tokens before the file's pieces, languages and a mask after them."""
    names: tuple[str, ...]
    if kind == "camembert":
        names = ("<s>NOTUSED", "<pad>", "</s>NOTUSED", "<unk>", "<unk>NOTUSED")
        # The file's own unknown token is the last of these names; its <s> and </s> remain in use.
        rest = pieces[1:]
    else:
        names, rest = ("<s>", "<pad>", "</s>", "<unk>"), pieces[3:]
    first = [
        Piece(name, -100.0, _UNUSED) if name.endswith("NOTUSED") else Piece(name, 0.0, _CONTROL)
        for name in names
    ]
    return [*first, *rest, *(Piece(name, 0.0, _CONTROL) for name in (*_FAIRSEQ[kind], "<mask>"))]


def _assemble(model: _Model, pieces: list[Piece], unk_id: int, legacy: bool) -> Tokenizer:
    """legacy: every part between special tokens gets the space that sentencepiece prepends."""
    own = [piece.text for piece in pieces if piece.kind == _USER_DEFINED]
    if model.is_bpe:
        vocab = {piece.text: index for index, piece in enumerate(pieces)}
        core = Tokenizer(models.BPE(
            vocab, _merges(pieces), unk_token=pieces[unk_id].text, fuse_unk=True,
            byte_fallback=model.byte_fallback, ignore_merges=bool(own),
        ))  # fmt: skip
    else:
        scores = [(piece.text, piece.score) for piece in pieces]
        core = Tokenizer(models.Unigram(scores, unk_id, byte_fallback=model.byte_fallback))
    core.normalizer = _normalizer(model, prefix=model.adds_prefix and legacy)
    splits: list[Any] = []
    if model.adds_prefix and not legacy:
        splits.append(pre_tokenizers.Metaspace(_SPACE, prepend_scheme="first", split=False))
    if own:
        # Matched after normalization, longest first, and never split further.
        pattern = "|".join(re.escape(text) for text in sorted(own, key=len, reverse=True))
        splits.append(pre_tokenizers.Split(Regex(pattern), "isolated"))
    if splits:
        core.pre_tokenizer = pre_tokenizers.Sequence(splits)
    parts: list[Any] = [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    if model.adds_prefix:
        parts.append(decoders.Strip(" ", left=1))
    core.decoder = decoders.Sequence(parts)
    control = [piece.text for piece in pieces if piece.kind == _CONTROL]
    core.add_special_tokens([AddedToken(t, normalized=False) for t in control])
    return core


def _normalizer(model: _Model, prefix: bool) -> Any:
    steps: list[Any] = []
    if model.character_map:
        steps.append(normalizers.Precompiled(model.character_map))
    if model.removes_extra_spaces:
        steps.append(normalizers.Replace(Regex(r"\A +| +\z"), ""))
        steps.append(normalizers.Replace(Regex(" {2,}"), " "))
    if prefix:
        steps.append(normalizers.Prepend(_SPACE))
    return normalizers.Sequence([*steps, normalizers.Replace(" ", _SPACE)])


def _merges(pieces: list[Piece]) -> list[tuple[str, str]]:
    """Every way to build every piece: sentencepiece merges the pair whose result scores best."""
    normal = {p.text: (-p.score, index) for index, p in enumerate(pieces) if p.kind == _NORMAL}
    found = [
        (rank, normal[text[:cut]][1], normal[text[cut:]][1], text[:cut], text[cut:])
        for text, rank in normal.items()
        for cut in range(1, len(text))
        if text[:cut] in normal and text[cut:] in normal
    ]
    return [(left, right) for *_, left, right in sorted(found)]


def _template(kind: str, core: Tokenizer, special: Mapping[str, str], config: Fields) -> Any:
    """The special tokens around a text."""
    bos, eos = ([special[name]] if name in special else [] for name in ("bos_token", "eos_token"))
    single, pair = [*bos, "$A", *eos], [*bos, "$A", *eos, *eos, "$B", *eos]
    if kind in ("t5", "siglip"):
        bos, single, pair = [], ["$A", *eos], ["$A", *eos, "$B", *eos]
    elif kind == "llama":
        bos = bos if config.flag("add_bos_token", default=True, nullable=True) else []
        eos = eos if config.flag("add_eos_token", default=False, nullable=True) else []
        single, pair = [*bos, "$A", *eos], [*bos, "$A", *eos, *bos, "$B", *eos]
    used = [(text, core.token_to_id(text)) for text in {*bos, *eos}]
    return processors.TemplateProcessing(single=single, pair=pair, special_tokens=used)


def _read(path: Path) -> _Model:
    model, kind = _Model(), 1
    parts: set[int] = set()
    try:
        for number, value in _fields(path.read_bytes()):
            parts.add(number)
            if number == 1:
                model.pieces.append(_piece(value))
            elif number == 2:
                trainer = dict(_fields(value))
                kind = trainer.get(3, kind)
                model.byte_fallback = bool(trainer.get(35, False))
                for name, key in (("unk", 40), ("bos", 41), ("eos", 42), ("pad", 43)):
                    default = model.special_ids[f"{name}_token"]
                    model.special_ids[f"{name}_token"] = _signed(trainer.get(key, default))
            elif number == 3:
                normalizer = dict(_fields(value))
                model.character_map = normalizer.get(2, b"")
                model.adds_prefix = bool(normalizer.get(3, True))
                model.removes_extra_spaces = bool(normalizer.get(4, True))
    except _BROKEN as error:
        what = f"{type(error).__name__}: {error}"
        raise ConfigError(f"{path}: is no sentencepiece model ({what})") from error
    if not model.pieces or kind not in (1, _BPE):
        raise ConfigError(f"{path}: is no sentencepiece model of BPE or unigrams")
    # They come last: a file without them was cut off between two pieces.
    reason = "it ends early" if not {2, 3} <= parts else _flaw(model)
    if reason is not None:
        raise ConfigError(f"{path}: is a damaged sentencepiece model: {reason}")
    model.is_bpe = kind == _BPE
    return model


def _flaw(model: _Model) -> str | None:
    """Why the sentencepiece library would refuse the pieces."""
    seen: set[str] = set()
    for index, piece in enumerate(model.pieces):
        if not piece.text or piece.text in seen:
            return f"piece {index}, {piece.text!r}, is empty or there twice"
        if piece.kind not in range(_NORMAL, _BYTE + 1) or not math.isfinite(piece.score):
            return f"piece {index}, {piece.text!r}, has kind {piece.kind} and score {piece.score}"
        seen.add(piece.text)
    unknown = [index for index, piece in enumerate(model.pieces) if piece.kind == _UNKNOWN]
    if unknown != [model.special_ids["unk_token"]]:
        return f"the unknown pieces are {unknown}; unk_id is {model.special_ids['unk_token']}"
    num_bytes = sum(piece.kind == _BYTE for piece in model.pieces)
    if num_bytes != (256 if model.byte_fallback else 0):
        return f"{num_bytes} pieces are bytes; byte_fallback is {model.byte_fallback}"
    return None


def _piece(data: bytes) -> Piece:
    found = dict(_fields(data))
    (score,) = struct.unpack("<f", found.get(2, bytes(4)))
    return Piece(found[1].decode(), score, found.get(3, _NORMAL))


def _signed(value: int) -> int:
    return value - (1 << 64) if value >= 1 << 63 else value


def _fields(data: bytes) -> Iterator[tuple[int, Any]]:
    """The fields of a protobuf message: (number, an int or the bytes)."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        size = {1: 8, 5: 4}.get(key & 7)
        if key & 7 == 0:
            value, at = _varint(data, at)
            yield key >> 3, value
            continue
        if key & 7 == 2:
            size, at = _varint(data, at)
        if size is None or at + size > len(data):
            raise ValueError(f"byte {at} begins no field")
        yield key >> 3, data[at : at + size]
        at += size


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value, at = value | (byte & 127) << shift, at + 1
        if byte < 128:
            return value, at
        shift += 7
        if shift > 63:
            raise ValueError(f"byte {at} goes on with a number of more than 64 bits")
