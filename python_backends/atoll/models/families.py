"""Which file implements which checkpoints: the one table of architectures.

The registry, detection and the rendered docs read it. A variant that only its config tells apart is
another name here, never a copied file. Nothing heavy is imported, as commands read this that load
no model.
"""

from collections.abc import Mapping

from atoll.models.encoder_families import ENCODER_FAMILIES
from atoll.models.family import Family
from atoll.models.family_defaults import (
    DEEPSEEK_V2,
    DEEPSEEK_V3,
    DELTA,
    GEMMA4,
    GLM4_MOE,
    GLM4_MOE_LITE,
    WHISPER,
)

_FALCON = ("RW", "Falcon")

# In the order of the README's table.
_DECODER_FAMILIES = (
    Family(
        "llama", "Llama 1 to 3.3, Code Llama, Mistral, Ministral, Devstral, SmolLM2",
        ("llama", "mistral", "ministral3", "llama_bidirec"),
        defaults={
            "mistral": {
                "num_key_value_heads": 8, "sliding_window": 4096,
                "max_position_embeddings": 131072,
            },
            "ministral3": {
                "num_key_value_heads": 8, "head_dim": 128, "max_position_embeddings": 262144,
                "rms_norm_eps": 1e-5,
                "rope_parameters": {
                    "rope_type": "yarn", "rope_theta": 1e6, "factor": 16.0,
                    "original_max_position_embeddings": 16384, "mscale": 1.0,
                    "mscale_all_dim": 1.0, "llama_4_scaling_beta": 0.1,
                },
            },
        },
    ),
    Family(
        "qwen", "Qwen2, Qwen2.5, Qwen3, their mixtures of experts",
        ("qwen2", "qwen3", "qwen2_moe", "qwen3_moe"),
        defaults={
            "qwen2": {
                "num_key_value_heads": 32, "sliding_window": 4096, "max_position_embeddings": 32768,
            },
            "qwen3": {
                "num_key_value_heads": 32, "sliding_window": 4096, "max_position_embeddings": 32768,
                "head_dim": 128,
            },
            "qwen2_moe": {
                "num_key_value_heads": 16, "sliding_window": 4096, "max_position_embeddings": 32768,
            },
            "qwen3_moe": {
                "num_key_value_heads": 4, "sliding_window": 4096, "max_position_embeddings": 32768,
            },
        },
    ),
    Family(
        "qwen3_next", "Qwen3.5, Qwen3.6 and Qwen3-Next, dense and with experts",
        ("qwen3_5_text", "qwen3_5_moe_text", "qwen3_next"),
        class_prefixes={
            **dict.fromkeys(("qwen3_5", "qwen3_5_text"), ("Qwen3_5",)),
            **dict.fromkeys(("qwen3_5_moe", "qwen3_5_moe_text"), ("Qwen3_5Moe",)),
        },
        defaults={
            "qwen3_5_text": {
                **DELTA, "vocab_size": 248320, "hidden_size": 4096, "intermediate_size": 12288,
                "num_hidden_layers": 32, "num_key_value_heads": 4,
            },
            "qwen3_5_moe_text": {
                **DELTA, "vocab_size": 248320, "num_hidden_layers": 40, "num_experts_per_tok": 8,
                "num_experts": 256,
            },
            "qwen3_next": {
                **DELTA, "vocab_size": 151936, "intermediate_size": 5632, "num_hidden_layers": 48,
                "num_experts_per_tok": 10, "num_experts": 512,
            },
        },
    ),
    Family(
        "mixtral", "Mixtral", ("mixtral",),
        defaults={"mixtral": {"num_key_value_heads": 8, "max_position_embeddings": 131072}},
    ),
    Family(
        "gpt_oss", "gpt-oss", ("gpt_oss",),
        defaults={
            "gpt_oss": {
                "head_dim": 64, "num_key_value_heads": 8, "sliding_window": 128,
                "max_position_embeddings": 131072,
            },
        },
    ),
    Family(
        "deepseek", "DeepSeek V2, V3 and R1, Moonlight, Kimi-K2, GLM-4.7-Flash",
        ("deepseek_v2", "deepseek_v3", "kimi_k2", "glm4_moe_lite"),
        class_prefixes={"kimi_k2": ("DeepseekV3",)},
        defaults={
            "deepseek_v2": DEEPSEEK_V2, "deepseek_v3": DEEPSEEK_V3, "kimi_k2": DEEPSEEK_V3,
            "glm4_moe_lite": GLM4_MOE_LITE,
        },
    ),
    Family(
        "glm4_moe", "GLM-4.5, GLM-4.6, GLM-4.7", ("glm4_moe",), defaults={"glm4_moe": GLM4_MOE},
    ),
    Family(
        "falcon", "Falcon 7B, 40B, RW", ("falcon", "RefinedWeb", "RefinedWebModel"),
        class_prefixes={"falcon": _FALCON, "RefinedWeb": _FALCON, "RefinedWebModel": _FALCON},
    ),
    Family("mpt", "MPT", ("mpt",)),
    Family(
        "phi", "Phi", ("phi", "phi-msft", "mixformer-sequential"),
        class_prefixes={"phi-msft": ("Phi",), "mixformer-sequential": ("MixFormerSequential",)},
    ),
    Family(
        "phi3", "Phi-3, Phi-3.5, Phi-4, Phi-4-mini", ("phi3",),
        defaults={
            "phi3": {
                "max_position_embeddings": 4096, "original_max_position_embeddings": 4096,
            },
        },
    ),
    Family(
        "gemma", "Gemma 1, 2, 3", ("gemma", "gemma2", "gemma3_text"),
        class_prefixes={"gemma3_text": ("Gemma3",)},
        defaults={
            "gemma": {
                "num_key_value_heads": 16, "head_dim": 256, "max_position_embeddings": 8192,
            },
            "gemma2": {
                "num_key_value_heads": 4, "head_dim": 256, "max_position_embeddings": 8192,
                "sliding_window": 4096, "attn_logit_softcapping": 50.0,
                "final_logit_softcapping": 30.0,
            },
            "gemma3_text": {
                "vocab_size": 262208, "num_attention_heads": 8, "num_key_value_heads": 4,
                "head_dim": 256, "max_position_embeddings": 131072, "sliding_window": 4096,
            },
        },
    ),
    Family(
        "gemma4", "Gemma 4", ("gemma4_text",), class_prefixes={"gemma4_text": ("Gemma4",)},
        defaults={"gemma4_text": GEMMA4},
    ),
    Family(
        "gpt_bigcode", "SantaCoder, StarCoder", ("gpt_bigcode",),
        classes=("GPT2LMHeadCustomModel",),
    ),
    Family(
        "starcoder2", "StarCoder2", ("starcoder2",),
        defaults={
            "starcoder2": {"num_key_value_heads": 2, "max_position_embeddings": 4096},
        },
    ),
    Family(
        "smollm3", "SmolLM3", ("smollm3",),
        defaults={"smollm3": {"num_key_value_heads": 4, "max_position_embeddings": 32768}},
    ),
    Family("granite", "Granite 3", ("granite",)),
    Family("granite4", "Granite 4", ("granitemoehybrid",)),
    Family(
        "cohere", "Cohere Command R, R7B, A", ("cohere", "cohere2"),
        defaults={
            "cohere": {"max_position_embeddings": 8192},
            "cohere2": {"max_position_embeddings": 8192, "sliding_window": 4096},
        },
    ),
    Family(
        "olmo2", "OLMo 2 and 3", ("olmo2", "olmo3"), defaults={"olmo3": {"sliding_window": 4096}}
    ),
    Family(
        "glm4", "GLM-4", ("glm4", "glm"),
        defaults=dict.fromkeys(("glm4", "glm"), {
            "num_key_value_heads": 2, "head_dim": 128, "max_position_embeddings": 131072,
        }),
    ),
    Family(
        "lfm2", "LFM2, dense and with experts", ("lfm2", "lfm2_moe"),
        defaults=dict.fromkeys(("lfm2", "lfm2_moe"), {
            "num_key_value_heads": 8, "max_position_embeddings": 128000,
        }),
    ),
    Family(
        "falcon_h1", "Falcon-H1", ("falcon_h1",),
        defaults={
            "falcon_h1": {
                "num_key_value_heads": 8, "max_position_embeddings": 8192, "mamba_d_ssm": 1024,
                "rms_norm_eps": 1e-5,
            },
        },
    ),
    Family(
        "nemotron_h", "Nemotron-H, Nemotron Nano 2, Nemotron 3", ("nemotron_h",),
        defaults={"nemotron_h": {"num_key_value_heads": 8}},
    ),
    Family("mamba2", "Mamba-2", ("mamba2",)),
    Family("mamba", "Mamba, Falcon-Mamba", ("mamba", "falcon_mamba")),
    Family("gpt2", "GPT-2", ("gpt2",)),
    Family("gptj", "GPT-J", ("gptj",)),
    Family("gpt_neox", "GPT-NeoX, Pythia", ("gpt_neox",)),
    Family("opt", "OPT, Galactica", ("opt",)),
    Family("bloom", "BLOOM", ("bloom",)),
    Family(
        "t5", "T5, FLAN-T5", ("t5", "mt5"), is_encoder_decoder=True,
        defaults={"mt5": {"feed_forward_proj": "gated-gelu"}}, test="tests/models/test_t5.py",
    ),
    Family(
        "bart", "BART, mBART, mBART-50, M2M100, NLLB, Marian (OPUS-MT)",
        ("bart", "mbart", "m2m_100", "marian"),
        is_encoder_decoder=True,
        class_prefixes={"mbart": ("MBart",), "m2m_100": ("M2M100",), "marian": ("Marian",)},
        defaults=dict.fromkeys(
            ("bart", "mbart", "m2m_100", "marian"), {"max_position_embeddings": 1024}
        ),
        test="tests/models/test_bart.py",
    ),
    Family(
        "whisper", "Whisper, Distil-Whisper", ("whisper",), is_encoder_decoder=True,
        transcribes=True,
        defaults={"whisper": WHISPER}, test="tests/models/test_whisper.py",
    ),
)  # fmt: skip


