"""Names of settings in the environment: ours begin with ``ATOLL_``.

Without the prefix, only names that TEI, TGI and LeaderWorkerSet document for the same thing are
read, so that their users need not change them, and so that ``DEVICE`` or ``BLOCK_SIZE``, which
other programs are told something by, change nothing here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, MutableMapping

PREFIX = "ATOLL_"
# A folder that whoever started the server removes, whatever happens to the server.
SCRATCH = "ATOLL_SCRATCH"

# Left out though they document them: HOSTNAME, which in a container is the container's name, and
# TEI's TASK, which has one value and another meaning.
# The flags of TEI's router (docs/source/en/cli_arguments.md), each with a variable of its name.
TEI = frozenset({
    "API_KEY", "AUTO_TRUNCATE", "CORS_ALLOW_ORIGIN", "DEFAULT_PROMPT", "DEFAULT_PROMPT_NAME",
    "DENSE_PATH", "DTYPE", "GRPC_MAX_PARALLEL_STREAM_REQUESTS", "HUGGINGFACE_HUB_CACHE",
    "MAX_BATCH_REQUESTS", "MAX_BATCH_TOKENS", "MAX_CLIENT_BATCH_SIZE", "MAX_CONCURRENT_REQUESTS",
    "MODEL_ID", "OTLP_ENDPOINT", "OTLP_SERVICE_NAME", "PAYLOAD_LIMIT", "POOLING", "PORT",
    "REVISION", "SERVED_MODEL_NAME", "TOKENIZATION_WORKERS", "USE_FLASH_ATTENTION",
})  # fmt: skip
# Those of TGI's launcher (docs/source/reference/launcher.md), and of its documentation.
TGI = frozenset({
    "API_KEY", "CORS_ALLOW_ORIGIN", "CUDA_GRAPHS", "DISABLE_CUSTOM_KERNELS",
    "DISABLE_GRAMMAR_SUPPORT", "DTYPE", "HUGGINGFACE_HUB_CACHE", "LORA_ADAPTERS",
    "MAX_BATCH_PREFILL_TOKENS", "MAX_BATCH_SIZE", "MAX_BATCH_TOTAL_TOKENS", "MAX_BEST_OF",
    "MAX_CLIENT_BATCH_SIZE", "MAX_CONCURRENT_REQUESTS", "MAX_INPUT_LENGTH", "MAX_INPUT_TOKENS",
    "MAX_STOP_SEQUENCES", "MAX_TOP_N_TOKENS", "MAX_TOTAL_TOKENS", "MAX_WAITING_TOKENS", "MODEL_ID",
    "NUM_SHARD", "OTLP_ENDPOINT", "OTLP_SERVICE_NAME", "PAYLOAD_LIMIT", "PORT", "PREFIX_CACHING",
    "QUANTIZE", "REVISION", "ROPE_FACTOR", "ROPE_SCALING", "SHARDED", "SPECULATE",
    "USE_FLASH_ATTENTION",
    "WAITING_SERVED_RATIO", "WATERMARK_DELTA", "WATERMARK_GAMMA",
})  # fmt: skip
# Kubernetes' LeaderWorkerSet tells each pod of a group who leads it, its number, and how many.
LWS = frozenset({"LWS_GROUP_SIZE", "LWS_LEADER_ADDRESS", "LWS_WORKER_INDEX"})
# Of those, names that are not the setting's own.
_OTHER_NAMES = {"max_input_tokens": ("MAX_INPUT_LENGTH",), "num_nodes": ("LWS_GROUP_SIZE",)}

# What Kubernetes puts into every container: a service called "atoll" makes this of ATOLL_PORT.
_SERVICE_LINK = re.compile(r"(tcp|udp|sctp)://\S+:\d+", re.IGNORECASE)
# TGI's CUDA_GRAPHS: batch sizes to capture, or 0 for none.
_GRAPH_SIZES = re.compile(r"\s*\d+(\s*,\s*\d+)*\s*")


def variables(setting: str) -> list[str]:
    """Every name that a setting (or flag) has in the environment; the first that is set wins."""
    names = (setting.upper(), *_OTHER_NAMES.get(setting, ()))
    return [PREFIX + setting.upper(), *(name for name in names if name in TEI | TGI | LWS)]


def lookup(setting: str, environment: Mapping[str, str]) -> tuple[str, str] | None:
    """The variable that holds a setting, and its text; None: there is none, or it is empty."""
    for name in variables(setting):
        text = environment.get(name, "")
        if text and not is_service_link(name, text):
            return name, _ours(name, text)
    return None


def is_service_link(name: str, text: str) -> bool:
    """Whether a variable is Kubernetes' address of a service, whose name only looks like ours."""
    return name.endswith("_PORT") and _SERVICE_LINK.fullmatch(text.strip()) is not None


def clean(environment: MutableMapping[str, str]) -> None:
    """Makes the environment fit for what reads it by itself: addresses of services go."""
    for name, text in list(environment.items()):
        if name.startswith(PREFIX) and is_service_link(name, text):
            del environment[name]
        elif name == "CUDA_GRAPHS":
            environment[name] = _ours(name, text)


def is_service_name(name: str) -> bool:
    """Whether Kubernetes makes variables of that name for services."""
    return re.search(r"_SERVICE_(HOST|PORT)|_PORT(_\d+_(TCP|UDP|SCTP).*)?$", name) is not None


def _ours(name: str, text: str) -> str:
    if name == "CUDA_GRAPHS" and _GRAPH_SIZES.fullmatch(text):
        return str(any(int(size) for size in text.split(","))).lower()
    return text
