"""Checkpoints that look like others and would be served wrongly: each refused by name.

A tagger is built like an embedder, a reranker like a generator, a model for images like one for
texts: what tells them apart is in their JSON files, and read here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from atoll.config import Settings
from atoll.errors import ConfigError, UnsupportedModel
from atoll.models.config_facts import POOLED_CLASSES
from atoll.models.families import CLASS_PREFIXES
from atoll.weights.json_fields import Fields
from atoll.weights.modules import read_object

# Classes whose trunk gives vectors; other endings are heads for other tasks.
_EMBEDDER_CLASSES = ("Model", "ForMaskedLM", "ForPreTraining", *POOLED_CLASSES)
# Weights of the words of queries, beside a sparse embedder of documents alone.
_QUERY_WEIGHTS = ("query_token_weights.txt", "idf.json")
_OTHER_SENSES = re.compile(
    r"(vision|visual|image|video|audio|speech|acoustic|talker|codec|vocoder).*_config|visual|"
    r"(mm_)?vision_tower|audio_encoder|speech_encoder"
)
# Decoders whose repositories have code of their own that is implemented here.
_OWN_CODE_KNOWN = ("llama_bidirec",)
_HEADS = (
    "ForCausalLM", "LMHeadModel", "LMHeadCustomModel", "ForConditionalGeneration", "MTModel",
)  # fmt: skip


def check_trunk(folder: Path, names: Sequence[str]) -> None:
    """An encoder that no file calls an embedder: that its class is one of a trunk.

    Raises:
        UnsupportedModel: it has a head for another task, or files of its own are missing.
    """
    colbert = named(folder, "colbert")
    if colbert is not None:
        raise UnsupportedModel(
            f"{folder}: the name {colbert!r} says that this is ColBERT, whose answer is a vector "
            "for every token, but neither artifact.metadata nor modules.json is there; --task "
            "embed serves its trunk, --task multi_vector all of it with ColBERT's usual lengths"
        )
    check_query_weights(folder)
    name = names[0] if names else ""
    # XLM's class for masked words ends as GPT-2's for the next one does.
    is_causal = name.endswith("LMHeadModel") and not name.endswith("WithLMHeadModel")
    if name and (not name.endswith(_EMBEDDER_CLASSES) or is_causal):
        raise UnsupportedModel(
            f"{folder}: {name} is not supported: its head is for another task than those that are "
            "served; --task embed serves its trunk"
        )


def check_query_weights(folder: Path) -> None:
    """Raises UnsupportedModel: no file says what a sparse embedder of documents alone computes."""
    table = next((file for file in _QUERY_WEIGHTS if (folder / file).exists()), None)
    if table is not None and not (folder / "modules.json").exists():
        raise UnsupportedModel(
            f"{folder}: {table} weighs the words of queries, beside a sparse embedder of "
            "documents, but modules.json, which says how both are computed, is not there; newer "
            "revisions have it"
        )


def check_decoder_trunk(folder: Path, config: Mapping[str, Any], names: Sequence[str]) -> None:
    """A decoder whose hidden states are used: that they are those of its family's class.

    Raises:
        UnsupportedModel: its class is another's, or code of the checkpoint's own may let tokens see
            those that follow, which config.json does not say.
    """
    model_type = str(config.get("model_type", ""))
    code = own_code(config, ("AutoModel",))
    if names and not _is_familys(names[0], model_type):
        raise UnsupportedModel(
            f"{folder}: {names[0]} (model_type {model_type!r}) is not supported: it is none of the "
            "family's classes"
            + (f", but code of the checkpoint's own ({code}), which is never run" if code else "")
        )
    if code and config.get("is_causal") is None and model_type not in _OWN_CODE_KNOWN:
        raise UnsupportedModel(
            f"{folder}: auto_map names {code}, code of the checkpoint's own, which is never run, "
            "and config.json does not say whether tokens see those that follow: if its authors "
            "do, add is_causal, false or true, to config.json"
        )


def check_tagger(folder: Path, config: Mapping[str, Any]) -> None:
    """A decoder that scores tokens: that its head is transformers'.

    Raises:
        ConfigError: the head has no bias. UnsupportedModel: it is code of the checkpoint's own.
    """
    Fields(config, f"{folder}/config.json").only("token_classification_bias", True)
    code = own_code(config, ("AutoModelForTokenClassification",))
    if code:
        raise UnsupportedModel(
            f"{folder}: auto_map names {code}, code of the checkpoint's own, which is never run"
        )


def check_parts(folder: Path, config: Mapping[str, Any], names: Sequence[str]) -> None:
    """Raises UnsupportedModel: a generator with parts for images or sound."""
    parts = other_parts(config)
    if parts:
        name = names[0] if names else str(config.get("model_type"))
        raise UnsupportedModel(
            f"{folder}: {name} has {', '.join(parts)}: models for images or sound are not supported"
        )


def other_parts(config: Mapping[str, Any]) -> list[str]:
    """The keys of config.json that describe parts for images or sound."""
    return sorted(key for key, value in config.items() if _OTHER_SENSES.fullmatch(key) and value)


def check_adapter(folder: Path) -> None:
    """Raises UnsupportedModel: transformers would load an adapter on top of the weights."""
    if (folder / "adapter_config.json").exists():
        raise UnsupportedModel(
            f"{folder}: adapter_config.json says that an adapter lies on the weights; merge it "
            "into them, or take it out and name it in lora_adapters"
        )


def check_class(
    folder: Path, config: Mapping[str, Any], names: Sequence[str], is_asked: bool
) -> None:
    """That a generator's class is the one that its model_type's file implements.

    Raises:
        UnsupportedModel: it has another head, or is code of the checkpoint's own.
    """
    model_type = str(config.get("model_type", ""))
    if not names:
        return
    name = names[0]
    is_ours = _is_familys(name, model_type)
    code = own_code(config, ("AutoModelForCausalLM", "AutoModelForSeq2SeqLM"))
    if not is_ours and (code or not is_asked):
        raise UnsupportedModel(
            f"{folder}: {name} (model_type {model_type!r}) is not supported: it is none of the "
            "family's classes"
            + (f", but code of the checkpoint's own ({code}), which is never run" if code else "")
        )
    trunk = name.endswith("Model") and not name.endswith("LMHeadModel")
    if not name.endswith(_HEADS) and not (trunk and (is_asked or name == "BloomModel")):
        raise UnsupportedModel(
            f"{folder}: {name} (model_type {model_type!r}) is not supported: it is no generator"
        )


def check_settings(folder: Path, runs_on: str, settings: Settings) -> None:
    """Raises ConfigError: a setting that only models of our own can be given."""
    scheme = settings.dtype if settings.dtype in ("int8", "int4") else None
    for name, value in (
        ("dtype", scheme), ("quantize", settings.quantize),
        ("rope_scaling", settings.rope_scaling), ("rope_factor", settings.rope_factor),
        ("lora_adapters", settings.lora_adapters), ("sharded", settings.sharded or None),
        ("num_shard", None if settings.num_shard == 1 else settings.num_shard),
    ):  # fmt: skip
        if value is not None:
            raise ConfigError(
                f"{name} is {value!r}, but {folder} runs on {runs_on}, where it has no effect"
            )


def named(folder: Path, word: str) -> str | None:
    """The checkpoint's name, in the hub's cache too, or where it was made from, with that word."""
    hub = folder.parent.parent.name if folder.parent.name == "snapshots" else ""
    origin = str(read_object(folder / "config.json").get("_name_or_path") or "")
    names = (folder.name, hub.rpartition("--")[2], origin.rpartition("/")[2])
    return next((name for name in names if word in name.lower()), None)


def own_code(config: Mapping[str, Any], loaders: Sequence[str]) -> str | None:
    """The class of a checkpoint's own code that one of transformers' Auto classes would load."""
    classes = config.get("auto_map")
    if not isinstance(classes, Mapping):
        return None
    found = (classes.get(key) for key in loaders)
    return next((str(value) for value in found if value), None)


def _is_familys(name: str, model_type: str) -> bool:
    """Whether a class is called as those of its model_type are."""
    begins = CLASS_PREFIXES.get(model_type, (model_type.replace("_", "").replace("-", ""),))
    return name.lower().startswith(tuple(part.lower() for part in begins))
