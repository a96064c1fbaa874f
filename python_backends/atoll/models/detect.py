"""What a checkpoint is for, what runs it, and whether it can be served: decided here alone.

``atoll info``, ``atoll add``, the table at the start and the server itself ask the same function.
Only small files are read: no weights, no vocabulary, and never a checkpoint's own code.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from atoll.config import Settings
from atoll.errors import ConfigError, UnsupportedModel
from atoll.models import (
    detect_speech,
    families,
    generation_keys,
    nested,
    rerankers,
    search_keys,
    task_settings,
    unsupported,
)
from atoll.models.config_facts import (
    HIDDEN_SIZE_KEYS,
    embedding_size,
    first_size,
    max_tokens_of,
    pooled_size,
    pooling_of,
)
from atoll.models.detect_images import tower_facts
from atoll.models.detect_tables import read_table, together
from atoll.models.detect_task import TOKEN_CLASSIFIER, check_encoder, has_ending, task_of
from atoll.models.detected import Detected
from atoll.models.fallback_encoder_choice import is_decoder
from atoll.weights.json_fields import Fields, read_labels, stored_dtype
from atoll.weights.late_interaction import LateInteraction
from atoll.weights.modules import (
    check_modules,
    cut_note,
    length_limit,
    read_modules,
    read_object,
    transformer_folder,
)
from atoll.weights.router_files import read_routes, route_folders
from atoll.weights.sentence_keys import check_keys
from atoll.weights.token_heads import token_heads

_ENCODER_TASKS = ("embed", "sparse", "multi_vector", "rerank", "classify", "token_classify")
_CLASSIFIERS = ("ForSequenceClassification", TOKEN_CLASSIFIER)


def decide(folder: Path, settings: Settings, task: str | None = None) -> Detected:
    """What the checkpoint is with these settings; what the server loads, or why it does not.

    Args:
        task: what the entry serves, in place of the settings' own.

    Raises:
        ConfigError, UnsupportedModel: it cannot be served so; names what is in the way.
    """
    routes = read_routes(folder)
    if routes is not None:
        with route_folders(folder, routes) as folders:
            of_routes = {name: decide(one, settings, task) for name, one in folders.items()}
        return together(folder, routes, of_routes)
    found = read_model(
        folder, task or settings.task, settings.dense_path, settings.pooling,
        is_asked=settings.task is not None, reranker_template=settings.reranker_template,
    )  # fmt: skip
    notes = (
        *task_settings.unused(settings, found.task),
        *task_settings.cut(settings, found.task, found.max_tokens),
        *search_keys.notes(found.search, min(settings.max_beams, settings.max_batch_size)),
    )
    found = replace(found, notes=(*found.notes, *notes))
    if found.runs_on != "native":
        unsupported.check_settings(folder, found.runs_on, settings)
        return found
    import torch

    from atoll.layers.parallel import sketching
    from atoll.models import load_options, registry
    from atoll.models.gguf_notes import gguf_notes
    from atoll.weights.parts import ONE_RANK, Shard
    from atoll.weights.quantization import METHODS, scheme_for

    method = settings.quantize
    if method is not None:
        scheme_for(method)
    checkpoint = registry.Checkpoint.open(transformer_folder(folder))
    is_generator = found.task in ("generate", "transcribe")
    table = registry.table_of(checkpoint.raw, found.task)
    with sketching():
        plan = registry.plan(
            checkpoint, table,
            getattr(torch, settings.dtype, None) if "float" in settings.dtype else None,
            method if method in METHODS else None,
            Shard(size=settings.num_shard or 1) if is_generator else ONE_RANK, is_generator,
        )  # fmt: skip
    if is_generator:
        load_options.rescaled(checkpoint, settings)
    notes = (
        *load_options.longrope_notes(checkpoint, settings),
        *load_options.fp8_notes(plan.quantization, settings),
        *gguf_notes(checkpoint.folder, checkpoint.raw, plan, settings),
    )
    return replace(found, notes=(*found.notes, *notes))


def read_model(
    folder: Path,
    task: str | None = None,
    dense_path: str | None = None,
    pooling: str | None = None,
    *,
    is_asked: bool | None = None,
    reranker_template: str | None = None,
) -> Detected:
    """What the checkpoint in ``folder`` is, by its files alone.

    Args:
        task, pooling: override what the files say.
        is_asked: whether the user named the task, and means a checkpoint that looks as if made for
            another; if None, whether there is a task.
        dense_path: folder of the Dense module, relative to ``folder``; from modules.json if None.
        reranker_template: how a decoder is asked, see ``rerankers``; by the files if None.

    Raises:
        ConfigError: a file is missing or malformed.
        UnsupportedModel: no task fits, or the architecture or its modules cannot be served; names
            them and what can.
    """
    routes = read_routes(folder)
    if routes is not None:
        with route_folders(folder, routes) as folders:
            found = {
                name: read_model(
                    one, task, dense_path, pooling,
                    is_asked=is_asked, reranker_template=reranker_template,
                )
                for name, one in folders.items()
            }  # fmt: skip
        return together(folder, routes, found)
    table = read_table(folder, task, dense_path, pooling)
    if table is not None:
        return table
    modules = read_modules(folder)
    trunk = transformer_folder(folder)
    if modules and not modules[0].is_transformer:
        check_modules(folder, task or "embed")
    if not (trunk / "config.json").exists():
        raise ConfigError(f"{trunk}/config.json is missing")
    config = read_object(trunk / "config.json")
    names = _architectures(trunk, config)
    fields = Fields(config, f"{trunk}/config.json")
    fields.text("model_type", default="", nullable=True)
    if detect_speech.is_asked_for(config, task):
        return detect_speech.read(folder, config, names, task)
    labels = read_labels(config) if has_ending(names, _CLASSIFIERS) else ()
    if task is None and pooling == "splade":  # how TEI asks for it
        task = "sparse"
    is_asked = task is not None if is_asked is None else is_asked
    if task == "generate" and not is_asked:
        # What the files call something else is no generator, whatever its entry's class.
        with contextlib.suppress(UnsupportedModel):
            task = task_of(folder, config, names, modules, labels)
    task = task or task_of(folder, config, names, modules, labels, reranker_template)
    if task == "generate":
        if not is_asked:
            rerankers.check_generator(folder)
        return _generator(folder, config, names, is_asked)
    foreign, towers = None, tower_facts(folder, config, names, task)
    if task in _ENCODER_TASKS:
        if task in ("rerank", "classify") and rerankers.is_decoder(config):
            rerankers.check(folder, config, names, task, reranker_template)
        else:
            foreign = check_encoder(folder, config, names, task)
        if task == "embed" and not is_asked and not any(m.kind == "Pooling" for m in modules):
            unsupported.check_trunk(folder, names)
        check_modules(folder, task, pooling, is_pooled=towers is not None)
        check_keys(folder, task, takes_images=towers is not None)
    hidden = foreign.hidden_size if foreign else first_size(config, HIDDEN_SIZE_KEYS)
    hidden = towers.hidden_size if towers else hidden
    if hidden is None:
        raise ConfigError(f"{trunk}/config.json has none of {', '.join(HIDDEN_SIZE_KEYS)}")
    pooled = towers.width if towers else pooled_size(config, hidden)
    width = embedding_size(folder, modules, dense_path, pooling, pooled)
    if task == "multi_vector":
        width = LateInteraction.read(folder).linear_size or width
    how, is_guessed = pooling_of(folder, config, pooling) if task == "embed" else (None, False)
    model_type = config.get("model_type")
    if is_guessed and (model_type in families.CAUSAL or is_decoder(model_type)):
        raise UnsupportedModel(_UNPOOLED.format(folder))
    positions = foreign.max_positions if foreign else max_tokens_of(config)
    positions = towers.max_tokens if towers else positions
    limits = [limit for limit in (length_limit(folder), positions) if limit]
    notes = [*(foreign.notes if foreign else ()), *([_GUESSED.format(how)] if is_guessed else [])]
    if task != "multi_vector":  # has lengths of its own
        notes += cut_note(folder, positions)
    if task == "rerank" and reranker_template and not rerankers.is_decoder(config):
        notes.append(_NO_TEMPLATE.format(reranker_template))
    return Detected(
        task=task,
        architecture=names[0] if names else "",
        model_type=str(model_type or ""),
        hidden_size=hidden,
        embedding_size=width,
        max_tokens=min(limits, default=None),
        dtype=stored_dtype(Fields(config)),
        labels=labels,
        runs_on=f"transformers' {foreign.class_name}" if foreign else "native",
        pooling=how,
        heads=token_heads(trunk) if task == "embed" else (),
        takes_images=towers is not None,
        notes=tuple(notes),
    )


_UNPOOLED = (
    "{}: no file says how the vectors of a decoder's tokens become one, as modules.json and a "
    "Pooling module do; set it: --pooling last-token or mean, or the parameter pooling"
)
_GUESSED = (
    "pooling {!r} is a guess: no file says how the vectors of tokens become one (a folder that "
    "only transformers filled lacks modules.json); set it: --pooling, or the parameter pooling"
)
_NO_TEMPLATE = (
    "reranker_template is {!r}, which has no effect: this reranker is no decoder; its tokenizer "
    "makes the pairs"
)


def _generator(
    folder: Path, config: Mapping[str, Any], names: Sequence[str], is_asked: bool
) -> Detected:
    """A generator, by a file here or by transformers.

    is_asked: whether the user named the task, and means a class that only names the trunk.
    """
    folder = transformer_folder(folder)
    whole, config = config, nested.text_model(config, f"{folder}/config.json")
    model_type = str(config.get("model_type", ""))
    runs_on, notes = "native", []
    max_tokens = max_tokens_of({**families.DEFAULTS.get(model_type, {}), **config})
    if model_type in families.DECODERS or any(n in families.CLASSES for n in names[:1]):
        unsupported.check_class(folder, whole, names, is_asked)
        notes += nested.notes(whole)
    else:
        from atoll.models import fallback_choice

        choice = fallback_choice.choose(folder, is_asked)
        runs_on, max_tokens = f"transformers' {choice.class_name}", choice.max_positions
        notes = [*choice.notes]
    if config is whole:
        unsupported.check_parts(folder, config, names)
    unsupported.check_adapter(folder)
    is_encoder_decoder = model_type in families.ENCODER_DECODERS
    keys = generation_keys.read(folder, whole, is_encoder_decoder=is_encoder_decoder)
    if keys.left:
        notes.append(f"left to requests, of what its files say: {', '.join(keys.left)}")
    return Detected(
        task="generate",
        architecture=names[0] if names else "",
        model_type=model_type,
        # Nothing depends on it, and transformers' families call it what they like.
        hidden_size=first_size(config, HIDDEN_SIZE_KEYS) or 0,
        embedding_size=first_size(config, HIDDEN_SIZE_KEYS) or 0,
        max_tokens=max_tokens,
        dtype=stored_dtype(Fields(config)),
        runs_on=runs_on,
        notes=tuple(notes),
        rules=keys.rules,
        forced_bos_token_id=keys.first,
        search=keys.search,
    )


def _architectures(folder: Path, config: Mapping[str, Any]) -> list[str]:
    names = config.get("architectures") or []
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ConfigError(f"{folder}/config.json: architectures is {names!r}; expected names")
    return names
