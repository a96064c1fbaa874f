"""Decoders that rerank: how they are asked about a document, and which of their words answer.

Such a checkpoint looks like a text generator, or like a classifier without a tokenizer's pairs. How
its query and document become a text is said by sentence-transformers' files, by a chat template
with roles for both, by the names of the published families, or by the setting
``reranker_template``; where none of them says it, the checkpoint is refused.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from atoll.errors import ConfigError, UnsupportedModel
from atoll.models import unsupported
from atoll.models.families import CAUSAL
from atoll.text.chat import templates
from atoll.weights.json_fields import MAX_SIZE, Fields
from atoll.weights.modules import read_modules, read_object, tokenizer_config, transformer_folder

CHAT_TEMPLATE, PAIR = "chat-template", "pair"
# Template -> the words that answer, by default: the score is the logit of the first, minus that of
# the second. Those of chat templates are sentence-transformers' default.
TEMPLATES: Mapping[str, tuple[str, ...]] = {
    "qwen3-reranker": ("yes", "no"),
    "mxbai-rerank-v2": ("1", "0"),
    "bge-reranker-v2-gemma": ("Yes",),
    CHAT_TEMPLATE: ("yes", "no"),
    PAIR: (),
}
# What is in the names of published checkpoints -> template.
NAMES = {
    "qwen3-reranker": "qwen3-reranker",
    "mxbai-rerank-base-v2": "mxbai-rerank-v2",
    "mxbai-rerank-large-v2": "mxbai-rerank-v2",
    "bge-reranker-v2-gemma": "bge-reranker-v2-gemma",
}
_SCORE_MODULE = "LogitScore"
_CLASSIFIER = "ForSequenceClassification"
_SCORED = "causal_logits"
_HINT = f"set reranker_template to one of {', '.join(TEMPLATES)}"
_ROLES = tuple(
    re.compile(rf"role[^\n{{}}%]{{0,40}}[\"']{role}[\"']") for role in ("query", "document")
)
# A card's own word for what a model is for.
_RANKING = "text-ranking"
_CARD_TASK = re.compile(r"^pipeline_tag:\s*[\"']?([\w-]+)", re.MULTILINE)


class RerankerForm(NamedTuple):
    """How a decoder reranks.

    template: a key of ``TEMPLATES``. words: ids or texts of the one or two words whose logits make
    the score; none: the checkpoint has a head of its own for it.
    """

    template: str
    words: tuple[int | str, ...]


def is_decoder(config: Mapping[str, Any]) -> bool:
    """Whether a checkpoint's hidden states are those of a decoder."""
    return str(config.get("model_type", "")) in CAUSAL


def reranks(folder: Path, template: str | None) -> bool:
    """Whether a decoder with a text generator's class is a reranker that can be asked.

    template: the setting, which alone makes no reranker: it may be meant for another model.
    """
    if _template(folder) is not None:
        return True
    says_so = unsupported.named(folder, "rerank") or _card_task(folder) == _RANKING
    return template is not None and bool(says_so)


def check(
    folder: Path, config: Mapping[str, Any], names: Sequence[str], task: str, template: str | None
) -> None:
    """That a decoder can be served as a reranker or classifier.

    Raises:
        ConfigError, UnsupportedModel: it cannot; names what is in the way.
    """
    unsupported.check_adapter(transformer_folder(folder))
    unsupported.check_decoder_trunk(folder, config, names)
    # How it pools is known to its own code alone.
    code = unsupported.own_code(config, (f"AutoModel{_CLASSIFIER}",))
    if code:
        raise UnsupportedModel(
            f"{folder}: auto_map names {code}, code of the checkpoint's own, which is never run"
        )
    if str(config.get("model_type")) == "llama_bidirec":
        raise UnsupportedModel(
            f"{folder}: model_type 'llama_bidirec' is not supported for task {task!r}: its scores "
            "are of pooled vectors, which code of its own computes"
        )
    if task == "rerank":
        read(folder, config, template)
    elif not _has_head(config):
        name = names[0] if names else "a model without architectures"
        raise UnsupportedModel(
            f"{folder}: {name} is not supported for task {task!r}: it has no scores for labels, as "
            f"a class ...{_CLASSIFIER} has"
        )


