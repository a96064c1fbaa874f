"""Structured output, adapters and speculation of SmolLM2 through one real server."""

from __future__ import annotations

import json
import re
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jsonschema
import peft
import pytest
import torch
from transformers import AutoModelForCausalLM

from atoll.catalogue import Entry
from atoll.launcher import ServerOptions, ServerProcess
from atoll.text.tokenizer import Tokenizer
from atoll.weights.files import resolve

MODEL = "smollm2-features"
MODEL_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"
COUNT = 16
COUNTING = "1, 2, 3, 1, 2, 3, 1, 2,"
PROMPTS = (COUNTING, "The quick brown fox", "La mer est")
# name -> peft's options; ranks, scales and layers differ.
ADAPTERS: dict[str, dict[str, Any]] = {
    "wide": {"r": 8, "lora_alpha": 16, "target_modules": ["q_proj", "v_proj", "down_proj"]},
    "thin": {"r": 2, "lora_alpha": 8, "target_modules": ["o_proj", "up_proj"], "use_rslora": True},
}

Ask = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def references(tmp_path_factory: pytest.TempPathFactory) -> dict[str | None, Any]:
    """Folders by adapter's name -> peft's model; None -> transformers' without an adapter."""
    folder = resolve(MODEL_ID)
    root = tmp_path_factory.mktemp("adapters")
    found: dict[str | None, Any] = {}
    for name in (None, *ADAPTERS):
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        if name is not None:
            config = peft.LoraConfig(task_type="CAUSAL_LM", **ADAPTERS[name])
            model = peft.get_peft_model(model, config).eval()
            generator = torch.Generator().manual_seed(len(name) + config.r)
            for key, parameter in model.named_parameters():
                if "lora_" in key:
                    parameter.data = torch.randn(parameter.shape, generator=generator) * 0.03
            model.save_pretrained(root / name)
        found[name] = model
    found["folder"] = root
    return found


@pytest.fixture(scope="module")
def server(references: dict[str | None, Any]) -> Iterator[ServerProcess]:
    adapters = ",".join(f"{name}={references['folder'] / name}" for name in ADAPTERS)
    entry = Entry(
        MODEL, MODEL_ID, "generate", "llama",
        settings={"speculate": "4", "lora_adapters": adapters},
    )  # fmt: skip
    options = ServerOptions.on_free_ports(entries=(entry,), exit_timeout_s=3, watch_interval_s=0.0)
    with ServerProcess(options) as started:
        yield started


@pytest.fixture(scope="module")
def ask(server: ServerProcess) -> Ask:
    def post(text: str, **options: Any) -> dict[str, Any]:
        body = {
            "text_input": text, "return_token_ids": True, "return_finish_reason": True,
            "sampling_parameters": json.dumps(options),
        }  # fmt: skip
        url = f"{server.http_url}/v2/models/{MODEL}/generate"
        request = urllib.request.Request(url, json.dumps(body).encode())
        with urllib.request.urlopen(request, timeout=60) as response:
            found: dict[str, Any] = json.loads(response.read())
        return found

    return post


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.load(Path(resolve(MODEL_ID)))


def metric(server: ServerProcess, name: str) -> float:
    with urllib.request.urlopen(server.metrics_url, timeout=10) as response:
        text = response.read().decode()
    found = re.search(rf'^{name}{{model="{MODEL}"}} (\S+)$', text, re.MULTILINE)
    assert found is not None, name
    return float(found.group(1))


@torch.inference_mode()
def greedy(reference: Any, prompts: list[list[int]], answers: list[list[int]]) -> list[list[int]]:
    """What the reference finds most likely at each place of each answer.

    Equal to the answers, by induction, where those are the reference's greedy ones. Padding on the
    right changes nothing to its left.
    """
    texts = [prompt + ids for prompt, ids in zip(prompts, answers, strict=True)]
    width = max(map(len, texts))
    padded = torch.tensor([ids + [0] * (width - len(ids)) for ids in texts])
    best = reference(input_ids=padded).logits.argmax(-1).tolist()
    return [
        row[len(prompt) - 1 : len(text) - 1]
        for row, prompt, text in zip(best, prompts, texts, strict=True)
    ]


