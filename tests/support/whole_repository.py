"""Every entry of model_repository/ over a tiny checkpoint of its architecture, a group of them in a
server."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from safetensors.torch import save_file
from serving import ONE_THREAD
from tiny.checkpoint import enliven, write
from tiny.debertas import V3 as DEBERTA_V3
from tiny.decoders import DECODERS
from tiny.embedders import embedding_gemma, mistral, qwen2, qwen3, write_embedder
from tiny.encoders import JinaReference, write_text_files
from tiny.gguf_files import FAMILIES, write_gguf
from tiny.late import write_colbert
from tiny.rerankers import write_reranker
from tiny.static import write_static
from tiny.t5 import write_t5
from tiny.tokenizer import write_tokenizer
from tiny.towers import write_towers

from atoll.catalogue import ENTRIES, Entry, read_repository
from atoll.launcher import ServerOptions, ServerProcess
from atoll.models.encoder_families import WITH_IMAGES
from atoll.weights.gguf.convert import prepare
from atoll.weights.static_files import STATIC_TYPES

REPOSITORY = Path(__file__).parents[2] / "model_repository"
MODELS = {model.name: model for model in read_repository(REPOSITORY)}
ENTRIES_BY_NAME = {entry.name: entry for entry in ENTRIES}
GENERATORS = sorted(name for name, model in MODELS.items() if model.task == "generate")
# Entries that others are made of come with them.
PIPELINES = [
    "all-minilm-l6-v2", "all-minilm-l6-v2-tokens", "all-minilm-l6-v2-ensemble",
    "bge-reranker-base", "splade-cocondenser-ensembledistil", "retrieve-rerank", "hybrid-search",
]  # fmt: skip

# All alike but for the generator's name: test_sessions talks to one of them.
SESSIONS = [f"{name}-session" for name in GENERATORS]
ENCODERS = sorted(MODELS.keys() - set(GENERATORS) - set(PIPELINES) - set(SESSIONS))
TEXTS = ["An atoll is a ring", "of coral"]
# Tokens: more than can leave together while the sender waits for its turn on a loaded machine.
COUNT = 32
PROMPT = "An atoll is"
# The hub's name of a repository, as a pattern -> the layout that it has.
DECODER_LAYOUTS = {
    "bigscience/": "bloom-old-6-heads",
    "codellama/": "llama-theta",
    "tiiuae/falcon-40b": "falcon-40b-old",
    "tiiuae/Falcon-H1": "falcon-h1",
    "tiiuae/falcon-mamba": "falcon-mamba",
    "tiiuae/": "falcon-7b",
    "deepseek-ai/": "deepseek-v2-lite",
    "zai-org/": "glm-4.7-flash",
    "facebook/galactica": "galactica-large",
    "facebook/opt": "opt",
    "EleutherAI/": "gpt-neox-old",
    "google/gemma-3-1b": "gemma3-old",
    "google/gemma-3": "gemma3-nested",
    "openai/gpt-oss": "gpt-oss",
    "openai-community/": "gpt2-no-prefix",
    "ibm-granite/granite-4": "granite-4-h",
    "ibm-granite/": "granite-tied",
    "LiquidAI/LFM2-8B": "lfm2-moe",
    "LiquidAI/": "lfm2-old",
    "nvidia/NVIDIA-Nemotron-3": "nemotron-3",
    "nvidia/": "nemotron-h",
    "state-spaces/": "mamba",
    "allenai/": "olmo2",
    "HuggingFaceTB/SmolLM3": "smollm3-old",
    "meta-llama/|huggyllama/|HuggingFaceTB/": "llama-mha-old",
    "mistralai/Mistral-Small": "mistral3",
    "mistralai/Ministral": "ministral3",
    "mistralai/Mistral": "mistral-full",
    "mistralai/Mixtral": "mixtral",
    "mosaicml/": "mpt",
    "Qwen/Qwen2": "qwen2-old",
    "Qwen/Qwen3-(Coder-)?30B": "qwen3-moe",
    "Qwen/Qwen3-Next": "qwen3-next",
    "Qwen/Qwen3.5-35B": "qwen3.5-moe",
    "Qwen/Qwen3.5": "qwen3.5",
    "Qwen/Qwen3": "qwen3",
    "microsoft/phi-4": "phi4",
    "microsoft/Phi-4-mini": "phi4-mini-old",
    "microsoft/phi": "phi",
    "bigcode/santacoder": "santacoder-split",
    "bigcode/starcoder2": "starcoder2",
    "bigcode/starcoder": "starcoder",
}

ENCODER_CLASSES = {
    "xlm-roberta": (hf.XLMRobertaConfig, hf.XLMRobertaModel),
    "camembert": (hf.CamembertConfig, hf.CamembertModel),
    "roberta": (hf.RobertaConfig, hf.RobertaModel),
    "bert": (hf.BertConfig, hf.BertModel),
    "mpnet": (hf.MPNetConfig, hf.MPNetModel),
    "distilbert": (hf.DistilBertConfig, hf.DistilBertModel),
    "modernbert": (hf.ModernBertConfig, hf.ModernBertModel),
    "gte": (hf.GteConfig, hf.GteModel),
    "new": (hf.GteConfig, hf.GteModel),
    "nomic_bert": (hf.NomicBertConfig, hf.NomicBertModel),
    "deberta-v2": (partial(hf.DebertaV2Config, **DEBERTA_V3), hf.DebertaV2Model),
}

# model_type of an embedder -> its folder, and its trunk.
DECODING_EMBEDDERS: dict[str, tuple[str, Callable[..., Any]]] = {
    "gemma3_text": ("embedding-gemma", embedding_gemma), "mistral": ("e5-mistral", mistral),
    "qwen2": ("gte-qwen2", qwen2), "qwen3": ("qwen3-embedding", qwen3),
}  # fmt: skip

# Of a decoder that reranks, the published one that a tiny checkpoint is made after.
DECODING_RERANKERS = {
    "qwen3": "Qwen3-Reranker-0.6B", "qwen2": "mxbai-rerank-base-v2",
    "gemma": "bge-reranker-v2-gemma",
}  # fmt: skip
BY_NAME = {variant.name: variant for variant in DECODERS}
# The generator whose tiny checkpoint is a GGUF file.
IN_GGUF = "granite-tied"


def shape(name: str) -> tuple[str, str, str]:
    """An entry's tiny checkpoint, and its folder's files but for the names of entry and checkpoint:
    entries of one shape differ in nothing that a server sees of them here.
    """
    entry, folder = ENTRIES_BY_NAME[name], REPOSITORY / name
    text = (folder / "config.pbtxt").read_text().replace(f'"{name}"', '""')
    model = (folder / "1" / "model.py").read_text().partition('"""')[2].partition('"""')[2]
    kind = f"jina {entry.model_type}" if "jina" in entry.model_id else entry.model_type
    if entry.task == "generate":
        kind = _layout(entry.model_id)
    elif "embedding" in entry.dims:
        # The tiny checkpoint is as wide as the entry says, whatever that is.
        text = text.replace(f"dims: [ {entry.dims['embedding']} ]", "")
    return f"{entry.task} {kind}", text.replace(f'"{entry.model_id}"', '""'), model


def _layout(model_id: str) -> str:
    """The name of a generator's tiny checkpoint."""
    if "t5" in model_id:
        return "flan-t5"
    return next(v for pattern, v in DECODER_LAYOUTS.items() if re.match(pattern, model_id))


