"""The tokenizer inside a GGUF file, in the hub's files.

transformers builds it; here are the splits of words that it does not know, what a file leaves to
llama.cpp's code, and refusals of what would be guessed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, pre_tokenizers, processors

from atoll.errors import UnsupportedModel, WeightError
from atoll.weights.gguf.encoder_tokenizer import BUILDERS, ENCODER_NAMES, encoder_template
from atoll.weights.gguf.file import INSTEAD
from atoll.weights.gguf.splits import DIGITS, GPT2, LLAMA3, SEQUENCES, WHOLE_WORDS

_PREFIX = "tokenizer.ggml."
_CONTROL, _USER_DEFINED = 3, 4
_NEEDED = {"gpt2": ("tokens", "merges"), "llama": ("tokens", "scores"), "t5": ("tokens", "scores")}
# Tokens that end a turn, which llama.cpp finds by their texts beside the ids that a file gives.
END_OF_TURN = (
    "<|eot_id|>", "<|im_end|>", "<|end|>", "<end_of_turn>", "<EOT>", "_<EOT>", "<|eom_id|>",
    "<｜end▁of▁sentence｜>", "<|return|>", "<|call|>", "<|END_OF_TURN_TOKEN|>", "<turn|>",
    "<end_of_utterance>",
)  # fmt: skip
# What is read, here or by transformers' table, and the tokens that fill gaps in code.
_READ = (
    "eot_token_id", "eom_token_id", "seperator_token_id", "mask_token_id", "token_type_count",
    "add_sep_token", "remove_extra_whitespaces", "prefix_token_id", "suffix_token_id",
    "middle_token_id", "fsep_token_id", "cls_token_id", "add_space_prefix",
    *(f"fim_{part}_token_id" for part in ("pre", "suf", "mid", "pad", "rep", "sep")),
)  # fmt: skip
_NAMES = {
    "bos_token": "bos_token_id", "eos_token": "eos_token_id", "unk_token": "unknown_token_id",
    "pad_token": "padding_token_id",
}  # fmt: skip


def build_tokenizer(
    metadata: Mapping[str, Any], architecture: str, source: str, is_encoder: bool = False
) -> Tokenizer:
    """A tokenizer with the file's vocabulary, merges and special tokens.

    Args:
        source: what to call the file in messages.
        is_encoder: whether texts get the tokens that an encoder's get, and pairs theirs.

    Raises:
        UnsupportedModel: another kind of vocabulary, or another split of words.
        WeightError: the file has no vocabulary or no merges.
    """
    from transformers.integrations.gguf import GGUF_TOKENIZER_MAPPING, convert_gguf_tokenizer

    _check(metadata, source)
    table = GGUF_TOKENIZER_MAPPING["tokenizer"]
    values = {
        name: metadata[f"tokenizer.{key}"]
        for key, name in table.items()
        if f"tokenizer.{key}" in metadata
    }
    kind = values["tokenizer_type"]
    try:
        if kind in BUILDERS:
            tokenizer = BUILDERS[kind](metadata)
        else:
            tokenizer, _ = convert_gguf_tokenizer(architecture, values)
        around = encoder_template(metadata) if is_encoder else _post_processor(metadata)
    except Exception as error:
        raise WeightError(f"{source}: its tokenizer cannot be built: {error}") from error
    assert isinstance(tokenizer, Tokenizer)
    if kind == "gpt2":
        _finish_byte_level(tokenizer, metadata.get(f"{_PREFIX}pre", "default"))
    elif not metadata.get(f"{_PREFIX}add_space_prefix", True):
        _drop_prefix(tokenizer)
    tokenizer.post_processor = around
    return tokenizer


def tokenizer_config(
    metadata: Mapping[str, Any], max_length: int, is_encoder: bool = False,
    num_segments: int | None = None,
) -> dict[str, Any]:  # fmt: skip
    """tokenizer_config.json: special tokens by their texts, and chat templates."""
    tokens = metadata[f"{_PREFIX}tokens"]
    names = {**_NAMES, **ENCODER_NAMES} if is_encoder else _NAMES
    ids = {name: metadata.get(f"{_PREFIX}{key}") for name, key in names.items()}
    config: dict[str, Any] = {
        name: tokens[index]
        for name, index in ids.items()
        if index is not None and 0 <= index < len(tokens)
    }
    template, start = metadata.get("tokenizer.chat_template"), "tokenizer.chat_template."
    named = {k.removeprefix(start): v for k, v in metadata.items() if k.startswith(start)}
    if template is not None and named:
        every = {"default": template, **named}
        config["chat_template"] = [{"name": n, "template": t} for n, t in every.items()]
    elif template is not None:
        config["chat_template"] = template
    if is_encoder and (num_segments or 1) == 1:
        config["model_input_names"] = ["input_ids", "attention_mask"]
    config["model_max_length"] = max_length
    config["clean_up_tokenization_spaces"] = False
    config["tokenizer_class"] = "PreTrainedTokenizerFast"
    return config


def end_ids(metadata: Mapping[str, Any]) -> list[int]:
    """Ids of all tokens that end an answer, the file's own first."""
    tokens = metadata[f"{_PREFIX}tokens"]
    kinds = metadata.get(f"{_PREFIX}token_type") or []
    found = [metadata.get(f"{_PREFIX}{name}_token_id") for name in ("eos", "eot", "eom")]
    found += [
        index
        for index, (token, kind) in enumerate(zip(tokens, kinds, strict=False))
        if kind in (_CONTROL, _USER_DEFINED) and token in END_OF_TURN
    ]
    return list(dict.fromkeys(int(index) for index in found if index is not None))


