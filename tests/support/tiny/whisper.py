"""A tiny Whisper in the published layout: windows of a second, a word for each letter."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor
from transformers import (
    GenerationConfig,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
)

from tiny.checkpoint import enliven

_LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789.,"
_NUM_TIMES = 51
_SPECIAL = (
    "<|endoftext|>", "<|startoftranscript|>", "<|en|>", "<|fr|>", "<|de|>", "<|translate|>",
    "<|transcribe|>", "<|startoflm|>", "<|startofprev|>", "<|nospeech|>", "<|notimestamps|>",
)  # fmt: skip
_WORDS = [*pre_tokenizers.ByteLevel.alphabet()]
_WORDS.sort()
FIRST_SPECIAL = len(_WORDS)
END, START, ENGLISH, FRENCH, GERMAN, TRANSLATE, TRANSCRIBE, _, PREVIOUS, _, NO_TIMES = range(
    FIRST_SPECIAL, FIRST_SPECIAL + len(_SPECIAL)
)
FIRST_TIME = NO_TIMES + 1
VOCAB = FIRST_TIME + _NUM_TIMES
CONFIG: dict[str, Any] = {
    "architectures": ["WhisperForConditionalGeneration"], "model_type": "whisper",
    "vocab_size": VOCAB, "num_mel_bins": 20, "d_model": 48, "encoder_layers": 2,
    "decoder_layers": 2, "encoder_attention_heads": 4, "decoder_attention_heads": 4,
    "encoder_ffn_dim": 80, "decoder_ffn_dim": 96, "activation_function": "gelu",
    "max_source_positions": 50, "max_target_positions": 40, "scale_embedding": False,
    "is_encoder_decoder": True, "decoder_start_token_id": START, "bos_token_id": END,
    "eos_token_id": END, "pad_token_id": END,
}  # fmt: skip
# Distil-Whisper's: fewer layers in the decoder.
DISTILLED = {**CONFIG, "decoder_layers": 1, "num_mel_bins": 24}
CONFIGS = {"whisper": CONFIG, "distil-whisper": DISTILLED}
GENERATION: dict[str, Any] = {
    "begin_suppress_tokens": [5, END], "bos_token_id": END, "decoder_start_token_id": START,
    "eos_token_id": END, "pad_token_id": END, "is_multilingual": True,
    "forced_decoder_ids": [[1, None], [2, TRANSCRIBE]],
    "lang_to_id": {"<|en|>": ENGLISH, "<|fr|>": FRENCH, "<|de|>": GERMAN},
    "task_to_id": {"transcribe": TRANSCRIBE, "translate": TRANSLATE},
    "no_timestamps_token_id": NO_TIMES, "prev_sot_token_id": PREVIOUS,
    "max_initial_timestamp_index": 20, "max_length": 40, "return_timestamps": False,
    "suppress_tokens": [1, 2, *range(START, NO_TIMES)],
}  # fmt: skip
ENGLISH_ALONE = {
    **{k: v for k, v in GENERATION.items() if k not in ("lang_to_id", "task_to_id")},
    "is_multilingual": False, "forced_decoder_ids": [[1, NO_TIMES]],
}  # fmt: skip


def write_whisper(
    kind: str, folder: Path, generation: dict[str, Any] = GENERATION, seed: int = 0
) -> Any:
    """The transformers model, and its checkpoint with all files that a published one has."""
    config = CONFIGS[kind]
    model = WhisperForConditionalGeneration(WhisperConfig(**config)).eval()
    enliven(model)
    torch.manual_seed(seed)
    # Sinusoids that differ from the file's must show.
    model.model.encoder.embed_positions.weight.data.normal_(0, 0.5)
    model.generation_config = GenerationConfig(**generation)
    tensors = {k: v.detach().clone() for k, v in model.state_dict().items()}
    del tensors["proj_out.weight"]
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "generation_config.json").write_text(json.dumps(generation))
    extractor(kind).save_pretrained(folder)
    write_speech_tokenizer(folder)
    return model


def extractor(kind: str = "whisper") -> WhisperFeatureExtractor:
    """transformers' own."""
    return WhisperFeatureExtractor(feature_size=CONFIGS[kind]["num_mel_bins"], chunk_length=1)


def write_speech_tokenizer(folder: Path) -> None:
    """A token for each byte, then those of speech, then times, which are not special."""
    vocab = {word: index for index, word in enumerate(_WORDS)}
    tokenizer = Tokenizer(models.BPE(vocab, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(_SPECIAL))
    times = (f"<|{number * 0.02:.2f}|>" for number in range(_NUM_TIMES))
    tokenizer.add_tokens([AddedToken(time, special=False) for time in times])
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "WhisperTokenizer", "bos_token": _SPECIAL[0], "eos_token": _SPECIAL[0],
        "unk_token": _SPECIAL[0], "pad_token": _SPECIAL[0],
    }  # fmt: skip
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def sound(seconds: float, seed: int = 0) -> npt.NDArray[np.float32]:
    """Tones that change, at 16 kHz, with some noise."""
    draw = np.random.default_rng(seed)
    time = np.arange(int(seconds * 16000)) / 16000
    pitch = 300 + 2000 * draw.random(int(seconds * 4) + 1)[(time * 4).astype(int)]
    loud = draw.random(int(seconds * 5) + 1)[(time * 5).astype(int)]
    wave = loud * np.sin(2 * np.pi * np.cumsum(pitch) / 16000) * 0.5
    return (wave + 0.01 * draw.standard_normal(len(time))).astype(np.float32)


@torch.inference_mode()
def scores(model: Any, features: Tensor, ids: list[int]) -> Tensor:
    """transformers' logits (tokens, vocab) behind features (bins, frames)."""
    out: Tensor = model(
        input_features=features[None], decoder_input_ids=torch.tensor([ids])
    ).logits[0]
    return out.float()
