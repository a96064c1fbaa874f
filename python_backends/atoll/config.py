"""Every setting, once: one name as config.pbtxt parameter, flag and environment variable.

A value is looked up in the entry's config.pbtxt parameters, then in the environment (see
``atoll.environment``), then taken from the default here. Names are TEI's and TGI's where they have
one.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields
from typing import Any, get_type_hints

from atoll.environment import lookup
from atoll.errors import ConfigError
from atoll.setting_fields import check, parse
from atoll.setting_fields import setting as _setting

STATE_DTYPES = ("float32", "bfloat16", "float16")
LOG_LEVELS = ("debug", "info", "warning", "error")
LOG_FORMATS = ("text", "json")
DTYPES = ("default", "auto", "float32", "bfloat16", "float16", "int8", "int4")
# Groups of settings, for the documentation.
GROUPS = {
    "model": "The model",
    "limits": "Limits",
    "encoder": "Embedders, rerankers and classifiers",
    "generate": "Generators",
    "transcribe": "Speech recognition",
    "logs": "Logs and traces",
}


@dataclass(frozen=True)
class Settings:
    """The settings of one model entry. Only ``model_id`` has no default."""

    model_id: str = _setting("", "hub id or local folder of the checkpoint", group="model")
    revision: str | None = _setting(None, "branch, tag or commit on the hub", group="model")
    served_model_name: str | None = _setting(
        None, "name shown to clients; for a single model", group="model"
    )
    task: str | None = _setting(
        None, "embed, sparse, multi_vector, rerank, classify, token_classify, generate or "
        "transcribe; read from the model if unset", group="model",
    )  # fmt: skip
    dtype: str = _setting(
        "default", "default (float32 on CPU; on GPU the checkpoint's, or float16 for float32), "
        "auto (the fastest the machine has), float32, bfloat16, float16, int8 or int4 weights",
        group="model", allowed=DTYPES,
    )  # fmt: skip
    quantize: str | None = _setting(
        None,
        "int8 or int4: quantize weights at load (TGI's names work too: eetq, bitsandbytes, "
        "bitsandbytes-nf4, bitsandbytes-fp4), MXFP4 experts and the kv_b_proj of DeepSeek's "
        "attention excepted; gptq, awq, mxfp4 or fp8: the format the checkpoint must have",
        group="model",
    )
    device: str = _setting("auto", "auto, cpu, cuda or cuda:N", group="model")
    disable_custom_kernels: bool = _setting(False, "plain torch everywhere", group="model")
    use_flash_attention: bool | None = _setting(
        None, "overrides the default, which is off on compute capability 7.5", group="model"
    )
    num_threads: int = _setting(
        0, "torch threads; 0: all available cores, within a container's quota", group="model",
        least=0,
    )  # fmt: skip
    huggingface_hub_cache: str | None = _setting(None, "where downloads go", group="model")

    pooling: str | None = _setting(
        None,
        "cls, mean, max, mean-sqrt-len, weighted-mean, last-token or splade; read from the model "
        "if unset",
        group="encoder",
    )
    dense_path: str | None = _setting(None, "folder of a Dense module", group="encoder")
    reranker_template: str | None = _setting(
        None,
        "how a decoder that reranks is asked: qwen3-reranker, mxbai-rerank-v2, "
        "bge-reranker-v2-gemma, chat-template (the checkpoint's own, with the roles query and "
        "document) or pair (the tokenizer's pairs); read from the files and the name if unset",
        group="encoder",
    )
    max_batch_tokens: int = _setting(
        16384,
        "most tokens in one forward pass; on a CPU, texts are batched up to 4096 tokens, and a "
        "longer text runs alone",
        group="encoder",
        least=1,
    )
    max_batch_requests: int | None = _setting(
        None, "most texts in one forward pass", group="encoder", least=1
    )
    max_client_batch_size: int | None = _setting(
        None, "most texts in one request; if unset, 256 (32 on the gateway's TEI routes)",
        group="encoder", least=1,
    )  # fmt: skip
    auto_truncate: bool = _setting(True, "cut long inputs unless told otherwise", group="encoder")
    prompts: str | None = _setting(
        None, "JSON object of names and texts to put before inputs, in addition to the model's own",
        group="encoder",
    )  # fmt: skip
    default_prompt_name: str | None = _setting(
        None, "prompt used if none is named", group="encoder"
    )
    default_prompt: str | None = _setting(None, "text put before every input", group="encoder")
    max_image_bytes: int = _setting(
        20_000_000, "most bytes of an encoded image", group="encoder", least=1
    )
    max_image_pixels: int = _setting(
        50_000_000, "most pixels of an image, by its header; Pillow decodes no more than 178956970",
        group="encoder", least=1, most=178_956_970,
    )  # fmt: skip
    tokenization_workers: int = _setting(
        0, "tokenizer threads; 0: depends on the number of cores", group="encoder", least=0
    )
    max_concurrent_requests: int = _setting(
        512, "requests in progress before new ones are refused", group="limits", least=1
    )
    priority_aging_s: float = _setting(
        30.0, "seconds of waiting that count as much as one priority; 0: priorities have no effect",
        group="limits", least=0,
    )  # fmt: skip
    fair_scheduling: bool = _setting(True, "clients share the model equally", group="limits")

    max_input_tokens: int | None = _setting(
        None, "longest prompt; if unset, max_total_tokens - 1", group="generate", least=1
    )
    max_total_tokens: int | None = _setting(
        None,
        "longest prompt and answer together; if unset, the model's positions or the size of the KV "
        "cache, whichever is smaller",
        group="generate", least=2,
    )  # fmt: skip
    max_batch_prefill_tokens: int = _setting(
        2048, "prompt tokens in one step", group="generate", least=1
    )
    max_batch_total_tokens: int | None = _setting(
        None, "tokens the KV cache holds; from free memory if unset", group="generate", least=1
    )
    max_batch_size: int = _setting(256, "requests running at once", group="generate", least=1)
    waiting_served_ratio: float = _setting(
        0.0,
        "admit waiting prompts once there are this many per running request; 0: at once, since "
        "prompts and decoding share steps",
        group="generate", least=0,
    )  # fmt: skip
    max_waiting_tokens: int = _setting(
        20, "steps after which waiting prompts are admitted regardless of waiting_served_ratio",
        group="generate", least=0,
    )  # fmt: skip
    max_beams: int = _setting(8, "largest num_beams of a beam search", group="generate", least=1)
    max_best_of: int = _setting(2, "largest best_of", group="generate", least=1)
    max_stop_sequences: int = _setting(4, "stop strings in one request", group="generate", least=0)
    max_top_n_tokens: int = _setting(
        5, "largest top_n_tokens of TGI's routes; top_logprobs may always be up to 20",
        group="generate", least=0,
    )  # fmt: skip
    block_size: int = _setting(16, "tokens in one KV block", group="generate", least=1)
    memory_fraction: float = _setting(
        0.5, "share of free memory that the KV cache may take", group="generate", least=0
    )
    prefix_caching: bool = _setting(True, "share KV blocks of equal prefixes", group="generate")
    state_snapshots: int = _setting(
        16, "states of prefixes kept for reuse, of a model with recurrent layers; 0: such a model "
        "computes every prompt whole", group="generate", least=0,
    )  # fmt: skip
    state_dtype: str = _setting(
        "float32", "float32, bfloat16 or float16: how recurrent layers store their matrices, which "
        "are computed in float32; 16 bits halve memory and traffic, and are less exact",
        group="generate", allowed=STATE_DTYPES,
    )  # fmt: skip
    cuda_graphs: bool = _setting(
        True,
        "replay decoding steps: graphs captured at load on a GPU, recorded kernel calls on a CPU",
        group="generate",
    )
    speculate: int = _setting(0, "tokens guessed by n-gram lookup", group="generate", least=0)
    lora_adapters: str | None = _setting(
        None, "name=folder or name=hub id, separated by commas", group="generate"
    )
    max_loras: int = _setting(
        16, "LoRA adapters in memory, also of those loaded at run time", group="generate", least=1
    )
    rope_scaling: str | None = _setting(None, "linear or dynamic", group="generate")
    rope_factor: float | None = _setting(None, "factor of rope_scaling", group="generate", least=1)
    num_shard: int | None = _setting(
        None,
        "GPUs that hold the model together, from that of device on; on a CPU, processes",
        group="generate", least=1,
    )  # fmt: skip
    sharded: bool | None = _setting(
        None, "true: num_shard is the number of GPUs, if unset; false: 1", group="generate"
    )
    num_nodes: int = _setting(
        1,
        "machines that hold the model together, each with as many ranks; the others run "
        "`atoll worker`",
        group="generate", least=1,
    )  # fmt: skip
    shard_port: int = _setting(
        8003, "where workers of other machines connect", group="generate", least=1, most=65535
    )
    shard_timeout_s: float = _setting(
        120.0, "seconds after which a rank that does not answer counts as lost",
        group="generate", least=1,
    )  # fmt: skip
    tool_call_parser: str | None = _setting(
        None, "format of the model's tool calls, by vLLM's names, json or none; told by the chat "
        "template if unset", group="generate",
    )  # fmt: skip
    reasoning_parser: str | None = _setting(
        None, "format of the model's reasoning, by vLLM's names, or none; told by the chat "
        "template if unset", group="generate",
    )  # fmt: skip
    max_preparation_s: float = _setting(
        30.0,
        "seconds within which a grammar must be compiled and a long prompt tokenized",
        group="generate", least=0.01,
    )  # fmt: skip
    idle_unload_s: float = _setting(
        0.0, "seconds without a request until `atoll serve` unloads the model; the next request "
        "loads it again; 0: never", group="limits", least=0,
    )  # fmt: skip
    max_request_s: float = _setting(
        3600.0,
        "seconds after which a request is ended, since its client may have disconnected unnoticed; "
        "0: never",
        group="limits", least=0,
    )  # fmt: skip
    disable_grammar_support: bool = _setting(False, "refuse grammars", group="generate")
    watermark_gamma: float = _setting(0.5, "share of green tokens", group="generate", least=0)
    watermark_delta: float = _setting(2.0, "logit added to green tokens", group="generate")
    session_timeout_s: float = _setting(
        300.0, "idle seconds after which a conversation is dropped", group="generate", least=0
    )

    max_audio_bytes: int = _setting(25_000_000, "most of a file", group="transcribe", least=1)
    max_audio_seconds: float = _setting(3600.0, "of a sound", group="transcribe", least=1)

    log_level: str = _setting(
        "warning", "least level of log lines: debug, info, warning or error", group="logs",
        allowed=LOG_LEVELS,
    )  # fmt: skip
    log_format: str = _setting(
        "text", "text, or json: each line an object", group="logs", allowed=LOG_FORMATS
    )
    log_requests: bool = _setting(
        False, "a log line for each request: id, tokens, times, how it ended; no texts",
        group="logs",
    )  # fmt: skip
    log_prompts: bool = _setting(
        False, "what requests ask, in their lines of log_requests", group="logs"
    )
    otlp_endpoint: str | None = _setting(
        None, "where OpenTelemetry spans go (OTLP over gRPC); needs the extra otel", group="logs"
    )
    otlp_service_name: str | None = _setting(
        None, "the service's name in spans; if unset, atoll (atoll-gateway: of the gateway)",
        group="logs",
    )  # fmt: skip

    def __post_init__(self) -> None:
        for f in fields(self):
            check(f.name, f, getattr(self, f.name))

    @classmethod
    def read(
        cls, parameters: Mapping[str, str], environment: Mapping[str, str] | None = None
    ) -> Settings:
        """Settings of an entry from its config.pbtxt parameters (flat strings) and environment.

        Raises:
            ConfigError: an unknown parameter, or a value of the wrong type or out of range; names
                the parameter, or the variable that holds it.
        """
        known = [f.name for f in fields(cls)]
        unknown = sorted(set(parameters) - set(known))
        if unknown:
            raise ConfigError(f"unknown parameters {unknown}; known: {sorted(known)}")
        return cls(**read_values(known, parameters, environment))


def read_values(
    names: Collection[str], parameters: Mapping[str, str],
    environment: Mapping[str, str] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Those of the named settings that are given, of their types. Raises as ``Settings.read``."""
    environment = os.environ if environment is None else environment
    hints, values = get_type_hints(Settings), dict[str, Any]()
    for f in fields(Settings):
        if f.name not in names:
            continue
        given = f.name in parameters
        found = (f.name, parameters[f.name]) if given else lookup(f.name, environment)
        if found is not None and found[1] != "":
            values[f.name] = parse(*found, hints[f.name])
            check(found[0], f, values[f.name])
    return values