def test_guesses_and_adapters_in_one_batch(
    server: ServerProcess, ask: Ask, references: dict[str | None, Any], tokenizer: Tokenizer
) -> None:
    """Speculation is on: answers are peft's and transformers' greedy ones, in fewer steps."""
    cases = [(prompt, name) for prompt in PROMPTS for name in (None, *ADAPTERS)]

    def answer(case: tuple[str, str | None]) -> list[int]:
        options = {} if case[1] is None else {"adapter_id": case[1]}
        ids = ask(case[0], max_tokens=COUNT, ignore_eos=True, **options)["token_ids"]
        return [int(token) for token in ids]

    with ThreadPoolExecutor(len(cases)) as threads:
        answers = dict(zip(cases, threads.map(answer, cases), strict=True))
    for name in (None, *ADAPTERS):
        found = [answers[prompt, name] for prompt in PROMPTS]
        assert [len(ids) for ids in found] == [COUNT] * len(PROMPTS)
        assert greedy(references[name], [*map(tokenizer.encode, PROMPTS)], found) == found, name
    for prompt in PROMPTS[1:]:
        assert len({tuple(answers[prompt, name]) for name in (None, *ADAPTERS)}) == 3
    steps = metric(server, "atoll_engine_steps_total")
    assert answer((COUNTING, None)) == answers[COUNTING, None]
    assert metric(server, "atoll_accepted_tokens_total") > 0
    assert metric(server, "atoll_engine_steps_total") - steps < COUNT


def test_unknown_adapters_are_refused(ask: Ask) -> None:
    with pytest.raises(urllib.error.HTTPError) as caught:
        ask("x", adapter_id="none")
    assert caught.value.code == 400
    assert "adapter_id is 'none'; known: wide, thin" in caught.value.read().decode()


def _object(**properties: Any) -> dict[str, Any]:
    return {
        "type": "object", "properties": properties, "required": list(properties),
        "additionalProperties": False,
    }  # fmt: skip


def _schemas() -> list[dict[str, Any]]:
    """Fifty: ten shapes over five leaves, each with an end, since a small model finds none."""
    leaves: list[dict[str, Any]] = [
        {"type": "string", "maxLength": 6},
        {"type": "integer", "minimum": -9, "maximum": 120},
        {"type": "boolean"},
        {"enum": ["red", "green", 3, None]},
        {"type": "string", "pattern": "^[a-f]{2}-[0-9]{2}$"},
    ]
    shapes: list[Callable[[dict[str, Any]], dict[str, Any]]] = [
        lambda leaf: leaf,
        lambda leaf: _object(value=leaf),
        lambda leaf: _object(first=leaf, second=leaf),
        lambda leaf: {"type": "array", "items": leaf, "minItems": 1, "maxItems": 2},
        lambda leaf: _object(list={"type": "array", "items": leaf, "maxItems": 2}),
        lambda leaf: _object(inner=_object(deep=leaf)),
        lambda leaf: {"anyOf": [leaf, {"const": "none"}]},
        lambda leaf: {**_object(a=leaf, b={"type": "null"}), "required": ["a"]},
        lambda leaf: {"$defs": {"leaf": leaf}, **_object(item={"$ref": "#/$defs/leaf"})},
        lambda leaf: {"type": "array", "prefixItems": [leaf, {"const": 1}], "items": False,
                      "minItems": 2},
    ]  # fmt: skip
    return [shape(leaf) for shape in shapes for leaf in leaves]


def test_answers_follow_fifty_schemas(ask: Ask) -> None:
    """At once, half of them sampled; each answer parses, validates and ends by itself."""
    schemas = _schemas()
    assert len({json.dumps(schema) for schema in schemas}) == 50

    def answer(index: int) -> dict[str, Any]:
        sampled = {"temperature": 1.0, "seed": index} if index % 2 else {}
        return ask(
            "A JSON document about the sea:", max_tokens=96, guided_json=schemas[index], **sampled
        )

    with ThreadPoolExecutor(16) as threads:
        answers = list(threads.map(answer, range(len(schemas))))
    for schema, found in zip(schemas, answers, strict=True):
        assert found["finish_reason"] == "stop", (schema, found)
        jsonschema.Draft202012Validator(schema).validate(json.loads(found["text_output"]))
