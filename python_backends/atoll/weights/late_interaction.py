"""How a late-interaction checkpoint makes vectors of a text's tokens, by its JSON files.

Three kinds of folders: ColBERT's own (artifact.metadata, the projection beside the trunk's
weights), PyLate's (keys of config_sentence_transformers.json), and sentence-transformers' own
MultiVectorEncoder (keys of the modules). Where they say the same in different words, it is read
into the same fields.

Source: Khattab and Zaharia 2020; PyLate 1.x; sentence-transformers 6.
"""

from __future__ import annotations

import string
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from atoll.errors import ConfigError, UnsupportedModel
from atoll.weights.json_fields import Fields
from atoll.weights.modules import (
    PYLATE_DENSE,
    SENTENCE_FILE,
    read_modules,
    read_object,
    sentence_config,
)

METADATA = "artifact.metadata"
OWN_CONFIG = "config_sentence_transformers.json"
# Tokens of a query, and of a projected vector, where ColBERT's files do not say.
_QUERY_TOKENS, _WIDTH = 32, 128
# One of these in config_sentence_transformers.json makes it PyLate's.
_PYLATE_KEYS = (
    "query_prefix", "document_prefix", "query_length", "document_length", "query_expansion",
    "do_query_expansion", "attend_to_expansion_tokens", "attend_to_mask_tokens", "skiplist_words",
)  # fmt: skip
_DOCUMENT_PROMPTS = ("document", "passage", "corpus")


@dataclass(frozen=True)
class Expansion:
    """A query is filled up to ``length`` tokens, whose vectors are part of the answer.

    is_fixed: a longer query is cut to that length. is_attended: whether the other tokens attend to
    the filling. token: what it is filled with; None: the tokenizer's mask_token.
    """

    length: int
    is_fixed: bool = True
    is_attended: bool = False
    token: str | None = None


@dataclass(frozen=True)
class LateInteraction:
    """How queries and documents are encoded.

    query_prompt, document_prompt: put in front. has_markers: each begins with a token of the
    vocabulary, if there is such a token, even if the tokenizer would split its text.
    query_length, document_length: tokens, special ones included; None: the tokenizer's limit.
    skiplist: tokens whose vectors are left out, for the tasks in ``skiplist_tasks``.
    steps: what follows the trunk, for each token: the folder of a Dense module, or None for
    normalization. linear_size: width of the projection that lies beside the trunk's weights, before
    all steps; None: there is none. is_mean: a score is divided by the number of query vectors.
    """

    query_prompt: str
    document_prompt: str
    has_markers: bool
    query_length: int | None
    document_length: int | None
    expansion: Expansion | None
    skiplist: tuple[str, ...]
    skiplist_tasks: tuple[str, ...]
    steps: tuple[Path | None, ...]
    linear_size: int | None = None
    is_mean: bool = False

    @classmethod
    def read(cls, folder: Path) -> LateInteraction:
        """Raises ConfigError, UnsupportedModel: a file is malformed, or asks for something else."""
        return _of_modules(folder) if read_modules(folder) else _of_metadata(folder)


def is_late_interaction(folder: Path, architectures: Sequence[str]) -> bool:
    """Whether one of a checkpoint's files says so. architectures: config.json's."""
    modules, own = read_modules(folder), read_object(folder / OWN_CONFIG)
    if own.get("model_type") is not None:
        return own["model_type"] in ("ColBERT", "MultiVectorEncoder")
    if any(m.type == PYLATE_DENSE or m.kind == "MultiVectorMask" for m in modules):
        return True
    if modules:
        return any(key in own for key in _PYLATE_KEYS)
    return "HF_ColBERT" in architectures or (folder / METADATA).exists()


def _of_metadata(folder: Path) -> LateInteraction:
    fields = Fields(read_object(folder / METADATA), METADATA)
    for key, known in (("similarity", "cosine"), ("interaction", "colbert")):
        if fields.text(key, default=known, nullable=True) != known:
            raise UnsupportedModel(f"{METADATA}: {key} {fields.raw[key]!r} is not supported")
    masks = fields.flag("mask_punctuation", default=True, nullable=True)
    return LateInteraction(
        query_prompt=fields.text("query_token_id", default="[unused0]", nullable=True) + " ",
        document_prompt=fields.text("doc_token_id", default="[unused1]", nullable=True) + " ",
        has_markers=True,
        query_length=None,
        document_length=_size(fields, "doc_maxlen"),
        expansion=Expansion(
            length=_size(fields, "query_maxlen") or _QUERY_TOKENS,
            is_attended=fields.flag("attend_to_mask_tokens", default=False, nullable=True),
        ),
        skiplist=tuple(string.punctuation) if masks else (),
        skiplist_tasks=("document",),
        steps=(None,),
        linear_size=_size(fields, "dim") or _WIDTH,
    )


