"""A checkpoint's tokenizer: the Rust object, and what the JSON files add to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as RustTokenizer
from tokenizers import normalizers

from atoll.errors import ConfigError
from atoll.text import tokenizer_files
from atoll.text.clean_up import clean_up, is_wanted
from atoll.text.languages import Languages
from atoll.text.model_quirks import TextRule, complete, text_rule
from atoll.text.piece_encoder import PieceEncoder
from atoll.text.vocabulary import Vocabulary
from atoll.weights.json_fields import Fields
from atoll.weights.modules import (
    SENTENCE_FILE,
    read_object,
    sentence_config,
    tokenizer_config,
    transformer_folder,
)
from atoll.weights.text_part import text_part


@dataclass(frozen=True)
class Tokenizer:
    """The tokenizer of one checkpoint folder.

    config: tokenizer_config.json. special_tokens: texts by name (``bos_token``, ...).
    eos_token_ids: every id that ends a generated text. text_rule: the family's function for texts
    before they are tokenized, see ``model_quirks``. truncation_side: "left" if the end of a text
    that is too long is kept. languages: of a translator. pieces: what makes tokens of texts, if not
    ``core``.
    """

    core: RustTokenizer
    config: Mapping[str, Any]
    special_tokens: Mapping[str, str]
    eos_token_ids: frozenset[int]
    text_rule: TextRule | None = None
    truncation_side: str = "right"
    languages: Languages | None = None
    pieces: PieceEncoder | None = None

    @classmethod
    def load(cls, folder: Path) -> Tokenizer:
        """Raises ConfigError: the folder has no readable tokenizer."""
        sentence = Fields(sentence_config(folder), SENTENCE_FILE)
        is_lower_case = sentence.flag("do_lower_case", default=False, nullable=True)
        config = tokenizer_config(folder)
        folder = transformer_folder(folder)
        model = text_part(read_object(folder / "config.json"))
        core, texts, pieces = tokenizer_files.load(folder, config, model)
        complete(core, model.get("architectures"))
        side = _truncation_side(folder, config, core)
        core.no_truncation()
        core.no_padding()
        if is_lower_case:
            _lower(core)
        eos_token_ids = _eos_token_ids(folder, model, core, texts)
        own = None if pieces is None else pieces.ids
        languages = Languages.read(core, config, model, texts.get("eos_token", "</s>"), own)
        if languages is not None and pieces is None:
            languages.frame_texts(core)
        return cls(core, config, texts, eos_token_ids, text_rule(core), side, languages, pieces)

    @property
    def vocab_size(self) -> int:
        """Entries, added tokens included; a model's vocabulary may be padded beyond it."""
        return int(self.core.get_vocab_size(with_added_tokens=True))

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """Token ids of one text."""
        text = text if self.text_rule is None else self.text_rule(text)
        return list(self.encoding(text, add_special_tokens).ids)

    def encoding(self, text: str, add_special_tokens: bool = True) -> Any:
        """The tokens of a text, with ids, tokens, offsets and special_tokens_mask."""
        if self.pieces is None:
            # encode_batch, even for one text: it releases the GIL, encode does not.
            return self.core.encode_batch([text], add_special_tokens=add_special_tokens)[0]
        if not add_special_tokens:
            return self.pieces.encode(text)
        languages = self.languages
        source = None if languages is None else languages.source
        ids = [] if languages is None or source is None else [languages.ids[source]]
        return self.pieces.encode(
            text, [str(self.core.id_to_token(i)) for i in ids], [self.pieces.end]
        )

    def shares(
        self, text: str, add_special_tokens: bool = True
    ) -> tuple[list[int], list[str]] | None:
        """Token ids, and each token's part of the text; the parts add up to the text.

        Tokens added to the text have no part in it. None: the text itself is changed before it is
        tokenized.
        """
        if self.text_rule is not None:
            return None
        encoding = self.encoding(text, add_special_tokens)
        return list(encoding.ids), _shares(text, encoding)

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        """The text of token ids."""
        text = str(self.core.decode(list(ids), skip_special_tokens=skip_special_tokens))
        text = text.rstrip() if self.trims else text
        return clean_up(text) if self.cleans_up else text

    @property
    def trims(self) -> bool:
        """Whether a text loses the spaces at its end, as in transformers' tokenizers in Python."""
        return self.pieces is not None

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """The tokenizer's individual tokens."""
        return Vocabulary(self.core)

    @cached_property
    def cleans_up(self) -> bool:
        """Whether ``clean_up`` removes spaces from decoded texts."""
        return is_wanted(self.config, self.core)


