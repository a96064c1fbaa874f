"""Keys of tokenizer_config.json that override tokenizer.json, by transformers' rules.

transformers gives a fast tokenizer the class named by tokenizer_config.json or by the family, and
some classes set parts of it from the keys, or from their own defaults, whatever the file says. The
parts that both versions 4 and 5 set are set here. Parts that only version 5 rebuilds (Llama's,
T5's, XLM-R's from their vocabularies) are taken from the file, which has what the models were
trained with; ``add_bos_token`` and ``add_eos_token`` have no effect next to the file, but with the
code of gte-Qwen2.

Source: transformers' tokenization classes and ``PreTrainedTokenizerBase._from_pretrained``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from tokenizers import Tokenizer, models, pre_tokenizers, processors

from atoll.errors import ConfigError
from atoll.text import mistral_split

Json = Mapping[str, Any]

# model_type -> class, if no file names one.
_CLASSES = {
    "bert": "BertTokenizer", "camembert": "CamembertTokenizer", "data2vec-text": "RobertaTokenizer",
    "distilbert": "DistilBertTokenizer", "dpr": "BertTokenizer", "electra": "ElectraTokenizer",
    "ernie": "BertTokenizer",
    "gpt2": "GPT2Tokenizer", "gpt_neox": "GPTNeoXTokenizer", "llama": "LlamaTokenizer",
    "mpnet": "MPNetTokenizer", "mpt": "GPTNeoXTokenizer", "opt": "GPT2Tokenizer",
    "phi": "GPT2Tokenizer", "roberta": "RobertaTokenizer", "xlm-roberta": "XLMRobertaTokenizer",
}  # fmt: skip
# Subclasses by another name.
_SAME = {
    f"DPR{kind}Tokenizer": "BertTokenizer"
    for kind in ("QuestionEncoder", "ContextEncoder", "Reader")
}
# Families whose tokenizer.json is used as it is, whatever class tokenizer_config.json names.
_AS_THEY_ARE = ("bloom", "falcon", "gpt_bigcode", "RefinedWeb", "RefinedWebModel")
# Those that frame texts as BERT does, and all that find words as it does.
_BERT_FRAMES = ("BertTokenizer", "DistilBertTokenizer", "ElectraTokenizer")
_BERT = (*_BERT_FRAMES, "MPNetTokenizer")
_BYTE_LEVEL = ("CodeGenTokenizer", "GPT2Tokenizer", "GPTNeoXTokenizer", "RobertaTokenizer")
_METASPACE = ("CamembertTokenizer", "CodeLlamaTokenizer", "LlamaTokenizer", "XLMRobertaTokenizer")
# The tokens that begin and end a text, by class.
_FRAMES = {
    **dict.fromkeys(_BERT, ("cls_token", "sep_token")),
    "RobertaTokenizer": ("cls_token", "sep_token"),
    "XLMRobertaTokenizer": ("bos_token", "eos_token"),
    "CamembertTokenizer": ("bos_token", "eos_token"),
}
# Special tokens that a class has even if no file names them.
_BERT_NAMES = {"unk": "[UNK]", "sep": "[SEP]", "pad": "[PAD]", "cls": "[CLS]", "mask": "[MASK]"}
_ROBERTA_NAMES = {"bos": "<s>", "eos": "</s>", "sep": "</s>", "cls": "<s>", "unk": "<unk>",
                  "pad": "<pad>", "mask": "<mask>"}  # fmt: skip
_NAMES = {
    **dict.fromkeys(_BERT_FRAMES, _BERT_NAMES),
    "MPNetTokenizer": _ROBERTA_NAMES | {"unk": "[UNK]"},
    **dict.fromkeys(("RobertaTokenizer", "XLMRobertaTokenizer", "CamembertTokenizer"),
                    _ROBERTA_NAMES),
}  # fmt: skip
# The code of gte-Qwen2's repositories, which differs from Qwen2's in that it ends texts.
_GTE_QWEN2 = "tokenization_qwen.Qwen2Tokenizer"
_GENERIC = ("PreTrainedTokenizer", "PreTrainedTokenizerFast", "TokenizersBackend")


def class_of(config: Json, model: Json) -> str:
    """The tokenizer's class without "Fast"; "" if it uses the file as it is.

    Args:
        config: tokenizer_config.json.
        model: config.json.
    """
    model_type = str(model.get("model_type"))
    if model_type in _AS_THEY_ARE:
        return ""
    named = config.get("tokenizer_class") or model.get("tokenizer_class")
    name = str(named or _CLASSES.get(model_type, "")).removesuffix("Fast")
    name = _SAME.get(name, name)
    return "" if name in _GENERIC else name


def default_names(core: Tokenizer, config: Json, model: Json) -> dict[str, str]:
    """Special tokens of the tokenizer's class by name (``mask_token``), if its vocabulary has
    them."""
    names = _NAMES.get(class_of(config, model), {})
    return {f"{k}_token": v for k, v in names.items() if core.token_to_id(v) is not None}


def apply(core: Tokenizer, config: Json, model: Json, special: Mapping[str, str]) -> None:
    """Changes ``core``, which was read from tokenizer.json.

    Args:
        special: texts of special tokens by name, as the files beside it say.

    Raises:
        ConfigError: a key has a value of the wrong type or asks for something the file does not
            support, or the tokenizer is the checkpoint's own code; names it.
    """
    kind = class_of(config, model)
    if _GTE_QWEN2 in str(_own_code(config)):
        if _flag(config, "add_eos_token", False):
            _append_end(core, special)
    else:
        _refuse_code(config, kind)
    if _flag(config, "split_special_tokens", False):
        core.encode_special_tokens = True
    if kind in _BERT:
        _normalize_as_bert(core, config)
        _check_unknown(core, special.get("unk_token"))
    elif kind in _BYTE_LEVEL:
        _prefix_bytes(core, bool(_flag(config, "add_prefix_space", False)))
    elif kind in _METASPACE and _flag(config, "add_prefix_space", None) is False:
        _remove_prefix(core)
    if kind in _FRAMES:
        _frame(core, kind, special)
    _split_as_mistral(core, config, model)


def _flag(config: Json, name: str, default: bool | None) -> bool | None:
    value = config.get(name)
    if value is not None and not isinstance(value, bool):
        raise ConfigError(f"tokenizer_config.json: {name} is {value!r}; expected true or false")
    return default if value is None else value


def _own_code(config: Json) -> Any:
    """What tokenizer_config.json names as the tokenizer's code, if it is the checkpoint's own."""
    named = config.get("auto_map")
    return named.get("AutoTokenizer") if isinstance(named, dict) else named


def _append_end(core: Tokenizer, special: Mapping[str, str]) -> None:
    """Ends every text with eos_token, unless tokenizer.json does.

    Raises:
        ConfigError: there is none; names the key.
    """
    end = special.get("eos_token", "")
    index = core.token_to_id(end)
    if index is None:
        raise ConfigError(f"tokenizer_config.json: add_eos_token is true, and eos_token is {end!r}")
    if core.encode("").ids[-1:] == [index]:
        return
    template = processors.TemplateProcessing(
        single=f"$A {end}", pair=f"$A {end} $B:1 {end}:1", special_tokens=[(end, index)]
    )
    own = core.post_processor
    core.post_processor = template if own is None else processors.Sequence([own, template])


def _refuse_code(config: Json, kind: str) -> None:
    code = _own_code(config)
    known = (*_BERT, *_BYTE_LEVEL, *_METASPACE, "T5Tokenizer")
    is_generic = str(config.get("tokenizer_class")) in _GENERIC
    if code and not is_generic and kind not in known:
        raise ConfigError(
            f"tokenizer_config.json: auto_map names the tokenizer {code}, code of the "
            "checkpoint's own, which is never run"
        )


def _normalize_as_bert(core: Tokenizer, config: Json) -> None:
    """Applies ``do_lower_case`` and similar keys, or their defaults, instead of the file's."""
    lowercase = _flag(config, "do_lower_case", True)
    accents = _flag(config, "strip_accents", None)
    chinese = _flag(config, "tokenize_chinese_chars", True)

    def changed(state: dict[str, Any]) -> dict[str, Any]:
        if state.get("type") != "BertNormalizer":
            return state
        return {
            **state, "lowercase": lowercase, "strip_accents": accents,
            "handle_chinese_chars": chinese,
        }  # fmt: skip

    _rewrite(core, "normalizer", changed)


