"""docs/models.md and the README's table of models, rendered from the catalogue."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from atoll.catalogue import ENTRIES, Entry
from atoll.models.families import DECODERS, ENCODERS
from atoll.models.registry import architecture

# What architecture files are called by people, in the order of the table.
_FAMILIES = {
    "bert": "BERT, RoBERTa, CamemBERT, XLM-RoBERTa",
    "jina_bert": "JinaBERT v2 (ALiBi)",
    "llama": "Llama, Llama 2, Code Llama, Mistral, SmolLM2",
    "mixtral": "Mixtral",
    "falcon": "Falcon 7B, 40B, RW",
    "mpt": "MPT",
    "phi": "Phi",
    "gpt_bigcode": "SantaCoder, StarCoder",
    "gpt_neox": "GPT-NeoX, Pythia",
    "opt": "OPT, Galactica",
    "bloom": "BLOOM",
    "t5": "T5, FLAN-T5",
}
_TESTS = {
    "bert": "tests/encoders/test_numerics.py",
    "jina_bert": "tests/encoders/test_numerics.py",
    "t5": "tests/models/test_t5.py",
}
_TEST_OF_DECODERS = "tests/models/test_decoders.py"
_FOLDERS_TEST = "tests/server/test_repository.py"
_TASKS = {
    "embed": "embeddings", "sparse": "sparse embeddings", "rerank": "reranking",
    "classify": "classification", "generate": "generation",
}  # fmt: skip
# Fields of config.json that choose a file and that an entry does not carry.
_FIELDS: dict[str, dict[str, Any]] = {
    "jinaai/jina-embeddings-v2": {"position_embedding_type": "alibi"},
    "bigcode/santacoder": {"architectures": ["GPT2LMHeadCustomModel"]},
}


def file_of(entry: Entry) -> str:
    """Name of the file in ``atoll/models`` that implements an entry's architecture."""
    raw: dict[str, Any] = {"model_type": entry.model_type}
    for start, more in _FIELDS.items():
        if entry.model_id.startswith(start):
            raw.update(more)
    table = DECODERS if entry.task == "generate" else ENCODERS
    return architecture(raw, table).__name__.rpartition(".")[2]


def test_of(file: str) -> str:
    """The test that holds an architecture to its reference."""
    return _TESTS.get(file, _TEST_OF_DECODERS)


def models_page() -> str:
    """docs/models.md: every entry with its checkpoint, its file and its test."""
    lines = [
        "# Models",
        "",
        "Every entry of [model_repository/](../model_repository), the checkpoint it serves, the "
        "file that implements its architecture, and the test that holds that to transformers (to "
        "a float64 reference written from the specification where transformers has none). Each "
        f"folder is also loaded and asked in a real server by [{_FOLDERS_TEST}](../"
        f"{_FOLDERS_TEST}).",
        "",
        "Any other checkpoint of these architectures is served with `atoll serve --model-id`. "
        "Generators of other architectures run on transformers' AutoModelForCausalLM or "
        "AutoModelForSeq2SeqLM in the same engine, best effort, and the log says so "
        "([fallback.py](../python_backends/atoll/models/fallback.py), "
        "[its test](../tests/engine/test_fallback.py)); encoders of other architectures are "
        "refused by name.",
        "",
        "Also refused by name: heads for other tasks (taggers, readers, reward models), ColBERT "
        "and other vectors of tokens, decoders that rank, classify or embed, models with parts for "
        "images or sound, a checkpoint's own code, translators whose target language a request "
        "would have to name (NLLB, mBART 50), adapters beside the weights, and keys of "
        "generation_config.json that would change every answer. `atoll info` says what a "
        "checkpoint is and what runs it, or why it is refused, in the server's words; --task says "
        "what a checkpoint is meant for.",
        "",
        "| entry | checkpoint | task | architecture | test |",
        "|-|-|-|-|-|",
    ]
    for entry in sorted(ENTRIES, key=_order):
        file = file_of(entry)
        lines.append(
            f"| [{entry.name}](../model_repository/{entry.name}) | {entry.model_id} "
            f"| {_TASKS[entry.task]} | [{file}.py](../python_backends/atoll/models/{file}.py) "
            f"| [{test_of(file).rpartition('/')[2]}](../{test_of(file)}) |"
        )
    return "\n".join(lines) + "\n"


def readme_table() -> str:
    """What stands in the README between its marks: a row per architecture file."""
    lines = ["| architectures | entries | file | test |", "|-|-|-|-|"]
    for file, families in _FAMILIES.items():
        entries = [entry for entry in ENTRIES if file_of(entry) == file]
        lines.append(
            f"| {families} | {_links(entries)} "
            f"| [{file}.py](python_backends/atoll/models/{file}.py) "
            f"| [{test_of(file).rpartition('/')[2]}]({test_of(file)}) |"
        )
    return "\n".join(lines) + "\n"


def _links(entries: Iterable[Entry]) -> str:
    return ", ".join(f"[{e.name}](model_repository/{e.name})" for e in sorted(entries, key=_order))


def _order(entry: Entry) -> tuple[int, str]:
    return list(_TASKS).index(entry.task), entry.name