def read(folder: Path, config: Mapping[str, Any], template: str | None = None) -> RerankerForm:
    """How the decoder in ``folder`` reranks.

    template: the setting, which takes precedence over the files.

    Raises:
        ConfigError: the setting, or a file, has a value that is not known.
        UnsupportedModel: no file says how, nor does the setting.
    """
    if template is not None and template not in TEMPLATES:
        known = ", ".join(TEMPLATES)
        raise ConfigError(f"reranker_template is {template!r}; known: {known}")
    found = template or _template(folder)
    if found is None:
        raise UnsupportedModel(
            f"{folder}: a decoder is to rerank, and no file says how a query and a document become "
            f"its text: the chat template has no roles query and document; {_HINT}"
        )
    module = next((m for m in read_modules(folder) if m.kind == _SCORE_MODULE), None)
    if _has_head(config):
        if module is not None:
            raise UnsupportedModel(f"{folder}: {_SCORE_MODULE} beside a {_CLASSIFIER}'s own head")
        return RerankerForm(found, ())
    if module is not None:
        return RerankerForm(found, _scored_ids(folder / module.path / "config.json", config))
    if not TEMPLATES[found]:
        raise UnsupportedModel(
            f"{folder}: reranker_template {found!r} does not say which words answer, nor does a "
            f"module {_SCORE_MODULE}"
        )
    return RerankerForm(found, TEMPLATES[found])


def check_generator(folder: Path) -> None:
    """A decoder that nobody named a task for, and that is no known reranker: that it generates.

    Raises:
        UnsupportedModel: its name or its card says that it has another task.
    """
    named = unsupported.named(folder, "rerank")
    if named is not None:
        raise UnsupportedModel(
            f"{folder}: the name {named!r} says that this is a reranker, and no file says how a "
            f"query and a document become its text; {_HINT}; --task generate serves it as a "
            "generator"
        )
    found = _card_task(folder)
    if found == _RANKING:
        raise UnsupportedModel(
            f"{folder}: README.md has pipeline_tag text-ranking, and no file says how a query and "
            f"a document become its text; {_HINT}; --task generate serves it as a generator"
        )
    if found in ("text-classification", "feature-extraction", "sentence-similarity"):
        raise UnsupportedModel(
            f"{folder}: README.md has pipeline_tag {found}; --task generate serves it as a "
            "generator"
        )


def _card_task(folder: Path) -> str | None:
    """The task that the head of a model card names."""
    card = folder / "README.md"
    head = card.read_text(encoding="utf-8", errors="replace")[:20000] if card.exists() else ""
    found = _CARD_TASK.search(head.split("\n---", 1)[0]) if head.startswith("---") else None
    return found[1] if found else None


def _template(folder: Path) -> str | None:
    """The template that the files name, or the checkpoint's own name; None: neither does."""
    trunk = transformer_folder(folder)
    texts = templates(trunk, tokenizer_config(folder)).values()
    if any(all(role.search(text) for role in _ROLES) for text in texts):
        return CHAT_TEMPLATE
    return next((t for name, t in NAMES.items() if unsupported.named(folder, name)), None)


def _has_head(config: Mapping[str, Any]) -> bool:
    return any(name.endswith(_CLASSIFIER) for name in Fields(config).texts("architectures"))


def _scored_ids(file: Path, config: Mapping[str, Any]) -> tuple[int, ...]:
    """The ids of a LogitScore module, source: its ``config_keys`` in sentence-transformers 6."""
    fields = Fields(read_object(file), str(file))
    source = fields.text("module_input_name", default=_SCORED)
    if source != _SCORED:
        raise fields.wrong(_SCORED, "module_input_name")
    size = Fields(config).size("vocab_size", default=MAX_SIZE)
    names = ["true_token_id", *(["false_token_id"] if fields.has("false_token_id") else [])]
    return tuple(fields.token(name, vocab_size=size) for name in names)
