"""One tiny checkpoint of every architecture, with our result of fixed ids and transformers'.

For tests that damage a file of the checkpoint and look at what becomes of it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers as hf
from safetensors.torch import save_file
from torch import Tensor, nn

from atoll.layers import Batch
from atoll.models.registry import Checkpoint, load_decoder, load_encoder
from atoll.weights.load import LoadOptions
from tiny.bart import CONFIGS, write_bart
from tiny.checkpoint import write
from tiny.decoders import DECODERS
from tiny.described_encoders import DESCRIBED
from tiny.embedders import EMBEDDERS
from tiny.encoders import TRUNKS, JinaReference
from tiny.llamas import VOCAB
from tiny.paged import PagedRunner
from tiny.t5 import write_t5
from tiny.towers import write_towers
from tiny.whisper import write_whisper

IDS = torch.randint(4, VOCAB, (19,), generator=torch.Generator().manual_seed(3)).tolist()
# Some embedders have the name of the decoder that they are made of, which is meant here.
_ALL = {variant.name: variant for variant in (*EMBEDDERS, *TRUNKS, *DECODERS)}


@dataclass(frozen=True)
class Family:
    """write: makes the checkpoint. ours: our result of its files. theirs: transformers' class; None
    where it does not know the layout. around: in force while that runs.
    """

    name: str
    write: Callable[[Path], Any]
    ours: Callable[[Path], Tensor]
    theirs: Any
    around: Callable[[], AbstractContextManager[Any]] = nullcontext

    def __str__(self) -> str:
        return self.name


@torch.inference_mode()
def _decoded(folder: Path) -> Tensor:
    return PagedRunner(load_decoder(Checkpoint.open(folder), LoadOptions())).step({"a": IDS})["a"]


@torch.inference_mode()
def _encoder_decoder(folder: Path) -> Tensor:
    runner = PagedRunner(load_decoder(Checkpoint.open(folder), LoadOptions()))
    runner.encode({"a": IDS})
    return runner.step({"a": IDS[:7]})["a"]


@torch.inference_mode()
def _transcribed(folder: Path) -> Tensor:
    runner = PagedRunner(load_decoder(Checkpoint.open(folder), LoadOptions()))
    frames = _spectrogram(runner.model.config.num_features).T.contiguous()
    runner.encode({"a": [0] * (len(frames) // 2)}, frames)
    return runner.step({"a": IDS[:7]})["a"]


def _spectrogram(num_features: int) -> Tensor:
    """(bins, frames)."""
    return torch.linspace(-30, 30, 100 * num_features).sin().view(num_features, 100)


@torch.inference_mode()
def _encoded(folder: Path) -> Tensor:
    model: Any = load_encoder(Checkpoint.open(folder), LoadOptions())
    bounds = torch.tensor([0, len(IDS)], dtype=torch.int32)
    batch = Batch(torch.tensor(IDS), torch.arange(len(IDS)), bounds, len(IDS) - 1)
    out: Tensor = model(batch)
    return out


@torch.inference_mode()
def _text_and_image(folder: Path) -> Tensor:
    """The vectors of a text and an image, one behind the other."""
    model: Any = load_encoder(Checkpoint.open(folder), LoadOptions())
    c = model.config
    ids = IDS[: c.max_length]
    bounds = torch.tensor([0, len(ids)], dtype=torch.int32)
    batch = Batch(torch.tensor(ids), torch.arange(len(ids)), bounds, len(ids) - 1)
    text = model.text_vectors(model.text(batch), batch)
    v = c.vision
    side, size = v.patches_per_side, v.patch_size
    pixels = _image(v.image_size)[:, : side * size, : side * size]
    grid = pixels.view(3, side, size, side, size).permute(1, 3, 0, 2, 4)
    count = v.num_tokens
    bounds, places = torch.tensor([0, count], dtype=torch.int32), torch.arange(count)
    patches = grid.reshape(side * side, -1)
    image = Batch(places, places, bounds, count - 1, pixels=patches)
    return torch.cat([text, model.image_vectors(model.vision(image), image)], -1)


def _image(size: int) -> Tensor:
    """(colours, rows, columns)."""
    return torch.linspace(-40, 40, 3 * size * size).sin().view(3, size, size)


@torch.inference_mode()
def theirs(family: Family, folder: Path) -> Tensor | None:
    """transformers' result; None where it refuses, or puts random numbers in a tensor's place."""
    try:
        model, report = family.theirs.from_pretrained(
            folder, dtype=torch.float32, output_loading_info=True
        )
    except Exception:
        return None
    needed = [key for key in report["missing_keys"] if "pooler" not in key]
    if needed or report["mismatched_keys"]:
        return None
    model, ids = model.eval(), torch.tensor([IDS])
    try:
        with family.around():
            if family.ours is _encoded:
                return _first(model(ids).last_hidden_state)
            if family.ours is _text_and_image:
                longest = model.config.text_config.max_position_embeddings
                size = model.config.vision_config.image_size
                text = model.get_text_features(ids[:, :longest]).pooler_output
                image = model.get_image_features(_image(size)[None]).pooler_output
                return torch.cat([text, image], -1).float()
            if family.ours is _transcribed:
                sound = _spectrogram(model.config.num_mel_bins)[None]
                return _first(model(input_features=sound, decoder_input_ids=ids[:, :7]).logits)
            if family.ours is _encoder_decoder:
                return _first(model(input_ids=ids, decoder_input_ids=ids[:, :7]).logits)
            return _first(model(ids, use_cache=False).logits)
    except Exception:
        return None


def _first(batch: Tensor) -> Tensor:
    return batch[0].float()


def _write_jina(folder: Path) -> JinaReference:
    reference = JinaReference(4)
    save_file(reference.tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(reference.config))
    return reference


def _variant(name: str, kind: Callable[[Path], Tensor], auto: Any) -> Family:
    def save(folder: Path) -> nn.Module:
        model: nn.Module = write(_ALL[name], folder).model
        return model

    return Family(name, save, kind, auto, _ALL[name].around)


FAMILIES = (
    *(
        _variant(name, _decoded, hf.AutoModelForCausalLM)
        for name in (
            "llama", "llama-biases", "llama-yarn", "llama-llama3", "mistral-window", "mixtral",
            "qwen2", "qwen2-old", "qwen3", "qwen3-biases", "qwen2-moe", "qwen3-moe",
            "bloom", "opt", "opt-350m", "galactica-large", "gpt-neox", "starcoder",
            "bigcode-multi-head", "falcon-7b", "falcon-40b", "falcon-rw", "mpt", "phi",
            "phi-qk-norms", "phi3-window", "phi4-mini",
            "gpt2", "gptj", "starcoder2", "smollm3", "granite", "olmo2",
            "cohere-qk-norms", "cohere2", "olmo3", "glm", "glm4",
            "gemma2", "gemma3", "gemma3-old",
            "gpt-oss", "gpt-oss-dense",
            "moonlight", "kimi-k2", "qwen3-next",
            "lfm2-old", "lfm2-moe", "granite-4-h", "falcon-h1-normed", "nemotron-h", "nemotron-3",
            "mamba2", "mamba",
        )
    ),
    *(
        _variant(name, _decoded, hf.AutoModelForImageTextToText)
        for name in (
            "mistral3", "ministral3", "gemma3-saved-again", "gemma4-e2b", "gemma4-26b", "qwen3.5",
        )
    ),
    *(
        _variant(name, _decoded, None)
        for name in (
            "mixtral-fused", "santacoder-split", "falcon-40b-old", "mpt-qk-norms",
            "mpt-learned-positions", "mpt-grouped", "phi-msft", "phi-mixformer",
        )
    ),
    *(
        Family(kind, lambda folder, kind=kind: write_t5(kind, folder), _encoder_decoder,
               hf.AutoModelForSeq2SeqLM)
        for kind in ("t5", "flan-t5")
    ),
    *(
        Family(kind, lambda folder, kind=kind: write_bart(kind, folder), _encoder_decoder,
               hf.AutoModelForSeq2SeqLM)
        for kind in CONFIGS
    ),
    Family("whisper", lambda folder: write_whisper("whisper", folder), _transcribed,
           hf.AutoModelForSpeechSeq2Seq),
    *(
        _variant(name, _encoded, hf.AutoModel)
        for name in (
            "bert", "bert-old-names", "roberta", "mpnet", "distilbert", "electra", "albert",
            "ernie", "modernbert", "modernbert-old", "gte", "nomic", "deberta", "deberta-all",
            "deberta-xlarge", "embedding-gemma",
        )
    ),
    *(_variant(name, _encoded, None) for name in ("gte-ntk", "nomic-new-names")),
    *(
        Family(name, lambda folder, name=name: write_towers(name, folder), _text_and_image,
               hf.AutoModel)
        for name in ("clip", "siglip")
    ),
    Family("jina", _write_jina, _encoded, None),
    *(
        Family(name, lambda folder, kind=kind: kind().write(folder), _encoded, None)
        for name, kind in DESCRIBED.items()
    ),
)  # fmt: skip
