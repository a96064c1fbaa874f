"""Which of transformers' generators runs a checkpoint that has no file here, or why none does.

Decided by config.json alone: what ``models.fallback`` then loads has to show that it works.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from atoll.errors import UnsupportedModel
from atoll.weights.modules import read_object

# Of its model_types, those that are no decoders whatever their config says.
_SEES_AHEAD = ("xlnet",)
_NEEDS_LANGUAGE = ("nllb-moe", "seamless_m4t", "seamless_m4t_v2")
# Of transformers' layer_types: layers with a state, after which no second token can follow at once.
_RECURRENT = {"linear_attention", "conv", "hybrid"}
# Has such layers, and a cache of its own that any number of tokens can follow.
_OWN_CACHE = ("minimax",)
_LOSSES = (
    "{} runs it, best effort: one sequence at a time, several times slower than an architecture "
    "with a file here",
    "not available there: LoRA, quantisation, num_shard; keys and values are not paged, so that "
    "requests share no prefixes",
)
_RECOMPUTED = "its layers have recurrent states: every token computes the whole text again"
_POSITION_KEYS = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length")


class Choice(NamedTuple):
    """What runs a checkpoint. notes: what a user should know, a sentence each."""

    class_name: str
    max_positions: int
    notes: tuple[str, ...]


def generates(model_type: str) -> bool:
    """Whether transformers has a text generator of that model_type, which is no encoder besides."""
    from transformers.models.auto import modeling_auto as auto

    if model_type in auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES:
        return True
    is_encoder = model_type in auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES
    return model_type in auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and not is_encoder


def choose(folder: Path, is_asked: bool = True) -> Choice:
    """The class of transformers that generates with a checkpoint, by its config alone.

    Args:
        is_asked: whether the user named the task, and means a class that transformers would only
            take the trunk of.

    Raises:
        UnsupportedModel: there is none, or it would not do what the checkpoint is for.
    """
    from transformers.models.auto import modeling_auto as auto

    raw = read_config(folder)
    name, kind = shown(folder, raw), raw.model_type
    table = auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    if raw.is_encoder_decoder:
        table = auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES
    found = table.get(kind)
    if found is None:
        raise UnsupportedModel(
            f"{name} (model_type {kind!r}) is no text generator: it is neither among the "
            "architectures of our own nor among those of transformers"
        )
    class_name = found if isinstance(found, str) else found[0]
    is_masked = kind in auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES and not raw.is_encoder_decoder
    if kind in _SEES_AHEAD or is_masked and not getattr(raw, "is_decoder", False):
        raise UnsupportedModel(
            f"{name}: transformers' {class_name} sees words ahead: it is no decoder"
        )
    _check_own_code(name, class_name, raw, is_asked)
    _check_language(name, raw)
    positions = _positions(raw)
    limit = _rope_limit(raw, positions)
    notes = [note.format(f"transformers' {class_name}") for note in _LOSSES]
    if is_recurrent(raw):
        notes.append(_RECOMPUTED)
    if limit < positions:
        notes.append(
            f"served up to {limit} of its {positions} positions: beyond, its rope scaling changes "
            "with the length of the text"
        )
    return Choice(class_name, limit, tuple(notes))


def is_recurrent(raw: Any) -> bool:
    """Whether a config of transformers has layers that ``models.fallback`` keeps no cache of."""
    kinds = getattr(raw.get_text_config(decoder=True), "layer_types", None) or ()
    return raw.model_type not in _OWN_CACHE and bool(_RECURRENT.intersection(kinds))


def read_config(folder: Path) -> Any:
    """config.json as transformers reads it.

    Raises:
        UnsupportedModel: it cannot, or does not know the family.
    """
    import transformers
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    own = read_object(folder / "config.json")
    kind = str(own.get("model_type"))
    if kind not in CONFIG_MAPPING_NAMES:
        name = next(iter(own.get("architectures") or ()), "a model")
        raise UnsupportedModel(
            f"{folder}: {name} (model_type {kind!r}) is not supported: it is neither among the "
            "architectures of our own nor among those of transformers"
        )
    try:
        return transformers.AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:
        raise UnsupportedModel(f"{folder}: transformers cannot read it: {error}") from error


def shown(folder: Path, raw: Any) -> str:
    """A checkpoint in messages: its folder and its class."""
    return f"{folder}: {next(iter(raw.architectures or ()), raw.model_type)}"


def _check_own_code(name: str, class_name: str, raw: Any, is_asked: bool) -> None:
    """That the checkpoint means the class that runs it, of that name or of its own code's."""
    code = getattr(raw, "auto_map", None) or {}
    auto = "AutoModelForSeq2SeqLM" if raw.is_encoder_decoder else "AutoModelForCausalLM"
    meant = str(code.get(auto) or code.get("AutoModel") or "").rpartition(".")[2]
    own_config = str(code.get("AutoConfig") or "").rpartition(".")[2]
    if (meant and meant != class_name) or (own_config and own_config != type(raw).__name__):
        raise UnsupportedModel(
            f"{name}: auto_map names {meant or own_config}, code of the checkpoint's own, which is "
            f"never run, and which transformers' {class_name} is not"
        )
    named = next(iter(raw.architectures or ()), class_name)
    if named != class_name and not is_asked:
        raise UnsupportedModel(
            f"{name} (model_type {raw.model_type!r}) is not supported: transformers' generator of "
            f"this family is {class_name}; --task generate runs that"
        )


def _check_language(name: str, raw: Any) -> None:
    """Raises UnsupportedModel: a translator whose answers begin with what the request says."""
    if raw.model_type in _NEEDS_LANGUAGE:
        raise UnsupportedModel(
            f"{name}: translates into the language of forced_bos_token_id, which requests cannot "
            "name to a model on transformers: not supported"
        )


def _positions(raw: Any) -> int:
    text = raw.get_text_config(decoder=True)
    known = (getattr(text, key, None) or 0 for key in _POSITION_KEYS)
    return next((int(count) for count in known if count > 0), 2048)


def _rope_limit(raw: Any, positions: int) -> int:
    """Positions up to which a text's rotation does not depend on its length.

    Beyond, the keys of a cache, or of an earlier piece of the prompt, would be rotated otherwise
    than those that follow.
    """
    text = raw.get_text_config(decoder=True)
    found = getattr(text, "rope_parameters", None) or getattr(text, "rope_scaling", None) or {}
    kinds = [found, *(value for value in found.values() if isinstance(value, dict))]
    for rope in kinds:
        if rope.get("rope_type", rope.get("type")) in ("longrope", "su", "dynamic"):
            name = "original_max_position_embeddings"
            original = rope.get(name) or getattr(text, name, None)
            positions = min(positions, int(original or positions))
    return positions