def _check(metadata: Mapping[str, Any], source: str) -> None:
    """Raises UnsupportedModel or WeightError: something of the tokenizer is not known."""
    from transformers.integrations.gguf import GGUF_TOKENIZER_MAPPING
    from transformers.integrations.gguf.gguf_tokenizer_mapping import (
        GGUF_PRE_TOKENIZER_SPLITS,
        GGUF_TOKENIZER_TYPES,
    )

    kind = metadata.get(f"{_PREFIX}model")
    split = metadata.get(f"{_PREFIX}pre", "default")
    splits = {*GGUF_PRE_TOKENIZER_SPLITS, *GPT2, *DIGITS, *LLAMA3, *SEQUENCES}
    kinds = sorted({*GGUF_TOKENIZER_TYPES, *BUILDERS})
    if kind not in kinds or (kind == "gpt2" and split not in splits):
        raise UnsupportedModel(
            f"{source}: tokenizer {kind!r} with pre-tokenizer {split!r}; known: "
            f"{', '.join(kinds)}, and for gpt2 the pre-tokenizers "
            f"{', '.join(sorted(splits))}{INSTEAD}"
        )
    for name in _NEEDED.get(str(kind), ("tokens",)):
        if f"{_PREFIX}{name}" not in metadata:
            raise WeightError(f"{source}: metadata '{_PREFIX}{name}' is missing")
    known = {f"tokenizer.{k}" for table in GGUF_TOKENIZER_MAPPING.values() for k in table}
    known |= {f"{_PREFIX}{name}" for name in _READ}
    unknown = [key for key in metadata if key.startswith(_PREFIX) and key not in known]
    if unknown:
        raise UnsupportedModel(f"{source}: metadata {unknown[0]!r} is not supported{INSTEAD}")
    tokens, count = metadata[f"{_PREFIX}tokens"], len(metadata[f"{_PREFIX}tokens"])
    for name in ("scores", "token_type"):
        found = metadata.get(f"{_PREFIX}{name}")
        if found is not None and len(found) != count:
            raise WeightError(
                f"{source}: '{_PREFIX}{name}' has {len(found)} values, and there are {count} tokens"
            )
    for name in (*_NAMES.values(), "eot_token_id", "eom_token_id"):
        index = metadata.get(f"{_PREFIX}{name}")
        if index is not None and not 0 <= index < len(tokens):
            raise WeightError(f"{source}: '{_PREFIX}{name}' is {index}; there are {count} tokens")


def _finish_byte_level(tokenizer: Tokenizer, split: str) -> None:
    """The split of words, where transformers' table lacks it; else it is GPT-2's."""
    bytes_only = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    if split in DIGITS:
        digits = pre_tokenizers.Digits(individual_digits=True)
        words = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, words])
    elif split in LLAMA3 or split in SEQUENCES:
        from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS

        llama3 = (GGUF_PRE_TOKENIZER_SPLITS["llama-bpe"],)
        patterns = SEQUENCES.get(split, llama3)
        splits = [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in patterns]
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*splits, bytes_only])
    if split in WHOLE_WORDS:
        tokenizer.model.ignore_merges = True


def _drop_prefix(tokenizer: Tokenizer) -> None:
    """Texts get no space in front, and lose none."""
    if isinstance(tokenizer.pre_tokenizer, pre_tokenizers.Metaspace):
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never", split=False)
        replace = decoders.Replace("▁", " ")
        tokenizer.decoder = decoders.Sequence([replace, decoders.ByteFallback(), decoders.Fuse()])


def _post_processor(metadata: Mapping[str, Any]) -> Any:
    """Which special tokens a text gets around it."""
    tokens, kind = metadata[f"{_PREFIX}tokens"], metadata[f"{_PREFIX}model"]
    is_begun = kind == "llama" or metadata.get(f"{_PREFIX}pre") in WHOLE_WORDS
    flags = {"bos": is_begun, "eos": kind == "t5"}
    around = {}
    for name, default in flags.items():
        index = metadata.get(f"{_PREFIX}{name}_token_id")
        if index is not None and metadata.get(f"{_PREFIX}add_{name}_token", default):
            around[name] = (tokens[index], index)
    if not around:
        return processors.ByteLevel(trim_offsets=False)
    before = [around["bos"][0]] if "bos" in around else []
    after = [around["eos"][0]] if "eos" in around else []
    return processors.TemplateProcessing(
        single=[*before, "$A", *after],
        pair=[*before, "$A", *after, *(f"{text}:1" for text in before), "$B:1",
              *(f"{text}:1" for text in after)],
        special_tokens=list(around.values()),
    )  # fmt: skip
