"""Where the parts of a checkpoint in sentence-transformers' format lie, as its modules.json says.

A folder without that file is a plain transformers checkpoint: everything lies at its top.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from atoll.errors import ConfigError, UnsupportedModel
from atoll.weights.json_fields import Fields

SENTENCE_FILE = "sentence_bert_config.json"
# Names that sentence-transformers has given to one and the same file over the years.
_SENTENCE_CONFIGS = tuple(
    f"sentence_{kind}_config.json"
    for kind in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
)
# Our names, in the order in which several are concatenated -> names in a Pooling module's
# config.json: newer files hold "pooling_mode", older ones a flag for each.
POOLING_MODES = {
    "cls": ("cls", "pooling_mode_cls_token"),
    "max": ("max", "pooling_mode_max_tokens"),
    "mean": ("mean", "pooling_mode_mean_tokens"),
    "mean-sqrt-len": ("mean_sqrt_len_tokens", "pooling_mode_mean_sqrt_len_tokens"),
    "weighted-mean": ("weightedmean", "pooling_mode_weightedmean_tokens"),
    "last-token": ("lasttoken", "pooling_mode_lasttoken"),
}
_LIMIT = "model_max_length"
_NO_LIMIT = 10**20  # transformers' LARGE_INTEGER
_OLD_SIZE = "word_embedding_dimension"
# What may follow the pooling; Dropout does nothing once a model is trained.
_AFTER_POOLING = ("Dense", "LayerNorm", "Normalize", "Dropout")
# What may follow the trunk where every token keeps its vector.
_OF_TOKENS = ("Dense", "MultiVectorMask", "Normalize", "Dropout")
# The only class of PyLate's that its files name; computes the same as sentence-transformers' Dense.
PYLATE_DENSE = "pylate.models.Dense.Dense"
# CLIPModel: in files of sentence-transformers before its version 5.4.
_TRANSFORMERS = ("Transformer", "MLMTransformer", "CLIPModel")
# A table of word vectors in place of a trunk.
STATIC = "StaticEmbedding"
# A weight of each word, in place of a trunk of a sparse embedder.
SPARSE_STATIC = "SparseStaticEmbedding"


@dataclass(frozen=True)
class Module:
    """One row of modules.json. type: dotted name of the class. path: relative to the checkpoint."""

    type: str
    path: str

    @property
    def kind(self) -> str:
        """The class without its package, which moved between versions."""
        return self.type.rsplit(".", 1)[-1]

    @property
    def is_transformer(self) -> bool:
        """Whether it holds the trunk and the tokenizer."""
        return self.kind in _TRANSFORMERS

    @property
    def has_tokenizer(self) -> bool:
        """Whether the tokenizer is in its folder."""
        return self.is_transformer or self.kind in (STATIC, SPARSE_STATIC)


def read_modules(folder: Path) -> tuple[Module, ...]:
    """The modules in order; none where there is no modules.json.

    Raises:
        ConfigError: the file is malformed, or names a path outside the checkpoint.
    """
    path = folder / "modules.json"
    return parse_modules(read_document(path), str(path)) if path.exists() else ()


def parse_modules(found: Any, name: str) -> tuple[Module, ...]:
    """``read_modules`` of what was read from the file ``name``."""
    if not isinstance(found, list) or not found or not all(isinstance(r, dict) for r in found):
        raise ConfigError(f"{name}: expected a list of objects")
    rows = [Fields(row, f"{name}: module {index}") for index, row in enumerate(found)]
    modules = tuple(Module(r.text("type"), r.text("path", default="", nullable=True)) for r in rows)
    for module in modules:
        inside = PurePosixPath(module.path)
        if inside.is_absolute() or ".." in inside.parts:
            raise ConfigError(f"{name}: path {module.path!r} leads out of the checkpoint")
    return modules


def check_modules(
    folder: Path, task: str, pooling: str | None = None, *, is_pooled: bool = False
) -> None:
    """That modules.json is what a task takes: a trunk, its pooling, and what may follow that.

    pooling: a setting, in place of a Pooling module. is_pooled: whether the trunk gives one vector
    of a text, and has no Pooling module behind it.

    Raises:
        UnsupportedModel: it is not; names the modules.
    """
    modules = read_modules(folder)
    kinds = [m.kind for m in modules]
    known = (PYLATE_DENSE,) if task == "multi_vector" else ()
    foreign = [m.type for m in modules if not m.type.startswith(("sentence_transformers.", *known))]
    if foreign:
        raise UnsupportedModel(
            f"{folder}/modules.json: {foreign} are not sentence-transformers' own; Atoll never "
            "runs a checkpoint's code"
        )
    rest = kinds[1:]
    if is_pooled:
        layout = f"Transformer or CLIPModel, then any of {_AFTER_POOLING}"
        is_known = set(rest) <= set(_AFTER_POOLING)
    elif task in ("embed", "sparse"):
        layout = f"Transformer, then Pooling or SpladePooling, then any of {_AFTER_POOLING}"
        is_pooled = rest[:1] in (["Pooling"], ["SpladePooling"]) if rest else pooling is not None
        is_known = is_pooled and set(rest[1:]) <= set(_AFTER_POOLING)
    elif task == "multi_vector":
        layout = f"Transformer, then any of {_OF_TOKENS}"
        is_known = set(rest) <= set(_OF_TOKENS)
    elif task == "rerank":
        layout, is_known = "Transformer, alone or with LogitScore", rest in ([], ["LogitScore"])
    else:
        layout, is_known = "Transformer alone", not rest
    if task == "sparse" and kinds == [SPARSE_STATIC]:
        return
    if task == "embed" and kinds[:1] == [STATIC] and set(rest) <= set(_AFTER_POOLING):
        return
    if modules and not (modules[0].is_transformer and is_known):
        raise UnsupportedModel(
            f"{folder}/modules.json: modules {kinds} are not supported for task {task!r}; "
            f"supported: {layout}"
        )


def transformer_folder(folder: Path) -> Path:
    """Where config.json, the trunk's weights and the tokenizer are: ``folder`` or one in it."""
    modules = read_modules(folder)
    return folder / next((m.path for m in modules if m.has_tokenizer), "")


