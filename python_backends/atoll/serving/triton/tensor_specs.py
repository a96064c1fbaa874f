"""The tensors of every task, in one place: config.pbtxt is rendered from these tables.

Names, types and shapes only. Imports nothing of Triton, so that the catalogue, the launcher and
tests can read the tables outside the server.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

# A str is a dimension that depends on the checkpoint, such as the width of an embedding.
Dim = int | str


@dataclass(frozen=True)
class TensorSpec:
    """One tensor. ``dtype`` is Triton's name without ``TYPE_``; ``dims`` exclude the batch axis.

    A dimension is a size, -1 (any), or the name of a size that the entry provides. needs: the name
    of a size without which an entry has no such tensor.
    """

    name: str
    dtype: str
    dims: tuple[Dim, ...]
    optional: bool = False
    needs: str | None = None


# Every task answers control requests: see ``serving.model_ops``.
CONTROL = TensorSpec("control", "STRING", (-1,))


@dataclass(frozen=True)
class TaskTensors:
    """Inputs and outputs of a task's models.

    max_batch_size: rows in one request; 0: tensors have no batch axis.
    decoupled: a request gets any number of responses.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    max_batch_size: int = 0
    decoupled: bool = False


_TEXT = TensorSpec("text_input", "STRING", (1,), optional=True)
_COUNT = TensorSpec("num_input_tokens", "UINT32", (1,))

# One of text_input, input_ids and image is required; rows of input_ids are padded with -1; an image
# is the bytes of its file, or a data URI.
EMBED = TaskTensors(
    inputs=(
        _TEXT,
        TensorSpec("input_ids", "INT32", (-1,), optional=True),
        TensorSpec("image", "STRING", (1,), optional=True, needs="image"),
    ),
    outputs=(
        TensorSpec("embedding", "FP32", ("embedding",)),
        _COUNT,
        TensorSpec("token_embedding", "FP32", (-1, -1)),
        # Of bge-m3's heads: rows padded with -1, with 0, and with 0.
        TensorSpec("sparse_indices", "INT32", (-1,), needs="sparse_linear"),
        TensorSpec("sparse_values", "FP32", (-1,), needs="sparse_linear"),
        TensorSpec("colbert_vecs", "FP32", (-1, -1), needs="colbert_linear"),
        CONTROL,
    ),
    max_batch_size=256,
)

# No batch axis from here on: a query has many texts, and sparse rows differ in length. The engine
# still batches the texts of all requests.
_TEXTS = TensorSpec("text_input", "STRING", (-1, 1), optional=True)
_COUNTS = TensorSpec("num_input_tokens", "UINT32", (-1, 1))

SPARSE = TaskTensors(
    inputs=(_TEXTS, TensorSpec("input_ids", "INT32", (-1, -1), optional=True)),
    outputs=(
        TensorSpec("indices", "INT32", (-1,)),
        TensorSpec("values", "FP32", (-1,)),
        TensorSpec("offsets", "INT32", (-1,)),
        _COUNTS,
        CONTROL,
    ),
)

# vectors and offsets as in SPARSE; score only if there is a query: one for all texts, or one for
# each.
MULTI_VECTOR = TaskTensors(
    inputs=(TensorSpec("query", "STRING", (-1, 1), optional=True), _TEXTS),
    outputs=(
        TensorSpec("vectors", "FP32", (-1, "embedding")),
        TensorSpec("offsets", "INT32", (-1,)),
        TensorSpec("score", "FP32", (-1, 1)),
        _COUNTS,
        CONTROL,
    ),
)

RERANK = TaskTensors(
    inputs=(TensorSpec("query", "STRING", (-1, 1), optional=True), _TEXTS),
    outputs=(
        TensorSpec("score", "FP32", (-1, 1)),
        TensorSpec("logit", "FP32", (-1, 1)),
        _COUNTS,
        CONTROL,
    ),
)

CLASSIFY = TaskTensors(
    inputs=(_TEXTS, TensorSpec("text_pair", "STRING", (-1, 1), optional=True)),
    outputs=(
        TensorSpec("score", "FP32", (-1, "labels")), TensorSpec("logit", "FP32", (-1, "labels")),
        _COUNTS, CONTROL,
    ),
)  # fmt: skip