# What people call architectures without a file, which transformers runs -> their model_types; the
# text models alone of those that have parts for images. docs/models.md lists them.
ON_TRANSFORMERS: Mapping[str, tuple[str, ...]] = {
    "Gemma 3n (text models)": ("gemma3n_text",),
    "Llama 4 (text models)": ("llama4_text",),
    "Granite 3 with experts": ("granitemoe",),
    "MiniMax": ("minimax", "minimax_m2"),
    "ERNIE 4.5": ("ernie4_5", "ernie4_5_moe"),
    "EXAONE 4": ("exaone4",),
    "Hunyuan": ("hunyuan_v1_dense",),
    "Seed-OSS": ("seed_oss",),
    "Nemotron": ("nemotron",),
    "Jamba": ("jamba",),
    "Phi-3.5-MoE": ("phimoe",),
    "OLMo 1, OLMoE": ("olmo", "olmoe"),
    "StableLM": ("stablelm",),
    "Apertus, Arcee, Helium": ("apertus", "arcee", "helium"),
    "XGLM, Persimmon": ("xglm", "persimmon"),
}

# Those of them with recurrent layers.
RECURRENT = ("jamba",)

# model_type of models that take images or sound besides -> model_types of the text part, of which
# alone is served; the first where ``text_config`` does not say it.
NESTED: Mapping[str, tuple[str, ...]] = {
    "gemma3": ("gemma3_text",),
    "gemma4": ("gemma4_text",),
    "mistral3": ("mistral", "ministral3"),
    "qwen3_5": ("qwen3_5_text",),
    "qwen3_5_moe": ("qwen3_5_moe_text",),
}


