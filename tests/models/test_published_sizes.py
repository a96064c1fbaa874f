"""Configs in the format of the hub's repositories give models of the published size."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from atoll.models.families import DECODERS, ENCODERS
from atoll.models.registry import Checkpoint, architecture, build

CONFIGS = Path(__file__).parents[1] / "data" / "hub_configs"

# Parameters that the model cards or the hub's safetensors metadata state, a tied head counted once;
# of models with parts for images those of the text part.
PUBLISHED = {
    "EleutherAI__gpt-j-6b": 6_050_882_784,
    "EleutherAI__gpt-neox-20b": 20_554_567_680,
    "EleutherAI__pythia-160m": 162_322_944,
    # Less the sinusoids, which no file need have.
    "Helsinki-NLP__opus-mt-en-de": 73_886_208,
    "HuggingFaceTB__SmolLM3-3B": 3_075_098_624,
    "LiquidAI__LFM2-350M": 354_483_968,
    "LiquidAI__LFM2-1.2B": 1_170_340_608,
    # As published, in bfloat16, and what corrects the choice of experts, in float32.
    "LiquidAI__LFM2-8B-A1B": 8_339_929_856 + 704,
    "Qwen__Qwen1.5-MoE-A2.7B": 14_315_784_192,
    "Qwen__Qwen2.5-0.5B-Instruct": 494_032_768,
    "Qwen__Qwen2.5-1.5B-Instruct": 1_543_714_304,
    "Qwen__Qwen2.5-7B-Instruct": 7_615_616_512,
    "Qwen__Qwen2.5-Coder-7B-Instruct": 7_615_616_512,
    "Qwen__Qwen3-0.6B": 596_049_920,
    "Qwen__Qwen3-1.7B": 1_720_574_976,
    "Qwen__Qwen3-30B-A3B": 30_532_122_624,
    "Qwen__Qwen3-4B": 4_022_468_096,
    "Qwen__Qwen3-8B": 8_190_735_360,
    "Qwen__Qwen3-14B": 14_768_307_200,
    "Qwen__Qwen3-32B": 32_762_123_264,
    "Qwen__Qwen3-Reranker-0.6B": 595_776_512,
    "allenai__OLMo-2-1124-7B": 7_298_617_344,
    "bigcode__gpt_bigcode-santacoder": 1_124_886_528,
    "bigcode__santacoder": 1_124_886_528,
    "bigcode__starcoder": 15_517_456_384,
    "bigcode__starcoder2-7b": 7_173_923_840,
    "bigscience__bloom": 176_247_271_424,
    "bigscience__bloom-560m": 559_214_592,
    "bigscience__bloom_n_head_variant": 1_065_314_304,
    "codellama__CodeLlama-7b-hf": 6_738_546_688,
    "deepseek-ai__DeepSeek-V2-Lite": 15_706_484_224,
    "facebook__bart-large-cnn": 406_290_432,
    "facebook__galactica-125m": 125_030_400,
    "facebook__galactica-30b": 29_968_103_424,
    "facebook__mbart-large-50-many-to-many-mmt": 610_879_488,
    "facebook__nllb-200-distilled-600M": 615_073_792,
    "facebook__opt-125m": 125_239_296,
    "facebook__opt-350m": 331_196_416,
    "google__flan-t5-base": 247_577_856,
    "google__flan-t5-xxl": 11_135_332_352,
    "google__gemma-3-1b-it": 999_885_952,
    # Of the text part: as published, less the vision tower and what projects its outputs.
    "google__gemma-3-4b-it": 4_300_079_472 - 419_816_304,
    "google__gemma-3-12b-it": 12_187_325_040 - 421_290_864,
    "google__gemma-3-27b-it": 27_432_406_640 - 423_060_336,
    # Less the towers and their projections, and keys and values that no layer reads.
    "google__gemma-4-E2B-it": 5_123_178_979 - 475_729_088 - 18_880_512,
    # Its index leaves out the factor at the end of each layer.
    "google__gemma-4-26B-A4B-it": 25_805_933_872 - 572_792_112 + 30,
    # Their cards say 8B, with the towers, and 30.7B.
    "google__gemma-4-E4B-it": 7_463_013_418,
    "google__gemma-4-31B-it": 30_697_345_340,
    "huggyllama__llama-7b": 6_738_415_616,
    "ibm-granite__granite-3.3-8b-instruct": 8_170_864_640,
    "ibm-granite__granite-4.0-h-tiny": 6_939_037_248,
    "llama_rope_dynamic": 6_738_415_616,
    "llama_rope_linear": 6_738_415_616,
    "meta-llama__Llama-2-70b-hf": 68_976_648_192,
    "meta-llama__Llama-2-7b-hf": 6_738_415_616,
    "meta-llama__Llama-3.1-8B": 8_030_261_248,
    "meta-llama__Llama-3.2-1B-Instruct": 1_235_814_400,
    "meta-llama__Llama-3.2-3B-Instruct": 3_212_749_824,
    "meta-llama__Llama-3.3-70B-Instruct": 70_553_706_496,
    "microsoft__Phi-4-mini-instruct": 3_836_021_760,
    "microsoft__phi-2": 2_779_683_840,
    "microsoft__phi-2_original_revision": 2_779_683_840,
    "microsoft__phi-4": 14_659_507_200,
    "mistralai__Mistral-7B-Instruct-v0.2": 7_241_732_096,
    "mistralai__Mistral-7B-v0.1": 7_241_732_096,
    "mistralai__Ministral-3-8B-Instruct-2512-BF16": 8_489_553_920,
    "mistralai__Mistral-Small-3.1-24B-Instruct-2503": 23_572_403_200,
    "mistralai__Mixtral-8x7B-Instruct-v0.1": 46_702_792_704,
    "mosaicml__mpt-30b": 29_957_200_896,
    "mosaicml__mpt-7b": 6_649_286_656,
    "mosaicml__mpt-7b-storywriter": 6_649_286_656,
    # As published, and what corrects the choice of experts.
    "nvidia__NVIDIA-Nemotron-3-Nano-30B-A3B-BF16": 31_577_937_344 + 2944,
    "nvidia__NVIDIA-Nemotron-Nano-9B-v2": 8_888_227_328,
    "openai-community__gpt2": 124_439_808,
    # As published, and zeros for the keys' biases, which no file has.
    "openai__whisper-large-v3": 1_543_490_560 + 96 * 1280,
    "openai__whisper-large-v3-turbo": 808_878_080 + 40 * 1280,
    "openai__whisper-tiny": 37_760_640 + 12 * 384,
    "openai__gpt-oss-120b": 116_829_156_672,
    "openai__gpt-oss-20b": 20_914_757_184,
    "state-spaces__mamba-130m-hf": 129_135_360,
    "tiiuae__Falcon-H1-0.5B-Instruct": 521_411_104,
    "tiiuae__Falcon-H1-7B-Instruct": 7_585_648_736,
    "tiiuae__falcon-40b": 41_303_293_952,
    "tiiuae__falcon-40b_original_RW_revision": 41_303_293_952,
    "tiiuae__falcon-7b": 6_921_720_704,
    "tiiuae__falcon-7b_original_RW_revision": 6_921_720_704,
    "tiiuae__falcon-rw-1b": 1_311_625_216,
    # Its card says 30B.
    "zai-org__GLM-4.7-Flash": 29_943_393_920,
}


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_parameter_count(name: str, tmp_path: Path) -> None:
    shutil.copy(CONFIGS / f"{name}.json", tmp_path / "config.json")
    raw = Checkpoint.open(tmp_path).raw
    model: Any = build(architecture(raw, DECODERS), raw)
    count = sum(p.numel() for p in model.parameters())
    if model.config.tie_word_embeddings:
        count -= model.lm_head.weight.numel()
    assert count == PUBLISHED[name]


# Of encoders, and how many labels the classifier has that is part of it. A trunk has no dense layer
# for the vector of a text, which a classifier's head has, or else the pooler; None: the published
# file has neither.
PUBLISHED_ENCODERS: dict[str, tuple[int, int | None]] = {
    # Less the head that weighs words.
    "Alibaba-NLP__gte-multilingual-base": (305_369_089 - 769, None),
    "BAAI__bge-m3": (567_754_752, 0),
    "BAAI__bge-reranker-v2-m3": (567_755_777, 1),
    "albert__albert-xxlarge-v2": (222_595_584, 0),
    "distilbert__distilbert-base-uncased-finetuned-sst-2-english": (66_955_010, 2),
    # Less what scales the products of vectors.
    "google__siglip-base-patch16-224": (203_155_970 - 2, None),
    "google__siglip2-base-patch16-224": (375_187_970 - 2, None),
    # Less the head that scores tokens.
    "dslim__bert-base-NER": (107_726_601 - 9 * 769, None),
    "intfloat__multilingual-e5-small": (117_653_760, 0),
    "nomic-ai__modernbert-embed-base": (149_014_272, None),
    "nomic-ai__nomic-embed-text-v2-moe": (475_292_928, None),
    "openai__clip-vit-base-patch32": (151_277_313 - 1, None),
    "protectai__deberta-v3-base-prompt-injection-v2": (184_423_682, 2),
    "sentence-transformers__all-mpnet-base-v2": (109_486_464, 0),
}


@pytest.mark.parametrize("name", sorted(PUBLISHED_ENCODERS))
def test_parameter_count_of_encoders(name: str, tmp_path: Path) -> None:
    shutil.copy(CONFIGS / f"{name}.json", tmp_path / "config.json")
    raw = Checkpoint.open(tmp_path).raw
    model: Any = build(architecture(raw, ENCODERS), raw)
    count, num_labels = PUBLISHED_ENCODERS[name]
    trunk, hidden = sum(p.numel() for p in model.parameters()), model.config.hidden_size
    head = 0 if num_labels is None else (hidden + 1) * (hidden + num_labels)
    assert trunk + head == count
