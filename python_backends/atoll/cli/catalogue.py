"""``atoll list``, ``atoll info`` and ``atoll render``: what can be served and what a model is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from atoll.catalogue import (
    ENTRIES,
    PIPELINES,
    Detected,
    Entry,
    Pipeline,
    decide,
    differences,
    entry_name,
    write_repository,
)
from atoll.cli.choose import checkout_repository, without_ending
from atoll.cli.model_fit import named, shares_of, weight_bytes
from atoll.cli.options import AsJson, Revision, print_json
from atoll.cli.tables import print_table
from atoll.config import Settings
from atoll.errors import ConfigError, ValidationError
from atoll.text import chat_formats
from atoll.text.chat import templates
from atoll.weights.embedded import EMBEDDED
from atoll.weights.files import cached, local_folder, resolve
from atoll.weights.modules import tokenizer_config, transformer_folder
from atoll.weights.router_files import route_parts
from atoll.weights.token_types import has_token_types


def list_entries(as_json: AsJson = False) -> None:
    """List the catalogue: tasks, where the weights come from, and whether they are on disk."""
    rows: list[dict[str, Any]] = [
        {
            "name": e.name, "task": e.task, "model_type": e.model_type, "model_id": e.model_id,
            "source": _source(e), "is_cached": cached(e.model_id, e.revision),
        }
        for e in ENTRIES
    ]  # fmt: skip
    if as_json:
        print_json(rows)
        return
    print_table(
        ("model", "task", "architecture", "checkpoint", "from", "here"),
        [(*list(r.values())[:-1], "yes" if r["is_cached"] else "no") for r in rows],
    )


def info(
    model: Annotated[
        str, typer.Argument(help="Name of a catalogue entry, hub id, or folder of a checkpoint.")
    ],
    revision: Revision = None,
    as_json: AsJson = False,
) -> None:
    """Show what a checkpoint is and what would run it; fails with the server's message if the
    server would refuse its configuration. Weights and tokenizer are read when it is served, but for
    the tokenizer of a reranker.
    """
    known, model_id, own = named(model)
    folder = resolve(model_id, revision, with_weights=False)
    trunk = transformer_folder(folder)
    # What the server would decide, with the settings it would read from the environment.
    settings = Settings.read({"model_id": model_id, **own})
    detected = decide(folder, settings)
    facts: dict[str, Any] = {
        "name": known.name if known else entry_name(without_ending(model)),
        "model_id": model_id,
        "folder": str(folder),
        "weight_bytes": sum(map(weight_bytes, route_parts(folder) or (trunk,))),
        **_running(folder, detected),
        **_formats(folder, detected, settings),
        "ranks": [asdict(share) for share in shares_of(trunk, detected, settings)],
        "settings": own,
    }
    if as_json:
        print_json(facts)
        return
    facts["ranks"] = {f"num_shard {share['num_shard']}": _held(share) for share in facts["ranks"]}
    known_facts = {key: value for key, value in facts.items() if _is_told(value)}
    print_table(("", ""), [(key.replace("_", " "), _shown(v)) for key, v in known_facts.items()])


def render(
    folder: Annotated[
        Path | None, typer.Argument(help="Target; by default the checkout's model_repository.")
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Write nothing, but fail if a file differs.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Write the catalogue's entries as a model repository."""
    target = folder or checkout_repository()
    if target is None:
        raise ConfigError("there is no checkout with a model_repository; name a folder")
    everything: list[Entry | Pipeline] = [*ENTRIES, *PIPELINES]
    if check:
        different = differences(everything, target)
        if different:
            raise ConfigError(f"{target} differs from the catalogue: {', '.join(different)}")
    else:
        write_repository(everything, target)
    if as_json:
        print_json({"path": str(target), "entries": [entry.name for entry in everything]})
    elif not check:
        print(f"{len(everything)} entries in {target}")


def _source(entry: Entry) -> str:
    if local_folder(entry.model_id):
        return "folder"
    embedded = EMBEDDED.get(entry.model_id)
    return f"package {embedded.requirement}" if embedded else "hub"


def _running(folder: Path, detected: Detected) -> dict[str, Any]:
    """What a checkpoint is, the file that implements its architecture, and its kernels.

    Raises:
        ConfigError: a reranker could score no pair.
    """
    from atoll.models import fallback, fallback_encoder, families, registry
    from atoll.models.detect_tables import NOT_TRUNKS
    from atoll.models.operations import kernels

    # Values that are named, such as the rules for answers, keep their names.
    facts = {
        name: value._asdict() if hasattr(value, "_asdict") else value
        for name, value in asdict(detected).items()
    }
    runs_on = facts.pop("runs_on")
    if detected.architecture in NOT_TRUNKS:
        return {**facts, "implementation": runs_on}
    if runs_on != "native":
        file = fallback if detected.task == "generate" else fallback_encoder
        return {**facts, "implementation": f"{file.__name__}: {runs_on}, best effort"}
    raw = registry.Checkpoint.open(transformer_folder(folder)).raw
    table = registry.table_of(raw, detected.task)
    module = registry.architecture(raw, table)
    model = registry.sketch(module, raw)
    has_tokenizer = (transformer_folder(folder) / "tokenizer.json").exists()
    if detected.task == "rerank" and table is families.ENCODERS and has_tokenizer:
        _check_pairs(folder, model)
    used = kernels(model, detected.task in ("generate", "transcribe"))
    return {**facts, "implementation": module.__name__, "kernels": used}


def _check_pairs(folder: Path, model: Any) -> None:
    """Raises ConfigError: the tokenizer gives every pair a segment that the model lacks."""
    from atoll.text.text_encoder import TextEncoder
    from atoll.text.tokenizer import Tokenizer

    num_types = getattr(model.config, "num_token_types", 0) if has_token_types(folder) else 0
    try:
        TextEncoder(Tokenizer.load(folder).core, model.max_length, num_types).check_pairs()
    except ValidationError as error:
        raise ConfigError(f"{folder}: {error}") from error


def _formats(folder: Path, detected: Detected, settings: Settings) -> Mapping[str, str]:
    """The formats of a generator's tool calls and reasoning."""
    if detected.task != "generate":
        return {}
    found = templates(folder, tokenizer_config(folder))
    return chat_formats.facts(found, settings.tool_call_parser, settings.reasoning_parser)


def _held(share: Mapping[str, int]) -> str:
    weights, cache = share["weight_bytes"] / 1e9, share["cache_bytes_per_token"] / 1e3
    state = share["state_bytes"] / 1e6
    held = f"each GPU {weights:.2f} GB of weights, {cache:.1f} kB of cache a token"
    return f"{held}, {state:.1f} MB of state a request" if state else held


def _is_told(value: Any) -> bool:
    """Whether a fact says something; of named values, whether one of them does."""
    if isinstance(value, dict):
        return any(map(_is_told, value.values()))
    return value not in (None, (), []) and value is not False


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        told = ((key, item) for key, item in value.items() if _is_told(item))
        return "\n".join(f"{key}: {_shown(item)}" for key, item in told)
    if isinstance(value, (list, tuple)):
        return ", ".join(f"({_shown(v)})" if isinstance(v, tuple) else str(v) for v in value)
    return str(value)
