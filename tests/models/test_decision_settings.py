"""Settings that a checkpoint cannot be given, and those that decide what is served of it."""

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from engines import engine
from fallbacks import without_files
from lookalikes import BERT, LLAMA, STABLELM, folder_of
from tiny.checkpoint import enliven
from tiny.paged import PagedRunner

from atoll.cli.catalogue import info
from atoll.config import Settings
from atoll.errors import ConfigError
from atoll.models.detect import decide, read_model
from atoll.runner.load_model import load_model
from atoll.serving.engine_loader import load_engine


@pytest.mark.parametrize(
    "settings",
    [{"dtype": "int8"}, {"quantize": "gptq"}, {"rope_scaling": "linear", "rope_factor": "2"},
     {"lora_adapters": "a=/b"}],
    ids=lambda s: next(iter(s)),
)  # fmt: skip
def test_settings_that_transformers_models_cannot_be_given(
    settings: dict[str, str], tmp_path: Path
) -> None:
    """rope_scaling changed nothing, and quantize=gptq was taken for a checkpoint that is not."""
    folder = folder_of(tmp_path, STABLELM)
    asked = Settings.read({"model_id": str(folder), **settings}, {})
    for refuse in (lambda: decide(folder, asked), lambda: load_engine(asked, folder)):
        with pytest.raises(ConfigError, match=f"{next(iter(settings))} is .* runs on transformers"):
            refuse()


T5 = {
    "model_type": "t5", "architectures": ["T5ForConditionalGeneration"], "vocab_size": 96,
    "d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 1, "num_heads": 4,
    "is_encoder_decoder": True, "decoder_start_token_id": 0, "pad_token_id": 0,
}  # fmt: skip


GEMMA3 = {
    **LLAMA, "model_type": "gemma3_text", "architectures": ["Gemma3ForCausalLM"], "head_dim": 8,
}  # fmt: skip


@pytest.mark.parametrize(
    ("config", "settings", "message"),
    [
        (T5, {"dtype": "float16"}, "torch.float16 would overflow; use bfloat16"),
        (GEMMA3, {"dtype": "float16"}, "torch.float16 would overflow; use bfloat16"),
        (GEMMA3, {"rope_scaling": "linear", "rope_factor": "2"},
         "rope_scaling is 'linear'; model_type 'gemma3_text' has a rotation for layers with"),
        (T5, {"rope_scaling": "linear", "rope_factor": "2"},
         "rope_scaling is 'linear'; model_type 't5' has no rotary embedding"),
        ({**LLAMA, "model_type": "olmo3", "architectures": ["Olmo3ForCausalLM"]},
         {"rope_scaling": "dynamic", "rope_factor": "2"},
         "rope_scaling is 'dynamic'; model_type 'olmo3' has a rotation for layers with"),
        ({**LLAMA, "model_type": "ministral3", "architectures": ["Ministral3ForCausalLM"]},
         {"rope_scaling": "linear", "rope_factor": "2"},
         "rope_scaling is 'linear'; model_type 'ministral3' has llama_4_scaling_beta"),
        (LLAMA, {"quantize": "gptq"}, "quantize is 'gptq'; .* is not quantised"),
        (LLAMA, {"quantize": "fp8"}, "quantize is 'fp8'; .* is not quantised"),
        (LLAMA, {"quantize": "int2"}, "quantize is 'int2'; supported: "),
        (BERT, {"pooling": "median"}, "pooling is 'median'; known: "),
    ],
)  # fmt: skip
def test_settings_that_a_checkpoint_cannot_be_given(
    config: dict[str, Any], settings: dict[str, str], message: str, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    folder = folder_of(tmp_path, config)
    with pytest.raises(ConfigError, match=message):
        decide(folder, Settings.read({"model_id": str(folder), **settings}, {}))
    for name, value in settings.items():
        monkeypatch.setenv(f"ATOLL_{name.upper()}", value)
    with pytest.raises(ConfigError, match=message):
        info(str(folder))


PHI3 = {
    **LLAMA, "model_type": "phi3", "architectures": ["Phi3ForCausalLM"], "pad_token_id": 0,
    "max_position_embeddings": 64, "original_max_position_embeddings": 16,
    "rope_scaling": {"type": "longrope", "short_factor": [1.0] * 4, "long_factor": [4.0] * 4},
}  # fmt: skip


def _phi3(folder: Path) -> Any:
    model = hf.Phi3ForCausalLM(hf.Phi3Config(**PHI3)).eval()
    enliven(model)
    model.save_pretrained(folder)
    return model


def test_longrope_on_transformers_is_served_as_far_as_it_is_one_rope(tmp_path: Path) -> None:
    """Beyond, the keys of the cache had been rotated by other factors: logits were off by 9."""
    _phi3(tmp_path)
    with without_files("phi3"):
        found = read_model(tmp_path)
        assert found.max_tokens == 16 and "16 of its 64 positions" in found.notes[-1]
        with engine(tmp_path) as loaded:
            assert loaded.limits.max_total_tokens == 16
        with pytest.raises(ConfigError, match="max_total_tokens is 17; the model has 16 positions"):
            load_engine(Settings(model_id=str(tmp_path), max_total_tokens=17), tmp_path)


@pytest.mark.parametrize(
    ("served", "length", "note"),
    [
        (None, 40, "rotated by the long factors; max_total_tokens 16 or less"),
        (17, 17, "rotated by the long factors"),
        (16, 16, "rotated by the short factors"),
    ],
)
def test_longrope_has_one_list_of_factors_for_all_texts(
    served: int | None, length: int, note: str, tmp_path: Path
) -> None:
    """transformers changes the list with the length; up to there and beyond, logits are its."""
    reference = _phi3(tmp_path).double()
    settings = Settings(model_id=str(tmp_path), max_total_tokens=served)
    assert note in decide(tmp_path, settings).notes[-1]
    ids = torch.randint(4, 96, (length,), generator=torch.Generator().manual_seed(2)).tolist()
    runner = PagedRunner(load_model(settings, tmp_path).model)
    parts = [runner.step({"a": ids[: length - 1]})["a"], runner.step({"a": ids[-1:]})["a"]]
    expected = reference(torch.tensor([ids]), use_cache=False).logits[0].float()
    torch.testing.assert_close(torch.cat(parts), expected, atol=1e-4, rtol=0)
