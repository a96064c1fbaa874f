"""Generators that come with an entry: TGI's list, newer ones, and some that a laptop can run."""

from typing import NamedTuple


class Generator(NamedTuple):
    """An entry of task "generate" or "transcribe"; ``model_type`` is config.json's."""

    name: str
    model_id: str
    model_type: str


GENERATORS = (
    Generator("bart-large-cnn", "facebook/bart-large-cnn", "bart"),
    Generator("bart-large-xsum", "facebook/bart-large-xsum", "bart"),
    Generator("bloom", "bigscience/bloom", "bloom"),
    Generator("bloom-560m", "bigscience/bloom-560m", "bloom"),
    Generator("code-llama-7b", "codellama/CodeLlama-7b-hf", "llama"),
    Generator("deepseek-v2-lite", "deepseek-ai/DeepSeek-V2-Lite", "deepseek_v2"),
    Generator("distilbart-cnn-12-6", "sshleifer/distilbart-cnn-12-6", "bart"),
    Generator("falcon-40b", "tiiuae/falcon-40b", "falcon"),
    Generator("falcon-7b", "tiiuae/falcon-7b", "falcon"),
    Generator("falcon-h1-0.5b-instruct", "tiiuae/Falcon-H1-0.5B-Instruct", "falcon_h1"),
    Generator("falcon-h1-1.5b-instruct", "tiiuae/Falcon-H1-1.5B-Instruct", "falcon_h1"),
    Generator("falcon-h1-34b-instruct", "tiiuae/Falcon-H1-34B-Instruct", "falcon_h1"),
    Generator("falcon-h1-7b-instruct", "tiiuae/Falcon-H1-7B-Instruct", "falcon_h1"),
    Generator("falcon-mamba-7b", "tiiuae/falcon-mamba-7b", "falcon_mamba"),
    Generator("flan-t5-base", "google/flan-t5-base", "t5"),
    Generator("flan-t5-small", "google/flan-t5-small", "t5"),
    Generator("flan-t5-xxl", "google/flan-t5-xxl", "t5"),
    Generator("galactica-120b", "facebook/galactica-120b", "opt"),
    Generator("gemma-3-12b-it", "google/gemma-3-12b-it", "gemma3"),
    Generator("gemma-3-1b-it", "google/gemma-3-1b-it", "gemma3_text"),
    Generator("gemma-3-27b-it", "google/gemma-3-27b-it", "gemma3"),
    Generator("gemma-3-4b-it", "google/gemma-3-4b-it", "gemma3"),
    Generator("gemma-4-26b-a4b-it", "google/gemma-4-26B-A4B-it", "gemma4"),
    Generator("gemma-4-31b-it", "google/gemma-4-31B-it", "gemma4"),
    Generator("gemma-4-e2b-it", "google/gemma-4-E2B-it", "gemma4"),
    Generator("gemma-4-e4b-it", "google/gemma-4-E4B-it", "gemma4"),
    Generator("glm-4.7-flash", "zai-org/GLM-4.7-Flash", "glm4_moe_lite"),
    Generator("gpt-neox-20b", "EleutherAI/gpt-neox-20b", "gpt_neox"),
    Generator("gpt-oss-120b", "openai/gpt-oss-120b", "gpt_oss"),
    Generator("gpt-oss-20b", "openai/gpt-oss-20b", "gpt_oss"),
    Generator("gpt2", "openai-community/gpt2", "gpt2"),
    Generator("granite-3.3-8b", "ibm-granite/granite-3.3-8b-instruct", "granite"),
    Generator("granite-4.0-h-micro", "ibm-granite/granite-4.0-h-micro", "granitemoehybrid"),
    Generator("granite-4.0-h-small", "ibm-granite/granite-4.0-h-small", "granitemoehybrid"),
    Generator("granite-4.0-h-tiny", "ibm-granite/granite-4.0-h-tiny", "granitemoehybrid"),
    Generator("granite-4.0-micro", "ibm-granite/granite-4.0-micro", "granitemoehybrid"),
    Generator("lfm2-1.2b", "LiquidAI/LFM2-1.2B", "lfm2"),
    Generator("lfm2-2.6b", "LiquidAI/LFM2-2.6B", "lfm2"),
    Generator("lfm2-350m", "LiquidAI/LFM2-350M", "lfm2"),
    Generator("lfm2-700m", "LiquidAI/LFM2-700M", "lfm2"),
    Generator("lfm2-8b-a1b", "LiquidAI/LFM2-8B-A1B", "lfm2_moe"),
    Generator("llama-2-13b", "meta-llama/Llama-2-13b-hf", "llama"),
    Generator("llama-2-70b", "meta-llama/Llama-2-70b-hf", "llama"),
    Generator("llama-2-7b", "meta-llama/Llama-2-7b-hf", "llama"),
    Generator("llama-3.1-8b-instruct", "meta-llama/Llama-3.1-8B-Instruct", "llama"),
    Generator("llama-3.2-1b-instruct", "meta-llama/Llama-3.2-1B-Instruct", "llama"),
    Generator("llama-3.2-3b-instruct", "meta-llama/Llama-3.2-3B-Instruct", "llama"),
    Generator("llama-3.3-70b-instruct", "meta-llama/Llama-3.3-70B-Instruct", "llama"),
    Generator("llama-7b", "huggyllama/llama-7b", "llama"),
    Generator("m2m100-418m", "facebook/m2m100_418M", "m2m_100"),
    Generator("mamba-130m", "state-spaces/mamba-130m-hf", "mamba"),
    Generator(
        "mbart-large-50-many-to-many-mmt",
        "facebook/mbart-large-50-many-to-many-mmt",
        "mbart",
    ),
    Generator("ministral-3-8b", "mistralai/Ministral-3-8B-Instruct-2512-BF16", "ministral3"),
    Generator("mistral-7b-instruct-v0.2", "mistralai/Mistral-7B-Instruct-v0.2", "mistral"),
    Generator(
        "mistral-small-3.1-24b", "mistralai/Mistral-Small-3.1-24B-Instruct-2503", "mistral"
    ),
    Generator(
        "mixtral-8x7b-instruct-v0.1", "mistralai/Mixtral-8x7B-Instruct-v0.1", "mixtral"
    ),
    Generator("mpt-30b", "mosaicml/mpt-30b", "mpt"),
    Generator(
        "nemotron-3-nano-30b-a3b", "nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-BF16", "nemotron_h"
    ),
    Generator("nemotron-nano-12b-v2", "nvidia/NVIDIA-Nemotron-Nano-12B-v2", "nemotron_h"),
    Generator("nemotron-nano-9b-v2", "nvidia/NVIDIA-Nemotron-Nano-9B-v2", "nemotron_h"),
    Generator("nllb-200-1.3b", "facebook/nllb-200-1.3B", "m2m_100"),
    Generator("nllb-200-3.3b", "facebook/nllb-200-3.3B", "m2m_100"),
    Generator("nllb-200-distilled-600m", "facebook/nllb-200-distilled-600M", "m2m_100"),
    Generator("olmo-2-7b", "allenai/OLMo-2-1124-7B-Instruct", "olmo2"),
    Generator("opt-125m", "facebook/opt-125m", "opt"),
    Generator("opt-66b", "facebook/opt-66b", "opt"),
    Generator("opus-mt-en-de", "Helsinki-NLP/opus-mt-en-de", "marian"),
    Generator("opus-mt-en-mul", "Helsinki-NLP/opus-mt-en-mul", "marian"),
    Generator("opus-mt-mul-en", "Helsinki-NLP/opus-mt-mul-en", "marian"),
    Generator("phi-2", "microsoft/phi-2", "phi"),
    Generator("phi-4", "microsoft/phi-4", "phi3"),
    Generator("phi-4-mini", "microsoft/Phi-4-mini-instruct", "phi3"),
    Generator("pythia-160m", "EleutherAI/pythia-160m", "gpt_neox"),
    Generator("qwen2.5-0.5b-instruct", "Qwen/Qwen2.5-0.5B-Instruct", "qwen2"),
    Generator("qwen2.5-1.5b-instruct", "Qwen/Qwen2.5-1.5B-Instruct", "qwen2"),
    Generator("qwen2.5-7b-instruct", "Qwen/Qwen2.5-7B-Instruct", "qwen2"),
    Generator("qwen2.5-coder-7b-instruct", "Qwen/Qwen2.5-Coder-7B-Instruct", "qwen2"),
    Generator("qwen3-0.6b", "Qwen/Qwen3-0.6B", "qwen3"),
    Generator("qwen3-1.7b", "Qwen/Qwen3-1.7B", "qwen3"),
    Generator("qwen3-14b", "Qwen/Qwen3-14B", "qwen3"),
    Generator("qwen3-30b-a3b", "Qwen/Qwen3-30B-A3B", "qwen3_moe"),
    Generator("qwen3-32b", "Qwen/Qwen3-32B", "qwen3"),
    Generator("qwen3-4b", "Qwen/Qwen3-4B", "qwen3"),
    Generator("qwen3-8b", "Qwen/Qwen3-8B", "qwen3"),
    Generator("qwen3-coder-30b-a3b", "Qwen/Qwen3-Coder-30B-A3B-Instruct", "qwen3_moe"),
    Generator("qwen3-next-80b-a3b-instruct", "Qwen/Qwen3-Next-80B-A3B-Instruct", "qwen3_next"),
    Generator("qwen3.5-27b", "Qwen/Qwen3.5-27B", "qwen3_5"),
    Generator("qwen3.5-35b-a3b", "Qwen/Qwen3.5-35B-A3B", "qwen3_5_moe"),
    Generator("qwen3.5-4b", "Qwen/Qwen3.5-4B", "qwen3_5"),
    Generator("qwen3.5-9b", "Qwen/Qwen3.5-9B", "qwen3_5"),
    Generator("santacoder", "bigcode/santacoder", "gpt2"),
    Generator("smollm2-135m-instruct", "HuggingFaceTB/SmolLM2-135M-Instruct", "llama"),
    Generator("smollm3-3b", "HuggingFaceTB/SmolLM3-3B", "smollm3"),
    Generator("starcoder", "bigcode/starcoder", "gpt_bigcode"),
    Generator("starcoder2-7b", "bigcode/starcoder2-7b", "starcoder2"),
)  # fmt: skip

# Models that transcribe.
TRANSCRIBERS = (
    Generator("distil-large-v3.5", "distil-whisper/distil-large-v3.5", "whisper"),
    Generator("whisper-base", "openai/whisper-base", "whisper"),
    Generator("whisper-large-v3", "openai/whisper-large-v3", "whisper"),
    Generator("whisper-large-v3-turbo", "openai/whisper-large-v3-turbo", "whisper"),
    Generator("whisper-small", "openai/whisper-small", "whisper"),
    Generator("whisper-tiny", "openai/whisper-tiny", "whisper"),
)
