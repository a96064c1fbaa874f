"""Which of transformers' encoders runs a checkpoint that has no file here, or why none does.

Decided by config.json alone: what ``models.fallback_encoder`` then loads has to show that it works.
Only the families of ``ENCODERS_ON_TRANSFORMERS`` and ``DECODERS_ON_TRANSFORMERS``, which tests
compare, are run; of the latter, the hidden states alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from atoll.errors import UnsupportedModel
from atoll.models.encoder_families import DECODERS_ON_TRANSFORMERS, ENCODERS_ON_TRANSFORMERS
from atoll.models.fallback_choice import read_config, shown
from atoll.weights.modules import length_limit, read_object

_ENCODERS = frozenset(kind for kinds in ENCODERS_ON_TRANSFORMERS.values() for kind in kinds)
_DECODERS = frozenset(kind for kinds in DECODERS_ON_TRANSFORMERS.values() for kind in kinds)
# What they need besides a text's tokens, or why they cannot be had; each would run all the same.
_REFUSED = {
    "bros": "its tokens need places on a page (bbox)",
    "canine": "its tokens are characters, which a hash turns into vectors: it has no vocabulary",
    "layoutlm": "its tokens need places on a page (bbox)",
    "layoutlmv2": "its tokens need places on a page (bbox), and an image",
    "layoutlmv3": "its tokens need places on a page (bbox), and an image",
    "lilt": "its tokens need places on a page (bbox)",
    "lxmert": "it needs an image",
    "markuplm": "its tokens need places in a page's markup (xpath)",
    "mra": "without a kernel for GPUs, transformers computes zeros in place of its attention",
    "roc_bert": "its tokens need the shapes and sounds of characters",
    "tapas": "its tokens need rows and columns of a table",
    "visual_bert": "it needs an image",
    "yoso": "its attention depends on random hashes",
}
# model_type -> class of its encoder alone, which only embeds.
_ENCODER_PARTS = {"t5": "T5EncoderModel", "mt5": "MT5EncoderModel", "umt5": "UMT5EncoderModel"}
# model_type -> key of the width of a token's vector, where it is not the hidden size.
_WIDTHS = {"embedding_gemma2_text": "embedding_dim"}
# Their position tables begin after the padding token's id.
_OFFSET_TYPES = (
    "esm", "ibert", "longformer", "luke", "roberta-prelayernorm", "xlm-roberta-xl", "xmod",
)  # fmt: skip
_POSITION_KEYS = ("max_position_embeddings", "n_positions")
# Of families with relative positions alone, where no file says how long texts may be; tokenizers
# that do not know it say 1e30.
_UNBOUNDED_TOKENS, _MOST_TOKENS = 512, 1_000_000
_LOSSES = (
    "{} runs it, best effort: texts of a batch are padded to the longest of their group, without "
    "kernels of our own: several times slower than an architecture with a file here",
    "not available there: int8, int4 and other quantisation",
)
# What a family's repositories have besides, which is not applied.
_UNUSED = {
    "jina_embeddings_v3": (
        "adapters (LoRA) for tasks, which its repository has besides, are not applied: vectors are "
        "those of the model without one"
    )
}


class EncoderChoice(NamedTuple):
    """What runs a checkpoint.

    hidden_size: width of a token's vector. max_positions: tokens of the longest text.
    notes: what a user should know, a sentence each.
    """

    class_name: str
    hidden_size: int
    max_positions: int
    notes: tuple[str, ...]


def is_listed(model_type: object) -> bool:
    """Whether transformers is known to run encoders of that model_type."""
    return model_type in _ENCODERS or model_type in _DECODERS


def is_encoder_only(model_type: object) -> bool:
    """Whether a listed model_type is no generator's besides."""
    return model_type in _ENCODERS and model_type not in _ENCODER_PARTS


def is_decoder(model_type: object) -> bool:
    """Whether a listed model_type is a generator's, of which no class says how vectors are made."""
    return model_type in _DECODERS


def refusal(model_type: str) -> str:
    """Why an encoder that would run is refused; empty where that is not known."""
    return _REFUSED.get(model_type, "")