FAMILIES = (*ENCODER_FAMILIES, *_DECODER_FAMILIES)


def _files(is_encoder: bool) -> dict[str, str]:
    return {k: f.file for f in FAMILIES if f.is_encoder == is_encoder for k in f.model_types}


# model_type -> file; looked at after CLASSES and VARIANTS.
ENCODERS: Mapping[str, str] = _files(is_encoder=True)
DECODERS: Mapping[str, str] = _files(is_encoder=False)
# model_types of decoders whose hidden states may be used as an encoder's.
CAUSAL = frozenset(
    kind for f in FAMILIES if not (f.is_encoder or f.is_encoder_decoder) for kind in f.model_types
)
# model_types of those whose input is sound.
SPEECH = frozenset(kind for f in FAMILIES if f.transcribes for kind in f.model_types)
# model_types of encoder-decoders.
ENCODER_DECODERS = frozenset(
    kind for f in FAMILIES if f.is_encoder_decoder for kind in f.model_types
)
# model_type -> what an error message calls it.
ENCODER_NAMES: Mapping[str, str] = {
    kind: name
    for f in FAMILIES
    if f.is_encoder
    for kind, name in zip(f.model_types, f.names, strict=True)
}
# architectures[0] -> file.
CLASSES: Mapping[str, str] = {name: f.file for f in FAMILIES for name in f.classes}
# A (key, value) of config.json -> file.
VARIANTS: Mapping[tuple[str, str], str] = {f.variant: f.file for f in FAMILIES if f.variant}
# By model_type, of all families.
CLASS_PREFIXES = {kind: names for f in FAMILIES for kind, names in f.class_prefixes.items()}
DEFAULTS = {kind: values for f in FAMILIES for kind, values in f.defaults.items()}