def _one_of_each(names: list[str]) -> list[str]:
    return sorted({shape(name): name for name in reversed(names)}.values())


# What is served: of entries that are alike, the first.
SERVED_ENCODERS = _one_of_each(ENCODERS)
SERVED_GENERATORS = _one_of_each(GENERATORS)
# Entries in one server: a stub process each, half a gigabyte and seconds of both cores.
GROUP_SIZE = 8
GROUPS = [
    PIPELINES,
    *(SERVED_ENCODERS[i : i + GROUP_SIZE] for i in range(0, len(SERVED_ENCODERS), GROUP_SIZE)),
    *(SERVED_GENERATORS[i : i + GROUP_SIZE] for i in range(0, len(SERVED_GENERATORS), GROUP_SIZE)),
]


@dataclass(frozen=True)
class Served:
    """A loaded entry. reference: what ``_decoder`` or ``_encoder`` returned for its checkpoint."""

    server: ServerProcess
    name: str
    checkpoint: Path
    reference: Callable[..., torch.Tensor] | None


def _decoder(model_id: str, folder: Path) -> Callable[..., torch.Tensor]:
    """Writes a tiny generator; returns (prompt, answer) -> the logits that the answer is from."""
    write_tokenizer(folder)
    if _layout(model_id) == "flan-t5":
        t5 = write_t5("flan-t5", folder)

        @torch.inference_mode()
        def encoded(prompt: list[int], answer: list[int]) -> torch.Tensor:
            out = t5(
                input_ids=torch.tensor([prompt]),
                decoder_input_ids=torch.tensor([[0, *answer[:-1]]]),
            )
            found: torch.Tensor = out.logits[0]
            return found

        return encoded
    if _layout(model_id) == IN_GGUF:
        return _gguf(folder)
    decoder = write(BY_NAME[_layout(model_id)], folder)
    return lambda prompt, answer: decoder.logits(prompt + answer)[len(prompt) - 1 : -1]


