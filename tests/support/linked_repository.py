"""A repository of models that wait for one another, and requests that are never answered.

The product's own: a generator and its conversations, an embedder, a reranker and the pipelines over
them. Somebody else's: ``other`` and ``other-stream``. A text that begins with HOLD is kept by the
model that would compute its answer, for as long as its process lives.
"""

from __future__ import annotations

from pathlib import Path

from driving import save_llama
from in_process import write_embedder
from tiny.checkpoint import write
from tiny.encoders import classifiers, write_text_files
from tiny.tokenizer import write_tokenizer

from atoll.catalogue import entry_for, read_model, session, write_repository
from atoll.catalogue.pipelines import ensemble, retrieve_rerank, tokens

HOLD = "hold " * 8
GENERATOR, SESSION = "generator", "generator-session"
EMBEDDER, RERANKER, SEARCH = "embedder", "reranker", "search"
TOKENS, ENSEMBLE = "embedder-tokens", "embedder-ensemble"
OTHER, OTHER_STREAM = "other", "other-stream"

_HOLDING = """
import triton_python_backend_utils as pb
from atoll.serving import {base}

HELD = []


def keep(found):
    HELD.extend(found)
    with open("{told}", "a") as told:
        told.write(len(found) * "x")


def is_held(request):
    ids = pb.get_input_tensor_by_name(request, "input_ids")
    if ids is not None:
        return ids.as_numpy().shape[-1] > 24
    given = pb.get_input_tensor_by_name(request, "text_input")
    return given is not None and given.as_numpy().reshape(-1)[0].startswith(b"{hold}")


class TritonPythonModel({base}):
    def execute(self, requests):
        held = [request for request in requests if is_held(request)]
        keep(held)
        return super().execute([request for request in requests if request not in held])
"""
_OTHER = """
import triton_python_backend_utils as pb

HELD = []


class TritonPythonModel:
    def execute(self, requests):
        for request in requests:
            text = pb.get_input_tensor_by_name(request, "IN").as_numpy()
            sender = request.get_response_sender()
            if text[0].startswith(b"{hold}"):
                HELD.append(sender)
                with open("{told}", "a") as told:
                    told.write("x")
            else:
                sender.send(pb.InferenceResponse([pb.Tensor("OUT", text)]), 1)
"""
_OTHER_CONFIG = """
name: "{name}"
backend: "python"
max_batch_size: 0
input {{ name: "IN" data_type: TYPE_STRING dims: [ 1 ] }}
output {{ name: "OUT" data_type: TYPE_STRING dims: [ 1 ] }}
model_transaction_policy {{ decoupled: {decoupled} }}
instance_group {{ count: 1 kind: KIND_CPU }}
"""


def num_held(folder: Path, name: str) -> int:
    """Requests that a model has kept so far."""
    path = folder / f"held-{name}"
    return len(path.read_text()) if path.exists() else 0


def write_linked(folder: Path) -> Path:
    """The repository."""
    generator, embedder, reranker = (folder / n for n in (GENERATOR, EMBEDDER, RERANKER))
    save_llama(generator, max_position_embeddings=4096)
    write_tokenizer(generator)
    write_embedder(embedder)
    write(classifiers(1)[2], reranker)
    write_text_files(reranker)
    checkpoints = (generator, embedder, reranker)
    entries = [
        *(entry_for(str(one), read_model(one), name=one.name) for one in checkpoints),
        session(GENERATOR),
        tokens(TOKENS, str(embedder)),
        ensemble(ENSEMBLE, TOKENS, EMBEDDER, 48),
        retrieve_rerank(SEARCH, EMBEDDER, RERANKER),
    ]
    repository = folder / "repository"
    write_repository(entries, repository)
    bases = {GENERATOR: "GenerateModel", EMBEDDER: "EmbedModel"}
    for name, base in bases.items():
        code = _HOLDING.format(base=base, hold=HOLD, told=folder / f"held-{name}")
        (repository / name / "1" / "model.py").write_text(code)
    for name, is_decoupled in ((OTHER, False), (OTHER_STREAM, True)):
        (repository / name / "1").mkdir(parents=True)
        config = _OTHER_CONFIG.format(name=name, decoupled=str(is_decoupled).lower())
        (repository / name / "config.pbtxt").write_text(config)
        (repository / name / "1" / "model.py").write_text(
            _OTHER.format(hold=HOLD, told=folder / f"held-{name}")
        )
    return repository
