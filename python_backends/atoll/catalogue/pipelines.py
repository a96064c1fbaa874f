"""Entries that use other entries: an ensemble, searches, conversations."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from atoll.catalogue.generators import GENERATORS
from atoll.serving.triton.tensor_specs import GENERATE, TensorSpec

HEADER = "# Rendered from atoll.catalogue: change it there, then run `atoll render`.\n"


@dataclass(frozen=True)
class Pipeline:
    """An entry as its files: path inside its folder -> text."""

    name: str
    files: Mapping[str, str]


def tokens(name: str, model_id: str) -> Pipeline:
    """The first step of an ensemble as a separate entry: texts to the encoder's input ids."""
    config = f"""name: "{name}"
backend: "python"
max_batch_size: 256
input [
  {{ name: "text_input" data_type: TYPE_STRING dims: [ 1 ] }}
]
output [
  {{ name: "input_ids" data_type: TYPE_INT32 dims: [ -1 ] }},
  {{ name: "num_input_tokens" data_type: TYPE_UINT32 dims: [ 1 ] }}
]
instance_group [ {{ count: 1 kind: KIND_CPU }} ]
{_parameters({"model_id": model_id})}"""
    return Pipeline(name, _python(config, "TokensModel", f"{model_id}: text to token ids."))


def ensemble(name: str, tokens_name: str, encoder: str, size: int) -> Pipeline:
    """Text -> tokens -> encoder -> embedding; each step is an entry that can be used alone."""
    config = f"""name: "{name}"
platform: "ensemble"
max_batch_size: 256
input [
  {{ name: "text_input" data_type: TYPE_STRING dims: [ 1 ] }}
]
output [
  {{ name: "embedding" data_type: TYPE_FP32 dims: [ {size} ] }},
  {{ name: "num_input_tokens" data_type: TYPE_UINT32 dims: [ 1 ] }}
]
ensemble_scheduling {{
  step [
    {{
      model_name: "{tokens_name}"
      model_version: -1
      input_map {{ key: "text_input" value: "text_input" }}
      output_map {{ key: "input_ids" value: "input_ids" }}
      output_map {{ key: "num_input_tokens" value: "num_input_tokens" }}
    }},
    {{
      model_name: "{encoder}"
      model_version: -1
      input_map {{ key: "input_ids" value: "input_ids" }}
      output_map {{ key: "embedding" value: "embedding" }}
    }}
  ]
}}
"""
    # Triton requires a version folder, and git a file in it.
    return Pipeline(name, {"config.pbtxt": HEADER + config, "1/.gitkeep": ""})


def retrieve_rerank(name: str, embedder: str, reranker: str) -> Pipeline:
    """From a query and documents to the best documents: first by vectors, then by the reranker."""
    parameters = {"embedder": embedder, "reranker": reranker, "num_retrieved": "32"}
    text = f"{embedder} and {reranker}: a query and documents to the best documents."
    return Pipeline(name, _python(_search(name, parameters), "RetrieveRerankModel", text))


def hybrid_search(
    name: str,
    embedder: str | None = None,
    sparse_embedder: str | None = None,
    reranker: str | None = None,
    **more: str,
) -> Pipeline:
    """From a query and documents to the best documents: the models' rankings are fused.

    more: other parameters of the entry; see ``HybridSearchModel``.
    """
    models = {"embedder": embedder, "sparse_embedder": sparse_embedder, "reranker": reranker}
    named = {key: model for key, model in models.items() if model is not None}
    config = _search(name, {**named, "k": "60", "num_retrieved": "32", **more})
    text = f"{', '.join(named.values())}: a fused search."
    return Pipeline(name, _python(config, "HybridSearchModel", text))


def _search(name: str, parameters: Mapping[str, str]) -> str:
    return f"""name: "{name}"
backend: "python"
max_batch_size: 0
input [
  {{ name: "query" data_type: TYPE_STRING dims: [ 1 ] }},
  {{ name: "text_input" data_type: TYPE_STRING dims: [ -1, 1 ] }}
]
output [
  {{ name: "index" data_type: TYPE_INT32 dims: [ -1 ] }},
  {{ name: "score" data_type: TYPE_FP32 dims: [ -1 ] }}
]
instance_group [ {{ count: 1 kind: KIND_CPU }} ]
{_parameters(parameters)}"""


def session(generator: str, idle_s: int = 300) -> Pipeline:
    """A generator's conversations: a sequence's requests are turns, and its text is kept.

    Token ids cannot be a turn, and control requests go to the generator itself.
    """
    name = f"{generator}-session"
    inputs = [t for t in GENERATE.inputs if t.name != "input_ids"]
    outputs = [t for t in GENERATE.outputs if t.name != "control"]
    config = f"""name: "{name}"
backend: "python"
max_batch_size: 0
{_tensors("input", inputs)}{_tensors("output", outputs)}model_transaction_policy {{
  decoupled: true
}}
sequence_batching {{
  max_sequence_idle_microseconds: {idle_s * 1_000_000}
  oldest {{
    max_candidate_sequences: 1024
  }}
}}
instance_group [ {{ count: 1 kind: KIND_CPU }} ]
{_parameters({"generator": generator, "session_timeout_s": str(idle_s)})}"""
    return Pipeline(name, _python(config, "SessionModel", f"{generator}: one turn after another."))


def _tensors(kind: str, specs: Iterable[TensorSpec]) -> str:
    lines = []
    for spec in specs:
        dims = ", ".join(map(str, spec.dims))
        optional = " optional: true" if spec.optional else ""
        lines.append(
            f'  {{ name: "{spec.name}" data_type: TYPE_{spec.dtype} dims: [ {dims} ]{optional} }}'
        )
    return f"{kind} [\n" + ",\n".join(lines) + "\n]\n"


def model_file(model_class: str, description: str) -> str:
    """The text of a model.py."""
    # The description must not end the docstring.
    plain = description.replace("\\", "/").replace('"', "'")
    return (
        f'"""{plain}"""\n\n'
        f"from atoll.serving import {model_class} as TritonPythonModel\n\n"
        '__all__ = ["TritonPythonModel"]\n'
    )


def _python(config: str, model_class: str, description: str) -> dict[str, str]:
    model = model_file(model_class, description)
    return {"config.pbtxt": HEADER + config, "1/model.py": model}


def _parameters(values: Mapping[str, str]) -> str:
    return "".join(
        f"parameters {{ key: {json.dumps(k)} value {{ string_value: {json.dumps(v)} }} }}\n"
        for k, v in values.items()
    )


PIPELINES = (
    tokens("all-minilm-l6-v2-tokens", "sentence-transformers/all-MiniLM-L6-v2"),
    ensemble("all-minilm-l6-v2-ensemble", "all-minilm-l6-v2-tokens", "all-minilm-l6-v2", size=384),
    retrieve_rerank("retrieve-rerank", "all-minilm-l6-v2", "bge-reranker-base"),
    hybrid_search(
        "hybrid-search",
        "all-minilm-l6-v2",
        "splade-cocondenser-ensembledistil",
        "bge-reranker-base",
    ),
    *(session(generator.name) for generator in GENERATORS),
)