def _gguf(folder: Path) -> Callable[..., torch.Tensor]:
    """As ``_decoder``: a generator in 4 bits whose tensors are read from a GGUF file."""
    hub, same, path = folder / "hub", folder / "same", folder / "tiny.gguf"
    write(BY_NAME[IN_GGUF], hub)
    write_gguf(hub, path, FAMILIES[IN_GGUF], lambda name: "Q4_1", same)
    prepare(path, folder)
    model = hf.AutoModelForCausalLM.from_pretrained(same, dtype=torch.float64).eval()

    @torch.inference_mode()
    def logits(prompt: list[int], answer: list[int]) -> torch.Tensor:
        found: torch.Tensor = model(torch.tensor([prompt + answer])).logits[0]
        return found[len(prompt) - 1 : -1].float()

    return logits


def _encoder(entry: Entry, folder: Path) -> Callable[..., torch.Tensor]:
    """Writes a tiny encoder as wide as its entry says; returns ids -> its hidden states."""
    if entry.task == "multi_vector":
        width = entry.dims["embedding"]
        write_colbert(folder, width=width, dim=width)
        return lambda ids: torch.empty(0)
    if entry.task == "rerank" and entry.model_type in DECODING_RERANKERS:
        write_reranker(DECODING_RERANKERS[entry.model_type], folder)
        return lambda ids: torch.empty(0)
    if entry.task == "embed" and entry.model_type in DECODING_EMBEDDERS:
        name, build = DECODING_EMBEDDERS[entry.model_type]
        return write_embedder(name, folder, partial(build, hidden_size=entry.dims["embedding"]))
    if entry.model_type in WITH_IMAGES:
        towers = write_towers(entry.model_type, folder, entry.dims["embedding"])
        return lambda ids: towers.text(ids)[None].float()
    if entry.model_type in STATIC_TYPES:
        table = write_static(folder, "plain", "", entry.dims["embedding"])["embedding.weight"]
        # Without the special tokens around the text.
        return lambda ids: table[ids[1:-1]].mean(0, keepdim=True)
    size = entry.dims["embedding"] if entry.task == "embed" else 48
    if "jina-embeddings-v2" in entry.model_id:
        jina = JinaReference(12 if size % 12 == 0 else 8, hidden=size, layers=1)
        save_file(jina.tensors, folder / "model.safetensors")
        (folder / "config.json").write_text(json.dumps(jina.config))
        write_text_files(folder)
        return jina.hidden
    options = dict(
        vocab_size=96, hidden_size=size, intermediate_size=64, num_hidden_layers=1,
        num_attention_heads=4, max_position_embeddings=70, type_vocab_size=1, pad_token_id=0,
        bos_token_id=2, cls_token_id=2, eos_token_id=3, sep_token_id=3,
    )  # fmt: skip
    config, model = ENCODER_CLASSES[entry.model_type]
    if entry.model_type == "distilbert":
        options["hidden_dim"] = options.pop("intermediate_size")
    if entry.task in ("rerank", "classify", "token_classify"):
        kind = "Token" if entry.task == "token_classify" else "Sequence"
        model = getattr(hf, model.__name__.replace("Model", f"For{kind}Classification"))
        options["num_labels"] = entry.dims.get("labels", 1)
    elif entry.task == "sparse":
        model = getattr(hf, model.__name__.replace("Model", "ForMaskedLM"))
    built = model(config(**options)).eval()
    enliven(built)
    built.save_pretrained(folder)
    # GTE has a name of its own in transformers.
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "model_type": entry.model_type}))
    write_text_files(folder)

    @torch.inference_mode()
    def hidden(ids: list[int]) -> torch.Tensor:
        found: torch.Tensor = built(torch.tensor([ids])).last_hidden_state[0]
        return found

    return hidden


