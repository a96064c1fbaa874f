"""docs/models.md and the README's table of models, rendered from the catalogue."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from atoll.catalogue import ENTRIES, Entry
from atoll.cli.model_sections import speech_section, translation_section
from atoll.models.encoder_families import DECODERS_ON_TRANSFORMERS, ENCODERS_ON_TRANSFORMERS
from atoll.models.families import CAUSAL, FAMILIES, NESTED, ON_TRANSFORMERS, RECURRENT
from atoll.models.family import Family
from atoll.models.registry import architecture, table_of
from atoll.models.rerankers import NAMES, TEMPLATES
from atoll.weights.static_files import STATIC_TYPES

_FOLDERS_TEST = "tests/server/test_repository.py"
# Of decoders, by their entries' task.
_DECODERS_TESTS = {
    "embed": "tests/encoders/test_embedders.py",
    "rerank": "tests/encoders/test_decoder_rerankers.py",
}
_TASKS = {
    "embed": "embeddings", "sparse": "sparse embeddings", "multi_vector": "late interaction",
    "rerank": "reranking", "classify": "classification", "token_classify": "token classification",
    "generate": "generation", "transcribe": "speech recognition",
}  # fmt: skip
# What has no trunk, and so no config.json to be told by.
_STATIC = Family(
    "static_embedding", "StaticEmbedding, model2vec", (), is_encoder=True,
    test="tests/encoders/test_static_embedders.py",
)  # fmt: skip
_ROWS = (*FAMILIES, _STATIC)
# Fields of config.json that select a file and that an entry does not have.
_FIELDS: dict[str, dict[str, Any]] = {
    "jinaai/jina-embeddings-v2": {"position_embedding_type": "alibi"},
    "bigcode/santacoder": {"architectures": ["GPT2LMHeadCustomModel"]},
}


def file_of(entry: Entry) -> str:
    """Name of the file in ``atoll/models`` that implements an entry's architecture."""
    if entry.model_type in STATIC_TYPES:
        return _STATIC.file
    kinds = NESTED.get(entry.model_type, (entry.model_type,))
    raw: dict[str, Any] = {"model_type": kinds[0]}
    for start, more in _FIELDS.items():
        if entry.model_id.startswith(start):
            raw.update(more)
    return architecture(raw, table_of(raw, entry.task)).__name__.rpartition(".")[2]


def models_page() -> str:
    """docs/models.md: every entry with its checkpoint, its file and its test."""
    lines = [
        "# Models",
        "",
        "Every entry of [model_repository/](../model_repository), the checkpoint it serves, the "
        "file that implements its architecture, and the test that compares it with transformers "
        "(or, if transformers does not have it, with a float64 reference written from the "
        "specification). "
        f"[{_FOLDERS_TEST}](../{_FOLDERS_TEST}) also loads and queries each folder in a real "
        "server.",
        "",
        "To serve any other checkpoint of these architectures, use `atoll serve --model-id`. "
        "Generators of other architectures [run on transformers](#on-transformers), best effort, "
        "and so do [these encoders](#encoders-on-transformers). Other encoders are refused with an "
        "error that names the architecture. A generator's architecture embeds texts where "
        "modules.json says so, or with `--task embed` and `--pooling`, and scores tokens where its "
        "class is `...ForTokenClassification`.",
        "",
        "Also refused, with an error that names the reason: heads for other tasks (question "
        "answering, reward models), multi-vector models of images or with pooled tokens, "
        "[decoders that rerank](#decoders-that-rerank) where no file says how they are asked, "
        "models with parts for images or sound other than [those that embed images]"
        "(#texts-and-images) and [those that transcribe](#speech) (of "
        f"{' and '.join(sorted(NESTED))}, the text part is served, and images are refused), code "
        "that comes with a checkpoint, translation models on transformers whose target language a "
        "request would have to name (NLLB's experts, SeamlessM4T), adapters next to the weights, "
        "and keys of generation_config.json that would change every answer. `atoll info` shows "
        "what a checkpoint is and what runs it, or why the server would refuse it; --task sets "
        "what a checkpoint is used for.",
        "",
        "| entry | checkpoint | task | architecture | test |",
        "|-|-|-|-|-|",
    ]
    tests = {family.file: family.test for family in _ROWS}
    for entry in sorted(ENTRIES, key=_order):
        file = file_of(entry)
        is_decoder = entry.model_type in CAUSAL
        test = _DECODERS_TESTS.get(entry.task, tests[file]) if is_decoder else tests[file]
        lines.append(
            f"| [{entry.name}](../model_repository/{entry.name}) | {entry.model_id} "
            f"| {_TASKS[entry.task]} | [{file}.py](../python_backends/atoll/models/{file}.py) "
            f"| [{test.rpartition('/')[2]}](../{test}) |"
        )
    sections = (
        translation_section,
        speech_section,
        _image_section,
        _reranker_section,
        _fallback_section,
        _encoder_section,
    )
    return "\n".join([*lines, *(line for section in sections for line in ("", *section()))]) + "\n"