def read_poolings(folder: Path) -> tuple[str, ...]:
    """How token vectors become one: keys of ``POOLING_MODES``; none where no file says it.

    Raises:
        ConfigError: the file asks for something else; names its keys.
    """
    paths = [m.path for m in read_modules(folder) if m.kind == "Pooling"]
    file = folder / (paths[0] if paths else "1_Pooling") / "config.json"
    if not file.exists():
        if paths:
            raise ConfigError(f"{file} is missing")
        return ()
    fields, raw = Fields(read_object(file), str(file)), read_object(file)
    flags = [key for key in raw if key.startswith("pooling_mode_")]
    asked = tuple(key for key in flags if fields.flag(key))
    if fields.has("pooling_mode"):
        is_text = isinstance(raw["pooling_mode"], str)
        asked = (raw["pooling_mode"],) if is_text else fields.texts("pooling_mode")
        if not asked:
            raise fields.wrong("a pooling, or several", "pooling_mode")
    known = {name: mode for mode, names in POOLING_MODES.items() for name in names}
    unknown = [name for name in asked if name not in known]
    if unknown:
        raise ConfigError(f"{file}: pooling by {unknown} is not supported; known: {sorted(known)}")
    found = [known[name] for name in asked]
    if not fields.has("pooling_mode"):  # flags have no order of their own
        found.sort(key=list(POOLING_MODES).index)
    # A file without any of the keys means sentence-transformers' default.
    return tuple(found) or ("mean",)


def check_pooled_size(folder: Path, hidden_size: int) -> None:
    """Raises ConfigError: the Pooling module is made for vectors of another size."""
    for path in (m.path for m in read_modules(folder) if m.kind == "Pooling"):
        file = folder / path / "config.json"
        fields, names = Fields(read_object(file), str(file)), ("embedding_dimension", _OLD_SIZE)
        if fields.has(*names) and fields.size(*names) != hidden_size:
            raise fields.wrong(f"hidden_size of config.json, {hidden_size}", *names)


