"""Adapters, speculation, grammars and lost conversations through a real server."""

from __future__ import annotations

import json
import queue
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
import torch
import transformers as hf
import tritonclient.grpc as triton
from adapters import save_adapter
from measured import metrics, settled, wait_for
from serving import ONE_THREAD

from atoll.catalogue import ENTRIES, entry_for, read_model
from atoll.launcher import ServerOptions, ServerProcess
from atoll.weights.files import resolve

MODEL = "smollm2-135m-instruct"
COUNT = 24
LEAF: dict[str, dict[str, Any]] = {
    "integer": {"type": "integer", "minimum": 0, "maximum": 99},
    "word": {"type": "string", "maxLength": 6},
    "flag": {"type": "boolean"},
    "choice": {"enum": ["red", "green", "blue"]},
    "constant": {"const": 7},
    "code": {"type": "string", "pattern": "^[A-Z]{2}[0-9]{2}$"},
    "either": {"anyOf": [{"type": "boolean"}, {"type": "null"}]},
    "date": {"type": "string", "pattern": "^20[0-9]{2}-0[1-9]$"},
}


def _object(**properties: Any) -> dict[str, Any]:
    return {
        "type": "object", "properties": properties, "required": list(properties),
        "additionalProperties": False,
    }  # fmt: skip


def _array(items: Any, least: int, most: int) -> dict[str, Any]:
    return {"type": "array", "items": items, "minItems": least, "maxItems": most}


_NAMES = list(LEAF)
SCHEMAS = [
    *LEAF.values(),
    *(_object(value=leaf) for leaf in LEAF.values()),
    *(_array(leaf, 1, 2) for leaf in LEAF.values()),
    *(_object(a=LEAF[a], b=LEAF[b]) for a, b in zip(_NAMES, _NAMES[1:] + _NAMES[:1], strict=True)),
    *(_object(inner=_object(x=leaf)) for leaf in LEAF.values()),
    *(_array(_object(x=leaf), 0, 2) for leaf in LEAF.values()),
    {"$defs": {"n": LEAF["integer"]}, **_object(low={"$ref": "#/$defs/n"})},
    {"anyOf": [_object(yes=LEAF["flag"]), _object(no=LEAF["integer"])]},
]


@pytest.fixture(scope="module")
def adapted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str | None, Any]]:
    """A folder with a small Llama in "base", and peft's models by adapter."""
    root = tmp_path_factory.mktemp("lora")
    torch.manual_seed(0)
    config = hf.LlamaConfig(
        vocab_size=49152, hidden_size=64, intermediate_size=96, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=256,
        initializer_range=0.3,
    )  # fmt: skip
    model = hf.LlamaForCausalLM(config).eval()
    model.save_pretrained(root / "base")
    hf.AutoTokenizer.from_pretrained(str(resolve("HuggingFaceTB/SmolLM2-135M-Instruct"))
    ).save_pretrained(root / "base")  # fmt: skip
    found: dict[str | None, Any] = {None: model}
    targets = ["q_proj", "v_proj"]
    for seed, name in enumerate("ab"):
        found[name] = save_adapter(root / "base", root / name, seed, targets, r=4)
    return root, found


@pytest.fixture(scope="module")
def server(adapted: tuple[Path, Any]) -> Iterator[ServerProcess]:
    """The small Llama with adapters, and SmolLM2 that guesses and forgets conversations at once."""
    root, _ = adapted
    base = entry_for(str(root / "base"), read_model(root / "base"), name="adapted")
    smollm2 = next(entry for entry in ENTRIES if entry.name == MODEL)
    entries = (
        replace(base, settings={"lora_adapters": f"a={root / 'a'},b={root / 'b'}"}),
        replace(
            smollm2,
            settings={"speculate": "4", "session_timeout_s": "0.2", "prefix_caching": "false"},
        ),
    )
    options = ServerOptions.on_free_ports(
        entries=entries, exit_timeout_s=3, watch_interval_s=0.0, environment=ONE_THREAD
    )
    with ServerProcess(options) as process:
        yield process


def ask(server: ServerProcess, model: str, **body: Any) -> dict[str, Any]:
    url = f"{server.http_url}/v2/models/{model}/generate"
    request = urllib.request.Request(url, json.dumps(body).encode())
    with urllib.request.urlopen(request, timeout=120) as response:
        found: dict[str, Any] = json.loads(response.read())
    return found


def test_adapters_equal_peft(server: ServerProcess, adapted: tuple[Path, Any]) -> None:
    """Two adapters and none, asked for at once."""
    prompt = [100, 200, 300, 400]

    @torch.inference_mode()
    def expected(model: Any) -> list[int]:
        ids = list(prompt)
        for _ in range(COUNT):
            ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
        return ids[len(prompt) :]

    def found(adapter: str | None) -> list[int]:
        chosen = {} if adapter is None else {"adapter_id": adapter}
        body = {"max_tokens": COUNT, "ignore_eos": True, "return_token_ids": True, **chosen}
        return list(ask(server, "adapted", input_ids=prompt, **body)["token_ids"])

    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(found, [None, "a", "b"] * 2))
    references = [expected(adapted[1][name]) for name in (None, "a", "b")]
    assert answers == references * 2
    assert len({tuple(answer) for answer in references}) == 3