def _check_unknown(core: Tokenizer, named: str | None) -> None:
    """The unknown token: version 4 uses the file's, version 5 the named one."""
    own = getattr(core.model, "unk_token", None)
    if isinstance(core.model, models.WordPiece) and named is not None and named != own:
        raise ConfigError(
            f"tokenizer.json: model.unk_token is {own!r}, but the tokenizer's class or the files "
            f"beside it say unk_token {named!r}, and transformers' versions differ on which holds: "
            "make them the same"
        )


def _prefix_bytes(core: Tokenizer, is_prefixed: bool) -> None:
    """Only if the pre-tokenizer is purely byte-level: a sequence of steps is left unchanged."""
    state = _state(core)["pre_tokenizer"]
    if state is not None and state.get("type") == "ByteLevel":
        core.pre_tokenizer = pre_tokenizers.ByteLevel(
            add_prefix_space=is_prefixed,
            trim_offsets=state.get("trim_offsets", True),
            use_regex=state.get("use_regex", True),
        )


def _remove_prefix(core: Tokenizer) -> None:
    """Removes the space in front of a text's first word."""

    def changed(state: dict[str, Any]) -> dict[str, Any]:
        if state.get("type") != "Metaspace":
            return state
        return {
            "type": "Metaspace", "replacement": state["replacement"], "prepend_scheme": "never",
            "split": state.get("split", True),
        }  # fmt: skip

    _rewrite(core, "pre_tokenizer", changed)
    _rewrite(core, "normalizer", lambda s: None if s.get("type") == "Prepend" else s)
    # Otherwise the decoder would drop a text's own first space as one that was added.
    _rewrite(core, "decoder", lambda s: None if s.get("type") == "Strip" else changed(s))