def _checkpoint(name: str, folder: Path) -> Callable[..., torch.Tensor] | None:
    """The tiny checkpoint of an entry; a pipeline's step takes its encoder's."""
    folder.mkdir(parents=True)
    entry = ENTRIES_BY_NAME.get(name) or ENTRIES_BY_NAME.get(name.removesuffix("-tokens"))
    if entry is None:
        return None
    if entry.task == "generate":
        return _decoder(entry.model_id, folder)
    return _encoder(entry, folder)


def _scratch_copy(name: str, checkpoint: Path, target: Path) -> None:
    """The committed folder, its model_id replaced."""
    shutil.copytree(REPOSITORY / name, target / name)
    path = target / name / "config.pbtxt"
    text, count = re.subn(
        r'(key: "model_id"\s+value \{ string_value: )"[^"]*"',
        lambda match: f"{match[1]}{json.dumps(str(checkpoint))}",
        path.read_text(),
    )
    assert count <= 1
    path.write_text(text)


@contextmanager
def _served(names: list[str], base: Path) -> Iterator[dict[str, Served]]:
    """The entries in one server, each over a tiny checkpoint."""
    references = {}
    for name in names:
        references[name] = _checkpoint(name, base / "checkpoints" / name)
        _scratch_copy(name, base / "checkpoints" / name, base / "models")
    options = ServerOptions.on_free_ports(
        repository=base / "models", watch_interval_s=0.0, exit_timeout_s=3,
        environment={"ATOLL_MAX_BATCH_TOTAL_TOKENS": "1024", **ONE_THREAD},
    )  # fmt: skip
    with ServerProcess(options) as server:
        yield {
            name: Served(server, name, base / "checkpoints" / name, reference)
            for name, reference in references.items()
        }


class Groups:
    """Starts the server of a group when a test asks for it, and stops the one before."""

    def __init__(self, folders: pytest.TempPathFactory) -> None:
        self._folders, self._stack = folders, ExitStack()
        self._index, self._served = -1, dict[str, Served]()

    def of(self, name: str) -> dict[str, Served]:
        """The entries of the group that ``name`` is in."""
        index = next(i for i, names in enumerate(GROUPS) if name in names)
        if index != self._index:
            self.close()
            base = self._folders.mktemp("repository")
            self._served = self._stack.enter_context(_served(GROUPS[index], base))
            self._index = index
        return self._served

    def close(self) -> None:
        """Stops the server that runs."""
        self._index = -1
        self._stack.close()
