"""Every folder of model_repository/ in a real server, over a tiny checkpoint of its architecture.

The folders are the committed ones; only ``model_id`` is changed, to a local checkpoint.
"""

from __future__ import annotations

import json
import queue
import re
import shutil
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import tritonclient.grpc as triton
from tiny.checkpoint import Reference, write
from tiny.decoders import DECODERS
from tiny.t5 import write_t5
from tiny.tokenizer import write_tokenizer

from atoll.catalogue import ServedModel, read_repository
from atoll.launcher import ServerOptions, ServerProcess
from atoll.text.tokenizer import Tokenizer

REPOSITORY = Path(__file__).parents[2] / "model_repository"
MODELS = {model.name: model for model in read_repository(REPOSITORY)}
GENERATORS = sorted(name for name, model in MODELS.items() if model.task == "generate")
# Entries in one server: a stub process each, half a gigabyte and seconds of both cores.
GROUP_SIZE = 8
COUNT = 6
PROMPT = "An atoll is"

# The hub's name of a repository, as a pattern -> the layout that it has.
VARIANTS = {
    "bigscience/": "bloom-old-6-heads",
    "codellama/": "llama-theta",
    "tiiuae/falcon-40b": "falcon-40b-old",
    "tiiuae/": "falcon-7b",
    "facebook/galactica": "galactica-large",
    "facebook/opt": "opt",
    "EleutherAI/": "gpt-neox-old",
    "meta-llama/|huggyllama/|HuggingFaceTB/": "llama-mha-old",
    "mistralai/Mistral": "mistral-full",
    "mistralai/Mixtral": "mixtral",
    "mosaicml/": "mpt",
    "microsoft/phi": "phi",
    "bigcode/santacoder": "santacoder-split",
    "bigcode/starcoder": "starcoder",
}
BY_NAME = {variant.name: variant for variant in DECODERS}


@dataclass(frozen=True)
class Served:
    """A loaded entry, and its greedy continuations by transformers."""

    server: ServerProcess
    name: str
    tokenizer: Tokenizer
    logits: Callable[[list[int], list[int]], torch.Tensor]


def _checkpoint(model: ServedModel, folder: Path) -> Callable[[list[int], list[int]], torch.Tensor]:
    """Writes the entry's tiny checkpoint; returns prompt, answer -> logits of the answer."""
    folder.mkdir(parents=True)
    write_tokenizer(folder)
    assert model.model_id is not None
    if "t5" in model.model_id:
        reference = write_t5("flan-t5", folder)

        @torch.inference_mode()
        def encoded(prompt: list[int], answer: list[int]) -> torch.Tensor:
            found: torch.Tensor = reference(
                input_ids=torch.tensor([prompt]),
                decoder_input_ids=torch.tensor([[0, *answer[:-1]]]),
            ).logits[0]
            return found

        return encoded
    name = next(v for pattern, v in VARIANTS.items() if re.match(pattern, str(model.model_id)))
    decoder: Reference = write(BY_NAME[name], folder)
    return lambda prompt, answer: decoder.logits(prompt + answer)[len(prompt) - 1 : -1]


def _scratch_copy(name: str, checkpoint: Path, target: Path) -> None:
    """The committed folder, its model_id replaced."""
    shutil.copytree(REPOSITORY / name, target / name)
    path = target / name / "config.pbtxt"
    text, count = re.subn(
        r'(key: "model_id"\s+value \{ string_value: )"[^"]*"',
        lambda match: f"{match[1]}{json.dumps(str(checkpoint))}",
        path.read_text(),
    )
    assert count == 1
    path.write_text(text)


@pytest.fixture(scope="module")
def group(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Served]]:
    """``GROUP_SIZE`` of the entries in one server."""
    names = GENERATORS[request.param * GROUP_SIZE :][:GROUP_SIZE]
    base = tmp_path_factory.mktemp("repository")
    logits = {}
    for name in names:
        logits[name] = _checkpoint(MODELS[name], base / "checkpoints" / name)
        _scratch_copy(name, base / "checkpoints" / name, base / "models")
    options = ServerOptions.on_free_ports(
        repository=base / "models", watch_interval_s=0.0, exit_timeout_s=3,
        environment={"MAX_BATCH_TOTAL_TOKENS": "1024", "NUM_THREADS": "1"},
    )  # fmt: skip
    with ServerProcess(options) as server:
        yield {
            name: Served(server, name, Tokenizer.load(base / "checkpoints" / name), logits[name])
            for name in names
        }


def _assert_greedy(served: Served, ids: list[int]) -> None:
    """Each token is transformers' most likely one after the prompt and those before it."""
    assert len(ids) == COUNT
    scores = served.logits(served.tokenizer.encode(PROMPT), ids)
    best = scores.max(-1)
    chosen = scores[range(COUNT), ids]
    assert best.indices.tolist() == ids or (best.values - chosen).max() < 2e-5


def _over_http(served: Served) -> dict[str, Any]:
    body = {
        "text_input": PROMPT, "max_tokens": COUNT, "ignore_eos": True, "return_token_ids": True,
    }  # fmt: skip
    request = urllib.request.Request(
        f"{served.server.http_url}/v2/models/{served.name}/generate", json.dumps(body).encode()
    )
    with urllib.request.urlopen(request, timeout=60) as response:
        found: dict[str, Any] = json.loads(response.read())
    return found


def _over_grpc(served: Served) -> tuple[list[str], list[int]]:
    """The pieces of a stream, and all its ids."""
    answers: queue.Queue[tuple[Any, Any]] = queue.Queue()
    client = triton.InferenceServerClient(served.server.grpc_url)
    client.start_stream(lambda result, error: answers.put((result, error)))
    sampling = json.dumps({"max_tokens": COUNT, "ignore_eos": True})
    values: dict[str, tuple[bytes | bool, str]] = {
        "text_input": (PROMPT.encode(), "BYTES"),
        "sampling_parameters": (sampling.encode(), "BYTES"),
        "stream": (True, "BOOL"),
        "return_token_ids": (True, "BOOL"),
    }
    inputs = []
    for name, (value, kind) in values.items():
        tensor = triton.InferInput(name, [1], kind)
        tensor.set_data_from_numpy(np.array([value], dtype=object if kind == "BYTES" else bool))
        inputs.append(tensor)
    client.async_stream_infer(served.name, inputs, enable_empty_final_response=True)
    texts: list[str] = []
    ids: list[int] = []
    while True:
        result, error = answers.get(timeout=60)
        assert error is None, error
        texts.append(result.as_numpy("text_output")[0].decode())
        ids += result.as_numpy("token_ids").tolist()
        if result.get_response().parameters["triton_final_response"].bool_param:
            client.stop_stream()
            client.close()
            return texts, ids


@pytest.mark.parametrize(
    ("group", "name"),
    [(index // GROUP_SIZE, name) for index, name in enumerate(GENERATORS)],
    indirect=["group"],
    ids=GENERATORS,
)
def test_generator_answers_over_http_and_streams_over_grpc(
    group: dict[str, Served], name: str
) -> None:
    served = group[name]
    answer = _over_http(served)
    _assert_greedy(served, answer["token_ids"])
    texts, ids = _over_grpc(served)
    assert ids == answer["token_ids"]
    assert "".join(texts) == answer["text_output"]
    assert len([text for text in texts if text]) > 1


def test_every_folder_is_covered() -> None:
    assert {name for name, model in MODELS.items() if model.task is None} == set()