def _image_section() -> list[str]:
    """How models for texts and images are served."""
    return [
        "## Texts and images",
        "",
        "CLIP, SigLIP and the checkpoints of SigLIP 2 for images of one size (model_type `siglip`) "
        "embed texts and images into one space, from one entry: plain folders of transformers, "
        "and those of sentence-transformers (`CLIPModel` modules such as clip-ViT-B-32, or a "
        "Transformer module). Vectors are those of transformers' get_text_features and "
        "get_image_features. SigLIP's texts are filled up with padding, as the model was trained "
        'and as its processor does with `padding="max_length"`. SigLIP 2 was trained with texts '
        "in lower case, which its tokenizer leaves to the caller, as in transformers.",
        "",
        "The optional tensor `image` holds the bytes of a PNG, JPEG, WebP or GIF file with one "
        "picture, or a data URI; a request has either images or texts. Images are resized as "
        "preprocessor_config.json says, with Pillow, as transformers' processors without "
        "torchvision do, and turned as EXIF says, as by its `load_image`; transparency is dropped. "
        "Nothing is fetched or opened: addresses and paths are refused by name. The settings "
        "`max_image_bytes` and `max_image_pixels` limit an image, the latter by its header, "
        "before it is decoded.",
    ]


def _reranker_section() -> list[str]:
    """How decoders are asked about a document."""
    return [
        "## Decoders that rerank",
        "",
        "Every generator's architecture with a file here (but T5 and BART) also reranks, and "
        "classifies with a head of its own (`...ForSequenceClassification`). The text that asks "
        "about a document is, in this order:",
        "",
        "1. what the setting `reranker_template` names, with `--task rerank` if neither the name "
        "nor the card says that the checkpoint reranks: "
        f"{', '.join(f'`{name}`' for name in TEMPLATES)};",
        "2. the checkpoint's chat template, if it has the roles `query` and `document`, as folders "
        "of sentence-transformers 6 have; a message of the role `system` holds the instruction;",
        "3. that of a published family whose name is part of the checkpoint's: "
        f"{', '.join(f'`{name}`' for name in NAMES)}.",
        "",
        "Without any of these a checkpoint that is to rerank, by `--task`, its name or its card, "
        "is refused. Nothing else tells a Qwen3-Reranker from a Qwen3 that generates: a copy in a "
        "folder of another name, without its card and such a template, is served as a generator "
        "unless it is started with `--task rerank --reranker-template qwen3-reranker`. The "
        "score is the sigmoid of a difference of logits (`yes` less `no`, `1` less `0`, or what "
        "a module LogitScore says), of one logit (`Yes`), or of the head; `raw_scores` gives "
        "the logit itself. A request's `instruction` replaces the default one. If a text is too "
        "long, its document is cut, and never the query or what follows the document: a query "
        "that leaves no room for a document is refused, also if `truncate` is set. With `pair`, "
        "texts are cut as an encoder's pairs are.",
        "",
        "The tokens that the documents of a query begin with, which are the instruction and the "
        "query, are computed once for all documents of a request that are in the same batch, "
        "unless rotary positions are scaled by the length of each text (`dynamic`, `longrope`).",
    ]


