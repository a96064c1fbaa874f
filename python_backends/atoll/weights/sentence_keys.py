"""Keys of sentence-transformers' files that change what a model answers: applied, or refused here.

What is applied is read where it is used, mostly by ``weights.modules`` and ``encoders.spec``; every
other key is either one of those below that change nothing here, or refused by name.

Source: the modules' ``__init__`` and ``load`` of sentence-transformers 1 to 6.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from atoll.errors import ConfigError, UnsupportedModel
from atoll.weights.modules import (
    SENTENCE_FILE,
    processor_overrides,
    read_modules,
    read_object,
    sentence_config,
)

Json = Mapping[str, Any]

# task -> what the trunk is loaded as, what its output is called, and what becomes of it.
_TRUNKS = {
    "embed": ("feature-extraction", "last_hidden_state", "token_embeddings"),
    "multi_vector": ("feature-extraction", "last_hidden_state", "token_embeddings"),
    "sparse": ("fill-mask", "logits", "token_embeddings"),
    "rerank": ("sequence-classification", "logits", "scores"),
    "classify": ("sequence-classification", "logits", "scores"),
    "token_classify": ("token-classification", "logits", "scores"),
}
# Of a model for texts and images, whose trunks give one vector each.
_TOWERS = ("feature-extraction", "pooler_output", "sentence_embedding")
_FEATURES = {"text": "get_text_features", "image": "get_image_features"}
# Of a reranker with a LogitScore module.
_WORDS = ("text-generation", "logits", "causal_logits")
# Names of keyword arguments for loading a part, over the versions.
_CONFIG_ARGUMENTS = ("config_kwargs", "config_args")
_MODEL_ARGUMENTS = ("model_kwargs", "model_args")
# How weights are held is a setting here, and code of a checkpoint is never run.
_NEUTRAL_MODEL = frozenset({
    "add_pooling_layer", "attn_implementation", "device_map", "dtype", "local_files_only",
    "low_cpu_mem_usage", "torch_dtype", "trust_remote_code", "use_safetensors",
})  # fmt: skip
_NEUTRAL_CONFIG = frozenset({
    "attention_probs_dropout_prob", "classifier_dropout", "hidden_dropout_prob", "local_files_only",
    "output_attentions", "return_dict", "trust_remote_code", "use_cache",
})  # fmt: skip
# Keys of tokenizer_config.json that are applied, as overrides too, and those that change no ids.
_PROCESSOR = frozenset({
    "add_prefix_space", "additional_special_tokens", "bos_token", "cls_token", "do_lower_case",
    "eos_token", "extra_special_tokens", "mask_token", "model_input_names", "model_max_length",
    "pad_token", "sep_token", "split_special_tokens", "strip_accents", "tokenize_chinese_chars",
    "truncation_side", "unk_token",
    "clean_up_tokenization_spaces", "local_files_only", "pad_to_multiple_of", "padding",
    "padding_side", "trust_remote_code", "use_fast",
})  # fmt: skip
# What a chat template is rendered with; its other variables are the template's own.
_CHAT = frozenset({"padding", "truncation", "max_length", "return_tensors"})
_PROCESSING = frozenset({"max_length", "pad_to_multiple_of", "padding", "return_tensors"})
_CUTTING = (None, True, "longest_first")
# Of a Transformer module; the first row is read elsewhere, the second changes nothing.
_TRANSFORMER = frozenset({
    "do_lower_case", "max_seq_length", "processor_kwargs", "tokenizer_args",
    "unpad_inputs",
    "modality_config", "module_output_name", "processing_kwargs", "transformer_task",
    *_CONFIG_ARGUMENTS, *_MODEL_ARGUMENTS,
})  # fmt: skip
_OF_MULTI_VECTORS = ("query_length", "document_length", "query_expansion")
# Others of their keys are ignored by sentence-transformers too, but not of these.
_MODULES = {
    "Pooling": {
        "word_embedding_dimension", "embedding_dimension", "pooling_mode", "include_prompt",
    },
    "SpladePooling": {
        "pooling_strategy", "activation_function", "embedding_dimension",
        "word_embedding_dimension", "chunk_size",
    },
    "LayerNorm": {"dimension"},
    "MultiVectorMask": {"skiplist_words", "skiplist_tasks", "keep_only_token_ids"},
}  # fmt: skip
# Modules that read one vector and write one.
_SEPARATE = ("Dense", "Normalize")
_KINDS = (None, "SentenceTransformer", "SparseEncoder", "CrossEncoder")
_MULTI_VECTOR_KINDS = (None, "SentenceTransformer", "ColBERT", "MultiVectorEncoder")


def check_keys(folder: Path, task: str, *, takes_images: bool = False) -> None:
    """That no key of the files asks for what a model of ``task`` is not given here.

    takes_images: besides texts.

    Raises:
        ConfigError: a file is malformed.
        UnsupportedModel: a key does; names it, its value and the file.
    """
    trunk = _File(SENTENCE_FILE, sentence_config(folder))
    trunk.only_known(_TRANSFORMER | set(_OF_MULTI_VECTORS) | {"tokenizer_name_or_path"})
    is_multi = task == "multi_vector"
    for key in ("tokenizer_name_or_path", *(() if is_multi else _OF_MULTI_VECTORS)):
        trunk.check(key, trunk.keys.get(key) is None)
    has_words = any(module.kind == "LogitScore" for module in read_modules(folder))
    if takes_images:
        _check_towers(trunk)
    else:
        _check_trunk(trunk, _WORDS if has_words else _TRUNKS[task], task)
    for key, neutral in (
        *((key, _NEUTRAL_MODEL) for key in _MODEL_ARGUMENTS),
        *((key, _NEUTRAL_CONFIG) for key in _CONFIG_ARGUMENTS),
    ):
        _File(f"{SENTENCE_FILE}: {key}", trunk.object(key)).only_known(neutral)
    _File(f"{SENTENCE_FILE}: tokenizer_args", processor_overrides(folder)).only_known(_PROCESSOR)
    _check_processing(trunk.object("processing_kwargs"), task)
    own = _File(
        "config_sentence_transformers.json",
        read_object(folder / "config_sentence_transformers.json"),
    )
    kinds = _MULTI_VECTOR_KINDS if is_multi else _KINDS
    own.check("model_type", own.keys.get("model_type") in kinds)
    for module in read_modules(folder):
        name = f"{module.path}/config.json"
        if module.kind in (*_MODULES, *_SEPARATE) and module.path:
            _check_module(_File(name, read_object(folder / name)), module.kind, is_multi)


class _File:
    """Keys of an object, and the name by which it is shown."""

    def __init__(self, name: str, keys: Json) -> None:
        self.name, self.keys = name, keys

    def check(self, key: str, is_right: bool) -> None:
        """Raises UnsupportedModel: it is not; names the key and its value."""
        if not is_right:
            raise UnsupportedModel(f"{self.name}: {key} {self.keys.get(key)!r} is not supported")

    def only_known(self, known: frozenset[str] | set[str]) -> None:
        """Raises UnsupportedModel: there is another key with a value."""
        for key in sorted(self.keys.keys() - known):
            self.check(key, self.keys[key] is None)

    def object(self, key: str) -> Json:
        """Raises ConfigError: the value is there, and no object."""
        found = self.keys.get(key) or {}
        if not isinstance(found, Mapping):
            raise ConfigError(f"{self.name}: {key} is {found!r}; expected an object")
        return found


def _check_trunk(file: _File, form: tuple[str, str, str], task: str) -> None:
    loaded_as, output, name = form
    file.check("transformer_task", file.keys.get("transformer_task") in (None, loaded_as))
    file.check("module_output_name", file.keys.get("module_output_name") in (None, name))
    modalities = _File(f"{file.name}: modality_config", file.object("modality_config"))
    # A pair is a message of a query and one of a document.
    modalities.only_known({"text", "message"} if task == "rerank" else {"text"})
    of_tokens = task in ("embed", "multi_vector")
    for modality, keys in (("text", set[str]()), ("message", {"format"})):
        one = _File(f"{modalities.name}.{modality}", modalities.object(modality))
        one.only_known({"method", "method_output_name"} | keys)
        one.check("method", one.keys.get("method") in (None, "forward"))
        one.check("format", one.keys.get("format") in (None, "flat", "structured"))
        asked = one.keys.get("method_output_name")
        last = (output, [output], ["hidden_states", -1] if of_tokens else output)
        one.check("method_output_name", asked is None or asked in last)


def _check_towers(file: _File) -> None:
    loaded_as, output, name = _TOWERS
    file.check("transformer_task", file.keys.get("transformer_task") in (None, loaded_as))
    file.check("module_output_name", file.keys.get("module_output_name") in (None, name))
    modalities = _File(f"{file.name}: modality_config", file.object("modality_config"))
    modalities.only_known(set(_FEATURES))
    for modality, method in _FEATURES.items():
        one = _File(f"{modalities.name}.{modality}", modalities.object(modality))
        one.only_known({"method", "method_output_name"})
        one.check("method", one.keys.get("method") in (None, method))
        asked = one.keys.get("method_output_name")
        one.check("method_output_name", asked in (None, output, [output]))


def _check_processing(keys: Json, task: str) -> None:
    """``text`` and ``common`` of processing_kwargs: what a tokenizer is called with; and of a
    reranker ``chat_template``: what its template is rendered with."""
    whole = _File(f"{SENTENCE_FILE}: processing_kwargs", keys)
    whole.only_known({"text", "common", *(["chat_template"] if task == "rerank" else [])})
    for part in ("text", "common"):
        inner = _File(f"{whole.name}.{part}", whole.object(part))
        inner.only_known(_PROCESSING | {"truncation"})
        inner.check("truncation", inner.keys.get("truncation") in _CUTTING)
        # Queries and documents have lengths of their own.
        inner.check("max_length", inner.keys.get("max_length") is None or task != "multi_vector")
    chat = _File(f"{whole.name}.chat_template", whole.object("chat_template"))
    for key in sorted(_CHAT & chat.keys.keys()):
        chat.check(key, chat.keys[key] is None)
    chat.check("restore_suffix", chat.keys.get("restore_suffix") in (None, True))


def _check_module(file: _File, kind: str, is_multi: bool) -> None:
    if kind in _MODULES:
        # Other ways of pooling are named by ``read_poolings``.
        poolings = {key for key in file.keys if key.startswith("pooling_mode_")}
        file.only_known(_MODULES[kind] | poolings)
        file.check("keep_only_token_ids", not file.keys.get("keep_only_token_ids"))
    else:
        vectors = "token_embeddings" if is_multi else "sentence_embedding"
        for key in ("module_input_name", "module_output_name"):
            # Of a Normalize module, the default is the vector of the whole text.
            is_default = file.keys.get(key) is None and not (
                is_multi and kind == "Normalize" and key == "module_input_name"
            )
            file.check(key, is_default or file.keys.get(key) == vectors)
        named = file.keys.get("activation_function")
        file.check("activation_function", named is None or str(named).startswith("torch."))