def test_info_names_the_adapters_that_run(server: ServerProcess) -> None:
    def info() -> dict[str, Any]:
        answer = ask(server, "adapted", input_ids=[1], control=json.dumps({"op": "info"}))
        found: dict[str, Any] = json.loads(answer["control"])
        return found

    def run(adapter: str) -> None:
        body = {"max_tokens": 100, "ignore_eos": True, "adapter_id": adapter}
        ask(server, "adapted", input_ids=[100, 200], **body)

    idle = info()
    assert (idle["running_adapters"], idle["waiting_adapters"]) == ([], [])
    assert idle["num_blocks"] * idle["block_size"] >= idle["max_total_tokens"]
    with ThreadPoolExecutor(2) as pool:
        held = [pool.submit(run, name) for name in "ba"]
        seen: set[str] = set()
        while not all(one.done() for one in held):
            seen |= set(info()["running_adapters"])
    assert seen == {"a", "b"}


def test_speculation_changes_nothing(server: ServerProcess, embedded_server: ServerProcess) -> None:
    """A text that repeats itself, so that there is something to guess; greedy and sampled."""
    text = "one two three four five, one two three four five, one two three"
    for options in ({}, {"temperature": 0.3, "seed": 5}):
        body = {"text_input": text, "max_tokens": 32, "return_token_ids": True, **options}
        assert ask(server, MODEL, **body) == ask(embedded_server, MODEL, **body)
    wait_for(server, MODEL, "atoll_accepted_tokens_total", lambda tokens: tokens > 5)


def test_lost_conversations_are_computed_again(
    server: ServerProcess, embedded_server: ServerProcess
) -> None:
    """Idle blocks are freed; the next turn's answer is the same, from the text."""

    def turn(text: str, **flags: bool) -> str:
        client = triton.InferenceServerClient(server.grpc_url)
        answers: queue.Queue[Any] = queue.Queue()
        client.start_stream(lambda result, error: answers.put(error or result))
        tensor = triton.InferInput("text_input", [1], "BYTES")
        tensor.set_data_from_numpy(np.array([text.encode()], dtype=object))
        client.async_stream_infer(f"{MODEL}-session", [tensor], sequence_id="lost", **flags)
        found = answers.get(timeout=60)
        client.stop_stream()
        client.close()
        return str(found.as_numpy("text_output")[0].decode())

    first, second = "Once upon a time there was a king who lived in", " The queen, however,"
    said = first + turn(first, sequence_start=True)
    # The page shows it within a second: if it was not seen to rise, it has come and gone.
    ends = time.monotonic() + 3
    while not metrics(server, MODEL).get("atoll_conversations") and time.monotonic() < ends:
        time.sleep(0.05)
    wait_for(server, MODEL, "atoll_conversations", lambda conversations: conversations == 0)
    before = settled(server, MODEL)
    answer = turn(second, sequence_end=True)
    assert answer == ask(embedded_server, MODEL, text_input=said + second)["text_output"]
    name = "atoll_prefix_hit_tokens_total"
    assert settled(server, MODEL)[name] == before[name]


def test_50_schemas_are_followed(embedded_server: ServerProcess) -> None:
    """SmolLM2's answers parse and validate, 25 schemas at a time."""
    assert len(SCHEMAS) == 50

    def answer(schema: dict[str, Any]) -> str:
        messages = [{"role": "user", "content": "Answer in JSON."}]
        body = {"messages": json.dumps(messages), "max_tokens": 64, "temperature": 0.7, "seed": 1}
        sampling = json.dumps({"guided_json": schema})
        found = ask(
            embedded_server, MODEL, **body, sampling_parameters=sampling, return_finish_reason=True
        )
        assert found["finish_reason"] == "stop", (schema, found)
        return str(found["text_output"])

    with ThreadPoolExecutor(25) as pool:
        for schema, text in zip(SCHEMAS, pool.map(answer, SCHEMAS), strict=True):
            jsonschema.validate(json.loads(text), schema)


def test_tgis_options_reach_the_engine(embedded_server: ServerProcess) -> None:
    """Each under TGI's name, and each seen in the answer."""
    body = {"text_input": "one two one two one two", "max_tokens": 8, "return_token_ids": True}
    plain = ask(embedded_server, MODEL, **body)

    def changed(**options: Any) -> dict[str, Any]:
        return ask(embedded_server, MODEL, **body, sampling_parameters=json.dumps(options))

    details = ask(
        embedded_server, MODEL, **body, return_logprobs=True, return_prompt_logprobs=True,
        sampling_parameters=json.dumps({"top_n_tokens": 3, "decoder_input_details": True}),
    )  # fmt: skip
    assert [len(entry) for entry in json.loads(details["logprobs"])] == [3] * 8
    prompt = [next(iter(entry.values())) for entry in json.loads(details["prompt_logprobs"])]
    assert "".join(token["decoded_token"] for token in prompt) == body["text_input"]
    assert prompt[0]["logprob"] is None and all(token["logprob"] < 0 for token in prompt[1:])
    ids = changed(no_repeat_ngram_size=1, ignore_eos=True)["token_ids"]
    assert len(set(ids)) == len(ids)
    assert changed(watermark=True)["token_ids"] != plain["token_ids"]
    assert changed(logit_bias={str(plain["token_ids"][0]): -100})["token_ids"] != plain["token_ids"]
    assert len(changed(best_of=2, n=2, temperature=1.0)["text_output"]) == 2
