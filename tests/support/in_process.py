"""Models of ``atoll.serving`` inside the test, over tiny checkpoints, with faults on demand."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import fake_backend
from driving import save_llama
from fake_backend import Request, SharedMemory
from tiny.encoders import SIZES, write_text_files
from tiny.tokenizer import write_tokenizer
from transformers import BertConfig, BertModel

# Answers and clients are waited for so long; nothing takes it but a request that never ends.
PATIENCE_S = 60.0


def write_generator(folder: Path) -> Path:
    """A tiny Llama with a tokenizer of characters."""
    save_llama(folder)
    write_tokenizer(folder)
    return folder


def write_embedder(folder: Path) -> Path:
    """A tiny BERT with a tokenizer of characters."""
    BertModel(BertConfig(**SIZES)).save_pretrained(folder)
    write_text_files(folder, "cls")
    return folder


def arguments(name: str = "model", **settings: str) -> dict[str, str]:
    """What Triton gives ``initialize``."""
    parameters = {key: {"string_value": value} for key, value in settings.items()}
    config = json.dumps({"name": name, "parameters": parameters})
    return {
        "model_name": name, "model_config": config, "model_instance_kind": "CPU",
        "model_repository": "/nowhere", "model_version": "1",
    }  # fmt: skip


@contextmanager
def running(model: Any, name: str = "model", **settings: str) -> Iterator[Any]:
    """The model, initialized; its threads are gone afterwards."""
    before = set(threading.enumerate())
    model.initialize(arguments(name, **settings))
    fake_backend.InferenceRequest.MODELS[name] = model
    try:
        yield model
    finally:
        finalize(model)  # once more changes nothing
        del fake_backend.InferenceRequest.MODELS[name]
    for thread in set(threading.enumerate()) - before:
        thread.join(PATIENCE_S)
        assert not thread.is_alive(), f"{thread.name} is left"


def finalize(model: Any) -> None:
    """Unloads the model: it has to come back."""
    thread = threading.Thread(target=model.finalize, daemon=True)
    thread.start()
    thread.join(PATIENCE_S)
    assert not thread.is_alive(), "the model does not end"


def generate(
    text: str, *, memory: SharedMemory | None = None, request_id: str = "", stream: bool = False,
    parameters: dict[str, Any] | None = None, **options: Any,
) -> Request:  # fmt: skip
    """A generator's request."""
    sampling = {"max_tokens": 8, "ignore_eos": True, **options}
    inputs = {"text_input": text, "stream": stream, "sampling_parameters": json.dumps(sampling)}
    return Request(inputs, parameters, memory=memory, request_id=request_id)


def control(operation: str, **arguments: str) -> Request:
    """A control request."""
    return Request({}, {"control": json.dumps({"op": operation, **arguments})})


def answer(model: Any, request: Request) -> Any:
    """The request's responses, once it has ended."""
    model.execute([request])
    return wait(request)


def wait(request: Request) -> Any:
    """The request's responses, once it has ended."""
    assert request.sender.ended.wait(PATIENCE_S), "a request without an end"
    return request.sender.all


def assert_ended_once(requests: list[Request]) -> None:
    """Every request has one final response, and nothing after an error."""
    for request in requests:
        wait(request)
        assert request.sender.num_finals == 1
        errors = [response.has_error() for response in request.sender.all]
        assert not any(errors[:-1]), "a response after the error"