# Text i has the entities offsets[i] to offsets[i + 1]; index is a token's, where tokens are not
# aggregated.
TOKEN_CLASSIFY = TaskTensors(
    inputs=(_TEXTS, TensorSpec("ignore_labels", "STRING", (-1,), optional=True)),
    outputs=(
        TensorSpec("label", "STRING", (-1,)),
        TensorSpec("score", "FP32", (-1,)),
        TensorSpec("start", "INT32", (-1,)),
        TensorSpec("end", "INT32", (-1,)),
        TensorSpec("word", "STRING", (-1,)),
        TensorSpec("index", "INT32", (-1,)),
        TensorSpec("offsets", "INT32", (-1,)),
        _COUNTS,
        CONTROL,
    ),
)

# vllm_backend's names, then our own from ``return_num_cached_tokens`` on. One of text_input,
# messages and input_ids is required. Lists are tensors, since Triton's /generate only accepts
# scalars as parameters.
GENERATE = TaskTensors(
    inputs=(
        TensorSpec("text_input", "STRING", (1,), optional=True),
        TensorSpec("stream", "BOOL", (1,), optional=True),
        TensorSpec("sampling_parameters", "STRING", (1,), optional=True),
        TensorSpec("exclude_input_in_output", "BOOL", (1,), optional=True),
        TensorSpec("return_finish_reason", "BOOL", (1,), optional=True),
        TensorSpec("return_cumulative_logprob", "BOOL", (1,), optional=True),
        TensorSpec("return_logprobs", "BOOL", (1,), optional=True),
        TensorSpec("return_num_input_tokens", "BOOL", (1,), optional=True),
        TensorSpec("return_num_output_tokens", "BOOL", (1,), optional=True),
        TensorSpec("return_num_cached_tokens", "BOOL", (1,), optional=True),
        TensorSpec("return_num_accepted_tokens", "BOOL", (1,), optional=True),
        TensorSpec("return_token_ids", "BOOL", (1,), optional=True),
        TensorSpec("return_prompt_logprobs", "BOOL", (1,), optional=True),
        TensorSpec("stop", "STRING", (-1,), optional=True),
        TensorSpec("messages", "STRING", (1,), optional=True),
        TensorSpec("tools", "STRING", (1,), optional=True),
        TensorSpec("input_ids", "INT32", (-1,), optional=True),
    ),
    outputs=(
        TensorSpec("text_output", "STRING", (-1,)),
        TensorSpec("finish_reason", "STRING", (-1,)),
        TensorSpec("cumulative_logprob", "FP32", (-1,)),
        TensorSpec("logprobs", "STRING", (-1,)),
        TensorSpec("num_input_tokens", "UINT32", (-1,)),
        TensorSpec("num_output_tokens", "UINT32", (-1,)),
        TensorSpec("num_cached_tokens", "UINT32", (-1,)),
        TensorSpec("num_accepted_tokens", "UINT32", (-1,)),
        TensorSpec("num_rejected_tokens", "UINT32", (-1,)),
        TensorSpec("token_ids", "INT32", (-1,)),
        TensorSpec("prompt_logprobs", "STRING", (-1,)),
        TensorSpec("stop_reason", "STRING", (-1,)),
        TensorSpec("reasoning_state", "STRING", (-1,)),
        CONTROL,
    ),
    decoupled=True,
)

# One of audio, the bytes of a file, and waveform, samples at 16 kHz, is required; text_input is
# what the transcript follows. segments is JSON, as in OpenAI's verbose_json; a stream has those of
# one window in each response.
TRANSCRIBE = TaskTensors(
    inputs=(
        _TEXT,
        TensorSpec("audio", "STRING", (1,), optional=True),
        TensorSpec("waveform", "FP32", (-1,), optional=True),
    ),
    outputs=(
        TensorSpec("text_output", "STRING", (1,)),
        TensorSpec("segments", "STRING", (1,)),
        TensorSpec("language", "STRING", (1,)),
        TensorSpec("duration", "FP32", (1,)),
        TensorSpec("num_output_tokens", "UINT32", (1,)),
        CONTROL,
    ),
    decoupled=True,
)

TASK_TENSORS: Mapping[str, TaskTensors] = {
    "classify": CLASSIFY,
    "embed": EMBED,
    "multi_vector": MULTI_VECTOR,
    "rerank": RERANK,
    "sparse": SPARSE,
    "token_classify": TOKEN_CLASSIFY,
    "generate": GENERATE,
    "transcribe": TRANSCRIBE,
}