def choose(folder: Path, task: str) -> EncoderChoice:
    """The class of transformers that runs the trunk in ``folder``, by its config alone.

    Args:
        task: one of the tasks of encoders.

    Raises:
        UnsupportedModel: there is none, or it would need more than the tokens of a text.
    """
    raw = read_config(folder)
    name, kind = shown(folder, raw), str(raw.model_type)
    class_name = _class_for(kind, task)
    if class_name is None:
        reason = "transformers has no class for it that reads texts alone"
        if kind in _DECODERS:
            reason = "what transformers runs of this decoder embeds and generates alone"
        raise UnsupportedModel(
            f"{name} (model_type {kind!r}) is not supported for task {task!r}: {reason}"
        )
    if kind in _DECODERS:
        _check_decoder(name, kind, class_name, raw)
    for flag in ("is_decoder", "add_cross_attention"):
        if getattr(raw, flag, False) and kind not in _ENCODER_PARTS:
            raise UnsupportedModel(f"{name}: {flag} is true: it is no encoder")
    _check_own_code(name, class_name, read_object(folder / "config.json"), raw)
    _check_inputs(name, kind, raw)
    tokenizer = str(read_object(folder / "tokenizer_config.json").get("tokenizer_class"))
    if tokenizer.startswith("RoFormerTokenizer"):
        raise UnsupportedModel(
            f"{name}: {tokenizer} finds words with jieba, which no tokenizer.json holds: not "
            "supported; RoFormer with another tokenizer_class is"
        )
    positions, notes = _positions(folder, kind, raw)
    told = [note.format(f"transformers' {class_name}") for note in _LOSSES]
    width = int(getattr(raw, _WIDTHS.get(kind, "hidden_size")))
    told += [_UNUSED[kind]] if kind in _UNUSED else []
    return EncoderChoice(class_name, width, positions, (*told, *notes))


def _class_for(kind: str, task: str) -> str | None:
    from transformers.models.auto import modeling_auto as auto

    if kind in _ENCODER_PARTS:
        return _ENCODER_PARTS[kind] if task == "embed" else None
    if kind in _DECODERS and task != "embed":
        return None
    tables: dict[str, Mapping[str, Any]] = {
        "embed": auto.MODEL_MAPPING_NAMES,
        "sparse": auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES,
        "rerank": auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
        "classify": auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
        "token_classify": auto.MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES,
    }
    found = tables.get(task, {}).get(kind)
    # Of several, the first has a vector for every token.
    return found if isinstance(found, str) or found is None else str(found[0])


def _check_decoder(name: str, kind: str, class_name: str, raw: Any) -> None:
    """Raises UnsupportedModel: the class that it names has another head than a generator's."""
    from transformers.models.auto import modeling_auto as auto

    known = (class_name, str(auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[kind]))
    named = next(iter(raw.architectures or ()), class_name)
    if named not in known:
        raise UnsupportedModel(
            f"{name} (model_type {kind!r}) is not supported: it is none of {', '.join(known)}"
        )


def _check_own_code(name: str, class_name: str, own: Mapping[str, Any], raw: Any) -> None:
    """Raises UnsupportedModel: the checkpoint's code is of another class than transformers'."""
    code = own.get("auto_map") or {}
    heads = ("ForMaskedLM", "ForSequenceClassification", "ForTokenClassification")
    key = next((f"AutoModel{head}" for head in heads if class_name.endswith(head)), "AutoModel")
    pairs = ((code.get(key), class_name), (code.get("AutoConfig"), type(raw).__name__))
    for meant, ours in pairs:
        meant = str(meant or "").rpartition(".")[2]
        if meant and meant != ours:
            raise UnsupportedModel(
                f"{name}: auto_map names {meant}, code of the checkpoint's own, which is never "
                f"run, and which transformers' {ours} is not"
            )


def _check_inputs(name: str, kind: str, raw: Any) -> None:
    """Raises UnsupportedModel: its config asks for more than the tokens of a text."""
    missing = None
    if kind in ("flaubert", "xlm") and raw.n_langs > 1 and raw.use_lang_emb:
        missing = f"use_lang_emb is true for {raw.n_langs} languages: each token needs its language"
    elif kind in ("flaubert", "xlm") and raw.causal:
        missing = "causal is true: it is no encoder"
    elif kind == "xmod" and raw.default_language is None:
        missing = f"default_language is null; it has {', '.join(raw.languages)}: texts need theirs"
    elif kind == "nystromformer" and raw.num_landmarks != raw.segment_means_seq_len:
        missing = (
            f"segment_means_seq_len is {raw.segment_means_seq_len} and num_landmarks "
            f"{raw.num_landmarks}: texts of other lengths cannot be computed"
        )
    if missing:
        raise UnsupportedModel(f"{name}: {missing}")


def _positions(folder: Path, kind: str, raw: Any) -> tuple[int, list[str]]:
    """Tokens of the longest text, and what limits them."""
    known = (_count(raw, key) for key in _POSITION_KEYS)
    count = next((found for found in known if found > 0), 0)
    if not count:
        limit = length_limit(folder) or _MOST_TOKENS
        return (limit if limit < _MOST_TOKENS else _UNBOUNDED_TOKENS), []
    if kind in _OFFSET_TYPES:
        count -= _count(raw, "pad_token_id") + 1
    if kind == "big_bird" and raw.attention_type == "block_sparse":
        full = (5 + 2 * raw.num_random_blocks) * raw.block_size
        if full < count:
            note = (
                f"served up to {full} of its {count} positions: beyond, its attention is sparse, "
                "which transformers gives up for good at the first shorter text"
            )
            return full, [note]
    return count, []


def _count(raw: Any, key: str) -> int:
    value = getattr(raw, key, None)
    return value if isinstance(value, int) else 0
