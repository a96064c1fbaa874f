"""Families that only transformers knows, each through the whole engine, and those it refuses."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from engines import answers, engine
from fallbacks import without_files
from safetensors.torch import load_file, save_file
from tiny.checkpoint import enliven

from atoll.config import Settings
from atoll.errors import UnsupportedModel, WeightError
from atoll.models.fallback_choice import generates, is_recurrent
from atoll.models.families import DECODERS, ON_TRANSFORMERS, RECURRENT
from atoll.serving.engine_loader import load_engine

VOCAB, COUNT = 300, 16
PLAIN: dict[str, Any] = dict(
    vocab_size=VOCAB, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
    num_attention_heads=4, max_position_embeddings=128,
)  # fmt: skip
GROUPED = {**PLAIN, "num_key_value_heads": 2}
OLD: dict[str, Any] = dict(vocab_size=VOCAB, n_embd=32, n_layer=2, n_head=4, n_positions=128)
BART: dict[str, Any] = dict(
    vocab_size=VOCAB, d_model=32, encoder_layers=2, decoder_layers=2, encoder_ffn_dim=48,
    decoder_ffn_dim=48, encoder_attention_heads=4, decoder_attention_heads=4,
    max_position_embeddings=128, forced_eos_token_id=None,
)  # fmt: skip
# class, config, its values. Windows are shorter than the texts.
FAMILIES: Mapping[str, tuple[str, str, dict[str, Any]]] = {
    "gpt2": ("GPT2LMHeadModel", "GPT2Config", OLD),
    "gptj": ("GPTJForCausalLM", "GPTJConfig", {**OLD, "rotary_dim": 4}),
    "gemma2": ("Gemma2ForCausalLM", "Gemma2Config",
               {**GROUPED, "head_dim": 8, "sliding_window": 9}),
    "qwen2": ("Qwen2ForCausalLM", "Qwen2Config",
              {**GROUPED, "use_sliding_window": True, "sliding_window": 9, "max_window_layers": 1}),
    "qwen3": ("Qwen3ForCausalLM", "Qwen3Config", {**GROUPED, "head_dim": 8}),
    "stablelm": ("StableLmForCausalLM", "StableLmConfig", GROUPED),
    "bart": ("BartForConditionalGeneration", "BartConfig", BART),
    # Without decoder_start_token_id: begins with <s>, not with the padding token.
    "mbart": ("MBartForConditionalGeneration", "MBartConfig", BART),
}  # fmt: skip


@pytest.fixture(autouse=True, scope="module")
def fallback() -> Iterator[None]:
    """Also where one of these families has a file of its own by now."""
    with without_files(*FAMILIES):
        yield


def save(name: str, config: str, values: Mapping[str, Any], folder: Path) -> Any:
    """A lively checkpoint in ``folder``; returns the model as transformers reads it back."""
    model = getattr(hf, name)(getattr(hf, config)(**values)).eval()
    enliven(model)
    model.save_pretrained(folder)
    return type(model).from_pretrained(folder).eval()


def texts() -> list[list[int]]:
    generator = torch.Generator().manual_seed(4)
    first, other = torch.randint(3, VOCAB, (26,), generator=generator).split([19, 7])
    return [first.tolist(), other.tolist(), [*first[:9].tolist(), *other.tolist()]]


@torch.inference_mode()
def expected(reference: Any, ids: list[int]) -> list[int]:
    out = reference.generate(
        torch.tensor([ids]), attention_mask=torch.ones(1, len(ids), dtype=torch.int64),
        max_new_tokens=COUNT, do_sample=False, num_beams=1, eos_token_id=None, pad_token_id=0,
    )  # fmt: skip
    found: list[int] = out[0, 1 if reference.config.is_encoder_decoder else len(ids) :].tolist()
    return found


@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_alone_and_together(family: str, tmp_path: Path) -> None:
    reference = save(*FAMILIES[family], tmp_path)
    wanted = [expected(reference, ids) for ids in texts()]
    with engine(tmp_path) as loaded:
        assert answers(loaded, texts()[:1], COUNT) == wanted[:1]
        assert answers(loaded, texts(), COUNT) == wanted


# The layers of published ones, where transformers assumes others.
LAYERS: Mapping[str, dict[str, Any]] = dict.fromkeys(
    ("lfm2", "lfm2_moe"), {"num_hidden_layers": 2, "layer_types": ["conv", "full_attention"]}
)


@pytest.mark.parametrize("kind", [kind for kinds in ON_TRANSFORMERS.values() for kind in kinds])
def test_what_the_page_lists_is_what_transformers_runs(kind: str) -> None:
    """And what it says of their layers, by which ``info`` tells what they lose."""
    assert kind not in DECODERS and generates(kind)
    config = hf.AutoConfig.for_model(kind, **LAYERS.get(kind, {}))
    assert is_recurrent(config) == (kind in RECURRENT)


VISION = dict(
    hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=4,
    image_size=16, patch_size=8,
)  # fmt: skip
XLNET = dict(vocab_size=VOCAB, d_model=32, n_layer=2, n_head=4, d_inner=48)
REFUSED: Mapping[str, tuple[tuple[str, str, dict[str, Any]], str]] = {
    "images": (
        ("CLIPModel", "CLIPConfig", {"text_config": PLAIN, "vision_config": VISION}),
        "CLIPModel .*'clip'.* is no text generator",
    ),
    "sees ahead": (
        ("BertForMaskedLM", "BertConfig", PLAIN), "BertForMaskedLM: .* it is no decoder",
    ),
    "permutes": (
        ("XLNetLMHeadModel", "XLNetConfig", XLNET), "XLNetLMHeadModel: .* it is no decoder",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_work_is_named(case: str, tmp_path: Path) -> None:
    """Their answers were noise, or the message listed every architecture of transformers."""
    what, message = REFUSED[case]
    save(*what, tmp_path)
    with pytest.raises(UnsupportedModel, match=message):
        load_engine(Settings(model_id=str(tmp_path)), tmp_path)


def _without(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.layers.1.mlp.down_proj.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def _cut(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-4])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_without, r"Qwen3ForCausalLM: model\.layers\.1\.mlp\.down_proj\.weight not in"),
        (_cut, r"model\.safetensors: cannot be read"),
    ],
)
def test_damaged_weights_are_named(
    damage: Callable[[Path], None], message: str, tmp_path: Path
) -> None:
    """transformers answers with random numbers in place of a missing tensor."""
    save(*FAMILIES["qwen3"], tmp_path)
    damage(tmp_path)
    with pytest.raises(WeightError, match=message):
        load_engine(Settings(model_id=str(tmp_path)), tmp_path)