def _shares(text: str, encoding: Any) -> list[str]:
    """Splits ``text`` by the tokens' offsets; text between two tokens goes with the second.

    A character that is spread over tokens belongs to the last of them.
    """
    own = [i for i, added in enumerate(encoding.special_tokens_mask) if not added]
    starts = [encoding.offsets[i][0] for i in own[1:]]
    found, at = [""] * len(encoding.ids), 0
    for index, next_start in zip(own, [*starts, None], strict=False):
        end = len(text) if next_start is None else min(encoding.offsets[index][1], next_start)
        found[index] = text[at:end]
        at = max(at, end)
    return found


def _lower(core: RustTokenizer) -> None:
    """Applies sentence-transformers' ``do_lower_case``, whatever tokenizer.json does."""
    own = core.normalizer
    after = [] if own is None else [own]
    core.normalizer = normalizers.Sequence([normalizers.Lowercase(), *after])


def _truncation_side(folder: Path, config: Mapping[str, Any], core: RustTokenizer) -> str:
    """tokenizer_config.json's, or else that of tokenizer.json's truncation, as in transformers."""
    own = core.truncation or {}
    given = config.get("truncation_side")
    side = own.get("direction", "right") if given is None else given
    if side not in ("left", "right"):
        raise ConfigError(
            f"{folder / 'tokenizer_config.json'}: truncation_side is {side!r}; "
            "expected left or right"
        )
    return str(side)


# Defaults that transformers writes, for a smaller vocabulary: GPT-2's, and CLIP's for SigLIP.
_WRITTEN_ENDS = {50256, 49407}
# Harmony's answers end with the first; its calls with the second, which not every file names.
_HARMONY_ENDS = ("<|return|>", "<|call|>")


def _eos_token_ids(
    folder: Path, model: Mapping[str, Any], core: RustTokenizer, special_tokens: Mapping[str, str]
) -> frozenset[int]:
    """What ends a text by the files, and the end of Harmony's calls."""
    found = _named_eos_token_ids(folder, model, core, special_tokens)
    answer, call = map(core.token_to_id, _HARMONY_ENDS)
    return found | {call} if call is not None and answer in found else found


def _named_eos_token_ids(
    folder: Path, model: Mapping[str, Any], core: RustTokenizer, special_tokens: Mapping[str, str]
) -> frozenset[int]:
    """generation_config.json's, or else config.json's, or else the tokenizer's own."""
    generation = read_object(folder / "generation_config.json")
    size = model.get("vocab_size")
    for name, source in (("generation_config.json", generation), ("config.json", model)):
        value = source.get("eos_token_id")
        ids = value if isinstance(value, list) else [] if value is None else [value]
        if not all(type(index) is int for index in ids):
            raise ConfigError(f"{folder / name}: eos_token_id is {value!r}; expected token ids")
        is_known = isinstance(size, int) and size > 0
        found = frozenset(i for i in ids if i >= 0 and not (is_known and i >= size))
        if set(ids) - found - _WRITTEN_ENDS:
            raise ConfigError(
                f"{folder / name}: eos_token_id is {value!r}; the vocabulary has {size} tokens"
            )
        if found:
            return found
    eos = core.token_to_id(special_tokens.get("eos_token", ""))
    return frozenset() if eos is None else frozenset([eos])
