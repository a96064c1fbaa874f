"""The languages of a translator: codes that requests name, their tokens, and how a text is framed.

NLLB, M2M100, mBART and mBART-50 have a token for each language. That of the source is part of the
encoder's input; that of the target is the first of the answer, or, of mBART, what the decoder
starts with. Marian's texts begin with the target's, if there are several. Source: transformers'
tokenizer classes of these names.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from tokenizers import Tokenizer as RustTokenizer
from tokenizers import processors

from atoll.errors import ConfigError, ValidationError
from atoll.weights.json_fields import Fields

_FIRST = """
ar_AR cs_CZ de_DE en_XX es_XX et_EE fi_FI fr_XX gu_IN hi_IN it_IT ja_XX kk_KZ ko_KR lt_LT lv_LV
my_MM ne_NP nl_XX ro_RO ru_RU si_LK tr_TR vi_VN zh_CN
"""
_FURTHER = """
af_ZA az_AZ bn_IN fa_IR he_IL hr_HR id_ID ka_GE km_KH mk_MK ml_IN mn_MN mr_IN pl_PL ps_AF pt_XX
sv_SE sw_KE ta_IN te_IN th_TH tl_XX uk_UA ur_PK xh_ZA gl_ES sl_SI
"""
_MANY = """
af am ar ast az ba be bg bn br bs ca ceb cs cy da de el en es et fa ff fi fr fy ga gd gl gu ha he
hi hr ht hu hy id ig ilo is it ja jv ka kk km kn ko lb lg ln lo lt lv mg mk ml mn mr ms my ne nl no
ns oc or pa pl ps pt ro ru sd si sk sl so sq sr ss su sv sw ta th tl tn tr uk ur uz vi wo xh yi yo
zh zu
"""
# In the order of their ids, of tokenizers without tokenizer.json.
MBART = tuple(_FIRST.split())
MBART_50 = (*MBART, *_FURTHER.split())
M2M100 = tuple(_MANY.split())
WMT_21 = ("en", "ha", "is", "ja", "cs", "ru", "zh", "de")
_NUM_SHOWN = 4


class _Kind(NamedTuple):
    """A tokenizer class. pattern: of its language tokens, with the code as group. source: the
    default; None: a text has the token of the target in front, or none. is_behind: the source's
    token ends the text. starts: the decoder starts with the target's.
    """

    pattern: str
    source: str | None
    is_behind: bool = False
    starts: bool = False


_KINDS = {
    "NllbTokenizer": _Kind(r"([a-z]{3}_[A-Z][a-z]{3})", "eng_Latn"),
    "M2M100Tokenizer": _Kind(r"__([a-z]{2,3})__", "en"),
    "MBart50Tokenizer": _Kind(r"([a-z]{2}_[A-Z]{2})", "en_XX"),
    "MBartTokenizer": _Kind(r"([a-z]{2}_[A-Z]{2})", "en_XX", is_behind=True, starts=True),
    "MarianTokenizer": _Kind(r">>(.+)<<", None),
}
# model_type -> class, if no file names one.
_CLASSES = {
    "m2m_100": "M2M100Tokenizer", "mbart": "MBartTokenizer", "marian": "MarianTokenizer",
}  # fmt: skip


@dataclass(frozen=True)
class Languages:
    """ids: the token of each code. end: the token that ends a text. source: the code of texts
    whose request names none; None: a text has the token of the target in front, or none.
    is_behind, starts: see ``_Kind``.
    """

    ids: Mapping[str, int]
    end: int
    source: str | None
    is_behind: bool
    starts: bool

    @classmethod
    def read(
        cls, core: RustTokenizer, config: Mapping[str, Any], model: Mapping[str, Any], end: str,
        vocabulary: Mapping[str, int] | None = None,
    ) -> Languages | None:  # fmt: skip
        """The languages of a tokenizer; None: it has none.

        Args:
            config: tokenizer_config.json. model: config.json. end: the text of eos_token.
            vocabulary: of texts, where it is another than ``core``'s, an answer's.

        Raises:
            ConfigError: the vocabulary lacks what the class frames texts with; names it.
        """
        named = config.get("tokenizer_class") or model.get("tokenizer_class")
        name = str(named or _CLASSES.get(str(model.get("model_type")))).removesuffix("Fast")
        if name not in _KINDS:
            return None
        kind = _KINDS[name]
        tokens = {token.content: i for i, token in core.get_added_tokens_decoder().items()}
        tokens = tokens if kind.source is not None or vocabulary is None else dict(vocabulary)
        matches = ((re.fullmatch(kind.pattern, text), index) for text, index in tokens.items())
        ids = {match[1]: index for match, index in matches if match is not None}
        if not ids and (kind.source is None or not named):
            return None
        if kind.source is None and vocabulary is not None:
            return cls(ids, vocabulary[end], None, kind.is_behind, kind.starts)
        fields, end_id = Fields(config, "tokenizer_config.json"), core.token_to_id(end)
        source = fields.text("src_lang", default=kind.source, nullable=True)
        if source not in ids or end_id is None:
            raise ConfigError(
                f"tokenizer_config.json: src_lang is {source!r} and eos_token {end!r}; of the "
                f"tokenizer's {len(ids)} languages the first are "
                f"{', '.join(sorted(ids)[:_NUM_SHOWN])}"
            )
        # NLLB's first release had it where mBART has it.
        is_old = name == "NllbTokenizer" and fields.flag(
            "legacy_behaviour", default=False, nullable=True
        )
        return cls(ids, end_id, source, kind.is_behind or is_old, kind.starts)

    def id_of(self, name: str, code: str) -> int:
        """The token of the language that a request calls ``code`` in its field ``name``.

        Raises:
            ValidationError: there is none; tells how many there are, and codes that are alike.
        """
        if code in self.ids:
            return self.ids[code]
        begin = [known for known in sorted(self.ids) if known[:2] == code[:2].lower()]
        alike = difflib.get_close_matches(code, self.ids, _NUM_SHOWN)
        near = list(dict.fromkeys((*alike, *begin)))[:_NUM_SHOWN]
        shown = f"near it: {', '.join(near)}" if near else f"one is {self.source or min(self.ids)}"
        raise ValidationError(
            f"{name} is {code!r}, which is none of the model's {len(self.ids)} languages; {shown}"
        )

    def framed(self, ids: Sequence[int], source: int) -> list[int]:
        """A text's ids with the token of its language, and the one that ends it."""
        return [*ids, self.end, source] if self.is_behind else [source, *ids, self.end]

    def frame_texts(self, core: RustTokenizer) -> None:
        """Has a tokenizer frame texts as transformers does where no language is named."""
        assert self.source is not None, "a text begins with the target, if with any"
        end, source = (str(core.id_to_token(i)) for i in (self.end, self.ids[self.source]))
        around = ["$A", end, source] if self.is_behind else [source, "$A", end]
        pair = [part for one in around for part in ((one, "$B") if one == "$A" else (one,))]
        core.post_processor = processors.TemplateProcessing(
            single=around, pair=pair,
            special_tokens=[(end, self.end), (source, self.ids[self.source])],
        )  # fmt: skip
