"""A key that a JSON object has twice: refused by name, on every route that takes a body."""

from __future__ import annotations

import gzip
import json
from typing import Any

import httpx
import pytest
from gateways import EMBEDDER, GENERATOR, Served

from atoll_client.errors import MalformedRequest
from atoll_client.gateway.json_text import parse
from atoll_client.gateway.routes import ROUTES

EXAMPLES = {route.path: route.example for route in ROUTES if route.example and route.body}
KSERVE: dict[str, Any] = {
    f"/v2/models/{EMBEDDER}/infer": {
        "parameters": {"truncate": False},
        "inputs": [{"name": "text_input", "shape": [1, 1], "datatype": "BYTES", "data": ["a: b"]}],
    },
    **{
        f"/v2/models/{GENERATOR}/{end}": {"text_input": "a: b", "parameters": {"max_tokens": 1}}
        for end in ("generate", "generate_stream")
    },
}


def _twice(value: Any, name: str, other: str = "1") -> str:
    """JSON of a value in which each object has one key more, and that twice."""
    if isinstance(value, list):
        return f"[{', '.join(_twice(one, name, other) for one in value)}]"
    if not isinstance(value, dict):
        return json.dumps(value)
    members = [f"{json.dumps(key)}: {_twice(one, name, other)}" for key, one in value.items()]
    joined = ", ".join([*members, f'"{name}": 0', f'"{name}": {other}'])
    return f"{{{joined}}}"


@pytest.mark.parametrize("path", [*EXAMPLES, *KSERVE])
def test_every_route_refuses(http: httpx.Client, path: str) -> None:
    """The last value was taken, and the first not spoken of."""
    given = {**EXAMPLES, **KSERVE}[path]
    first = next(iter(given))
    for body in (
        json.dumps(given)[:-1] + f', "{first}": null}}',
        json.dumps(given)[:-1] + ', "m": {"a": [{"\\u0062": 1, "c": ":", "b": 1}]}}',
        _twice(given, "max_tokens"),
    ):
        name = first if "null" in body else "b" if '"m"' in body else "max_tokens"
        answer = http.post(path, content=body, headers={"content-type": "application/json"})
        assert answer.status_code == 400, answer.text
        assert f"the key '{name}' is given twice" in answer.text
        if path.startswith(("/v1", "/embeddings")) and not path.startswith("/v1/messages"):
            assert answer.json()["error"]["param"] == name


def test_refused_before_a_stream_and_in_zipped_bodies(http: httpx.Client) -> None:
    body = '{"messages": [{"role": "user", "content": "Hi", "role": "system"}], "stream": true}'
    answer = http.post("/v1/chat/completions", content=body)
    assert answer.status_code == 400 and "'role' is given twice" in answer.text
    path = f"/v2/models/{GENERATOR}/generate"
    zipped = gzip.compress(b'{"text_input": "a", "text_input": "b"}')
    answer = http.post(path, content=zipped, headers={"content-encoding": "gzip"})
    assert answer.status_code == 400 and "'text_input' is given twice" in answer.text


@pytest.mark.parametrize("parameters", ['"max_tokens": 1', '"max_tokens": 1, "seed": 3'])
def test_tritons_own_routes_refuse(served: Served, parameters: str) -> None:
    """Parameters that the gateway does not see: Triton passes both on."""
    url = f"{served.server.http_url}/v2/models"
    again = f'{{"parameters": {{{parameters}, "max_tokens": 2}}, '
    body = again + '"text_input": "a"}'
    answer = httpx.post(f"{url}/{GENERATOR}/generate", content=body, timeout=60)
    assert answer.status_code == 400 and "'max_tokens' is given twice" in answer.text, answer.text
    tensor = {"name": "text_input", "shape": [1, 1], "datatype": "BYTES", "data": ["a"]}
    again = '{"parameters": {"normalize": true, "normalize": false}, '
    body = again + f'"inputs": [{json.dumps(tensor)}]}}'
    answer = httpx.post(f"{url}/{EMBEDDER}/infer", content=body, timeout=60)
    assert answer.status_code == 400 and "'normalize' is given twice" in answer.text, answer.text


@pytest.mark.parametrize("name", ["sampling_parameters", "messages", "tools", "response_format"])
def test_json_in_texts(http: httpx.Client, name: str) -> None:
    """Tensors and options that hold JSON themselves lost the first value, too."""
    messages = '[{"role": "user", "content": "Hi"}]'
    texts = {
        "sampling_parameters": '{"top_k": 1, "top_k": 2}',
        "messages": messages[:-2] + ', "content": "Ho"}]',
        "tools": '[{"type": "function", "function": {"name": "f", "name": "g"}}]',
        "response_format": '{"type": "json_object", "type": "text"}',
    }
    inputs = {"messages": messages} if name == "tools" else {}
    if name in ("sampling_parameters", "response_format"):
        inputs = {"text_input": "Hi"}
    body = {**inputs, name: texts[name], "max_tokens": 1}
    answer = http.post(f"/v2/models/{GENERATOR}/generate", json=body)
    assert answer.status_code == 400 and "is given twice" in answer.text, answer.text
    assert name in answer.text


@pytest.mark.parametrize(
    "text",
    ['{"a": {"a": ":", "b": {"a": 1}}}', '[{"a": 1}, {"a": 1}]', '{"a:": "\\u003a"}', '"a:b"',
     '{"": {}, " ": {}}', '{"a": 1, "A": 2, "\\u00e5": 3, "a\\u030a": 4}', "{}", "[]", "1"],
)  # fmt: skip
def test_others_are_read(text: str) -> None:
    assert parse(text.encode()) == json.loads(text)


def test_a_long_body_with_one_key_at_both_ends() -> None:
    keys = ", ".join(f'"{at}": {{}}' for at in range(200_000))
    with pytest.raises(MalformedRequest, match="the key '199999' is given twice"):
        parse(f'{{{keys}, "199999": 0}}'.encode())
    with pytest.raises(MalformedRequest, match="the key 'a' is given twice"):
        parse(b'{"a": "%s", "b": 1, "a": 2}' % (b"x:" * 500_000))


def test_nesting_that_is_too_deep() -> None:
    with pytest.raises(MalformedRequest, match="JSON"):
        parse(b'{"a":[' * 1_020 + b'":"' + b"]}" * 1_020)