def _of_modules(folder: Path) -> LateInteraction:
    own = Fields(read_object(folder / OWN_CONFIG), OWN_CONFIG)
    trunk = Fields(sentence_config(folder), SENTENCE_FILE)
    is_native = own.raw.get("model_type") == "MultiVectorEncoder"
    expansion = _expansion(trunk) if "query_expansion" in trunk.raw else _pylate_expansion(own)
    query_length = _size(trunk, "query_length")
    # PyLate's is the length that queries are filled up to.
    if query_length is None and (
        "query_expansion" in own.raw or own.raw.get("do_query_expansion") is False
    ):
        query_length = _size(own, "query_length")
    if expansion is not None and query_length is not None and query_length < expansion.length:
        raise ConfigError(
            f"query_length is {query_length}; query_expansion fills queries up to "
            f"{expansion.length} tokens"
        )
    steps = [
        folder / m.path if m.kind == "Dense" else None
        for m in read_modules(folder)[1:]
        if m.kind in ("Dense", "Normalize")
    ]
    words, tasks = _skiplist(folder, own, is_native)
    prompts = own.inside("prompts").raw
    documents = next((prompts[n] for n in _DOCUMENT_PROMPTS if prompts.get(n) is not None), None)
    if any(not isinstance(text, str | None) for text in prompts.values()):
        raise own.wrong("an object of names and texts", "prompts")
    return LateInteraction(
        query_prompt=_prompt(own, "query_prefix", prompts.get("query")),
        document_prompt=_prompt(own, "document_prefix", documents),
        has_markers=own.has("query_prefix", "document_prefix"),
        query_length=query_length,
        document_length=_size(trunk, "document_length") or _size(own, "document_length"),
        expansion=expansion,
        skiplist=words,
        skiplist_tasks=tasks,
        # PyLate's own files leave out what always comes last.
        steps=tuple(steps if is_native else [*steps, None]),
        is_mean=own.raw.get("similarity_fn_name") == "meanmaxsim",
    )


def _prompt(own: Fields, name: str, prompt: str | None) -> str:
    prefix = own.text(name, default="", nullable=True)
    return prefix + (prompt or "").removeprefix(prefix)


def _skiplist(
    folder: Path, own: Fields, is_native: bool
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """PyLate leaves out punctuation unless its file says otherwise."""
    paths = [m.path for m in read_modules(folder) if m.kind == "MultiVectorMask"]
    if paths:
        file = folder / paths[0] / "config.json"
        fields = Fields(read_object(file), str(file))
        words = fields.texts("skiplist_words") if fields.has("skiplist_words") else ()
        tasks: tuple[str, ...] = ("document",)
        if isinstance(fields.raw.get("skiplist_tasks"), str):
            tasks = (fields.text("skiplist_tasks"),)
        elif fields.has("skiplist_tasks"):
            tasks = fields.texts("skiplist_tasks")
        return words, tasks
    if is_native:
        return (), ()
    given = own.raw.get("skiplist_words") is not None
    return own.texts("skiplist_words") if given else tuple(string.punctuation), ("document",)


def _expansion(trunk: Fields) -> Expansion | None:
    """sentence-transformers' ``query_expansion``."""
    if trunk.raw.get("query_expansion") is None:
        return None
    fields = trunk.inside("query_expansion")
    unknown = sorted(fields.raw.keys() - {"strategy", "attend", "token", "length"})
    if unknown:
        raise UnsupportedModel(f"{trunk.source}: query_expansion: {unknown} are not supported")
    if fields.raw.get("strategy") not in ("fixed", "min"):
        raise fields.wrong("fixed or min", "strategy")
    return Expansion(
        length=fields.size("length"),
        is_fixed=fields.raw["strategy"] == "fixed",
        is_attended=fields.flag("attend", default=False),
        token=fields.text("token") if fields.has("token") else None,
    )


def _pylate_expansion(own: Fields) -> Expansion | None:
    """PyLate's flat keys; queries are filled up unless they say otherwise."""
    if "query_expansion" in own.raw:
        return _expansion(own)
    if not any(key in own.raw for key in _PYLATE_KEYS):
        return None
    if not own.flag("do_query_expansion", default=True, nullable=True):
        return None
    names = ("attend_to_expansion_tokens", "attend_to_mask_tokens")
    name = next((name for name in names if name in own.raw), names[0])
    return Expansion(
        length=_size(own, "query_length") or _QUERY_TOKENS,
        is_attended=own.flag(name, default=False, nullable=True),
    )


def _size(fields: Fields, name: str) -> int | None:
    return fields.size(name) if fields.has(name) else None