def sentence_config(folder: Path) -> dict[str, Any]:
    """sentence_bert_config.json beside the trunk, under any of its names; empty without one."""
    trunk = transformer_folder(folder)
    found = next((trunk / name for name in _SENTENCE_CONFIGS if (trunk / name).exists()), None)
    return {} if found is None else read_object(found)


def processor_overrides(folder: Path) -> dict[str, Any]:
    """Keys of tokenizer_config.json that sentence_bert_config.json sets.

    Raises:
        ConfigError: they are no object.
    """
    config = sentence_config(folder)
    # The older name wins, as in sentence-transformers.
    found = config.get("tokenizer_args", config.get("processor_kwargs")) or {}
    if not isinstance(found, dict):
        raise ConfigError(f"{SENTENCE_FILE}: tokenizer_args is {found!r}; expected an object")
    return found


def tokenizer_config(folder: Path) -> dict[str, Any]:
    """tokenizer_config.json beside the trunk, with what sentence-transformers' files set in it.

    Empty for a table of word vectors, of which only tokenizer.json is read.
    """
    if any(module.kind == STATIC for module in read_modules(folder)[:1]):
        return {}
    own = read_object(transformer_folder(folder) / "tokenizer_config.json")
    return {**own, **processor_overrides(folder)}


def length_limit(folder: Path) -> int | None:
    """Tokens of the longest text by sentence-transformers' rule, which may exceed the positions.

    Its own limit, or the tokenizer's; None where nobody set one.
    """
    found = _own_limit(folder)
    tokenizer = Fields(tokenizer_config(folder), "tokenizer_config.json")
    if found is None and tokenizer.has(_LIMIT):
        found = tokenizer, _LIMIT
    limit = _NO_LIMIT if found is None else _whole(*found)
    return None if limit >= _NO_LIMIT else limit


def cut_note(folder: Path, max_positions: int | None) -> tuple[str, ...]:
    """A sentence where sentence-transformers' own limit is more than the model's positions.

    It would fail at longer texts, or go beyond the positions that the model was made for. A limit
    of tokenizer_config.json it lowers itself, without a word.
    """
    found = _own_limit(folder)
    if found is None or max_positions is None or _whole(*found) <= max_positions:
        return ()
    fields, name = found
    return (
        f"{fields.source}: {name} is {_whole(*found)}, more than the model's {max_positions} "
        "positions, which are the limit of a text",
    )


def _own_limit(folder: Path) -> tuple[Fields, str] | None:
    """Where sentence-transformers' files limit the length of texts."""
    config = Fields(sentence_config(folder), SENTENCE_FILE)
    processing = config.inside("processing_kwargs")
    # What a call says goes before what the tokenizer was made with.
    places = (
        (processing.inside("text"), "max_length"),
        (processing.inside("common"), "max_length"),
        (Fields(processor_overrides(folder), f"{SENTENCE_FILE}: tokenizer_args"), _LIMIT),
        (config, "max_seq_length"),
    )
    return next(((fields, name) for fields, name in places if fields.has(name)), None)


def _whole(fields: Fields, name: str) -> int:
    # transformers writes 1e30, and as a float, where there is none.
    limit = fields.number(name)
    if limit != int(limit):
        raise fields.wrong("a whole number", name)
    return int(limit)


def read_object(path: Path) -> dict[str, Any]:
    """A JSON object; empty if there is no such file.

    Raises:
        ConfigError: it is no object.
    """
    found = read_document(path) if path.exists() else {}
    if not isinstance(found, dict):
        raise ConfigError(f"{path}: expected an object")
    return found


def read_document(path: Path) -> Any:
    """Any JSON.

    Raises:
        ConfigError: the file is missing or malformed, or half a character is in it.
    """
    try:
        text = path.read_text(encoding="utf-8")
        found = json.loads(text)
        # Escapes can write halves of characters, which no one can write anywhere else.
        if "\\ud" in text.lower():
            json.dumps(found, ensure_ascii=False).encode()
        return found
    except UnicodeEncodeError as error:
        half = error.object[error.start]
        raise ConfigError(f"{path}: cannot be read: {half!r} is half a character") from error
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error