def _fallback_section() -> list[str]:
    """What has no file here, and what it loses by that."""
    return [
        "## On transformers",
        "",
        "A generator whose architecture has no file here runs on transformers' "
        "AutoModelForCausalLM or AutoModelForSeq2SeqLM, best effort, in the same engine: "
        "streaming, sampling, grammars, chunked prompts, preemption and cancelling are as for "
        "others ([fallback.py](../python_backends/atoll/models/fallback.py), "
        "[its test](../tests/engine/test_fallback.py)). What it loses:",
        "",
        "- Speed: sequences of a step run one after another, without our kernels and graphs; "
        "requests are not batched.",
        "- The paged cache: each text has a cache of transformers' own, and these take at most a "
        "quarter of the memory that was free; one that was dropped is computed again. Requests "
        "share no prefixes: a prompt is computed whole, also if another began the same way.",
        "- `dtype` int8 and int4, `quantize`, `lora_adapters`, `num_shard` and `rope_scaling`, "
        "which are refused by name.",
        "- If layers have a recurrent state (Mamba, linear attention, convolutions), every token "
        "computes the whole text again.",
        "",
        "`atoll info` says all this of a checkpoint. These are known to run; others of "
        "transformers may, and are refused while loading if they cannot continue a text in parts. "
        "Models with parts for images or sound are refused, as above.",
        "",
        "| architectures | model_type | recurrent |",
        "|-|-|-|",
        *(
            f"| {title} | {', '.join(f'`{kind}`' for kind in kinds)} "
            f"| {', '.join(f'`{k}`' for k in kinds if k in RECURRENT)} |"
            for title, kinds in ON_TRANSFORMERS.items()
        ),
    ]


def _encoder_section() -> list[str]:
    """Encoders that have no file here, and what they lose by that."""
    return [
        "## Encoders on transformers",
        "",
        "An encoder of these families runs on transformers' AutoModel, AutoModelForMaskedLM, "
        "AutoModelForSequenceClassification or AutoModelForTokenClassification, best effort: for "
        "embeddings, sparse embeddings, reranking, classification of texts and of tokens, with "
        "pooling, prompts, Dense modules and limits as for others "
        "([fallback_encoder.py](../python_backends/atoll/models/fallback_encoder.py), "
        "[its test](../tests/encoders/test_fallback_encoders.py)). What it loses:",
        "",
        "- Speed: texts of a batch are padded to the longest of their group, without our kernels "
        "and graphs. Where padding would change an answer (ConvBERT, FNet, Funnel, MobileBERT, "
        "Nyströmformer), which is tried when the model is loaded, only texts of one length share "
        "a group.",
        "- `dtype` int8 and int4, and `quantize`, which are refused by name.",
        "- Memory: a sparse embedding has the scores of all its tokens in memory at once.",
        "- BigBird is served as far as its attention is full; beyond, what transformers computes "
        "would depend on the texts before. Of T5, mT5 and umT5, the encoder embeds, and nothing "
        "else.",
        "- Of the generators above, "
        f"{', '.join(DECODERS_ON_TRANSFORMERS)} embed, too, with the pooling of modules.json or "
        "of `--pooling`; the others are refused as embedders.",
        "",
        "`atoll info` says all this of a checkpoint. Families are refused by name that need more "
        "than a text's tokens (LayoutLM, TAPAS, RoCBert, XLM and X-MOD where each text needs its "
        "language), or that transformers computes differently from run to run (YOSO) or not at "
        "all on CPUs (MRA). Tokenizers need a tokenizer.json where transformers has no fast one "
        "(FlauBERT, XLM).",
        "",
        "| architectures | model_type |",
        "|-|-|",
        *(
            f"| {title} | {', '.join(f'`{kind}`' for kind in kinds)} |"
            for title, kinds in ENCODERS_ON_TRANSFORMERS.items()
        ),
    ]


def readme_table() -> str:
    """The README's table between its marks: a row per architecture file."""
    lines = ["| architectures | entries | file | test |", "|-|-|-|-|"]
    for family in _ROWS:
        file, test = family.file, family.test
        entries = [entry for entry in ENTRIES if file_of(entry) == file]
        lines.append(
            f"| {family.title} | {_links(entries)} "
            f"| [{file}.py](python_backends/atoll/models/{file}.py) "
            f"| [{test.rpartition('/')[2]}]({test}) |"
        )
    return "\n".join(lines) + "\n"


def _links(entries: Iterable[Entry]) -> str:
    return ", ".join(f"[{e.name}](model_repository/{e.name})" for e in sorted(entries, key=_order))


def _order(entry: Entry) -> tuple[int, str]:
    return list(_TASKS).index(entry.task), entry.name