def _split_as_mistral(core: Tokenizer, config: Json, model: Json) -> None:
    """Corrects the split of older files of Mistral's byte-level tokenizers, if a key says so."""
    is_asked = _flag(config, mistral_split.KEY, None)
    if core.get_vocab_size() <= mistral_split.LARGEST_OTHER:
        return
    state = _state(core)["pre_tokenizer"]
    split = mistral_split.corrected(state, is_asked, model)
    if split is not None and state is not None:
        first = state["pretokenizers"][0]
        _rewrite(core, "pre_tokenizer", lambda step: split if step == first else step)


def _frame(core: Tokenizer, kind: str, special: Mapping[str, str]) -> None:
    """Sets the tokens around a text if the other files name different ones than tokenizer.json."""
    empty = core.encode("")
    around = [t for t, is_text in zip(empty.tokens, empty.attention_mask, strict=True) if is_text]
    first, last = (special.get(name) for name in _FRAMES[kind])
    if not around or first is None or last is None or (around[0], around[-1]) == (first, last):
        return
    ids = [(text, core.token_to_id(text)) for text in (first, last)]
    missing = [text for text, index in ids if index is None]
    if missing:
        raise ConfigError(f"tokenizer_config.json: the tokenizer has no tokens {missing}")
    between = last if kind in _BERT_FRAMES else f"{last} {last}"
    second = "$B:1" if kind in _BERT_FRAMES else "$B:0"
    end = f"{last}:1" if kind in _BERT_FRAMES else last
    core.post_processor = processors.TemplateProcessing(
        single=f"{first} $A {last}", pair=f"{first} $A {between} {second} {end}",
        special_tokens=ids,
    )  # fmt: skip


def _state(core: Tokenizer) -> dict[str, Any]:
    """All parts of a tokenizer as in its file, except the vocabulary.

    The library gives no access to the fields of a part.
    """
    parts = ("normalizer", "pre_tokenizer", "decoder")
    found = {name: getattr(core, name) for name in parts}
    return {
        name: None if part is None else json.loads(part.__getstate__())
        for name, part in found.items()
    }


def _rewrite(
    core: Tokenizer, part: str, change: Callable[[dict[str, Any]], dict[str, Any] | None]
) -> None:
    """Sets a part to its state after ``change``, which is applied to every step of a sequence."""
    state = _state(core)[part]
    if state is None:
        return
    steps = next((k for k in ("normalizers", "pretokenizers", "decoders") if k in state), None)
    if steps is None:
        after = change(state)
    else:
        after = {**state, steps: [s for step in state[steps] if (s := change(step)) is not None]}
    if after == state:
        return
    document = {"version": "1.0", "model": {"type": "BPE", "vocab": {}, "merges": []}, part: after}
    setattr(core, part, getattr(Tokenizer.from_str(json.dumps(document)), part))
